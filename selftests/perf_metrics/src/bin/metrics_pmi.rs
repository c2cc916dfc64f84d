// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! An overflow of fixed counter 3 raises the guest's performance-monitoring
//! interrupt, and sets the counter's bit in IA32_PERF_GLOBAL_STATUS and, if metrics
//! count, theirs. The status stays in the guest, over exits to user space, until it
//! is reset. Exact.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::guest::{Guest, TIMER_VECTOR, Vcpu};
use harness::msr_device::{MsrDevice, Way};
use harness::{cpu, ktap, note};
use perf_metrics::guest::vcpu;
use perf_metrics::metrics::require;
use perf_metrics::{msr, pmu_code};

const CPU: usize = 0;
const LVT_MASKED: u64 = 1 << 16;

pmu_code! {
    /// Counts RDI to overflow with IA32_PERF_GLOBAL_CTRL RSI. R8 has the status, R9
    /// the lowest word of interrupts pending, R10 the LVT entry; then after an exit
    /// R8 has the status again, and R11 after a reset. R12 has the interrupts pending
    /// after they were let in.
    overflow:
        "cli"
        "mov r14, 0x1ff"
        "wrmsr64 0x80f, r14"    // spurious-interrupt vector: enable
        "mov r14, 0x20"
        "wrmsr64 0x834, r14"    // LVT performance counters
        "topdown_zero"
        "wrmsr64 0x30c, rdi"
        "wrmsr_value 0x329, 0"
        "wrmsr_value 0x38d, 0xb000"
        "wrmsr64 0x38f, rsi"
        "burn 40000"
        "stop"
        "rdmsr64 0x38e, r8"
        "rdmsr64 0x821, r9"
        "rdmsr64 0x834, r10"
        "exit"
        "rdmsr64 0x38e, r8"
        "wrmsr64 0x390, r8"
        "rdmsr64 0x38e, r11"
        "sti"
        "nop"
        "cli"
        "rdmsr64 0x821, r12"
        "exit"
}

/// Some 100,000 slots before the counter overflows, at 5 a cycle.
const NEARLY: u64 = (1 << 48) - 100_000;

fn prepare(slots: u64, global_ctrl: u64) -> Result<(Guest, Vcpu)> {
    require()?;
    cpu::pin(CPU)?;
    let guest = Guest::with_irqchip(overflow())?;
    let vcpu = vcpu(&guest)?;
    let mut regs = vcpu.regs()?;
    (regs.rdi, regs.rsi) = (slots, global_ctrl);
    vcpu.fd().set_regs(&regs)?;
    Ok((guest, vcpu))
}

fn expect_status(global_ctrl: u64, expected: u64) -> Result<()> {
    let (_guest, mut vcpu) = prepare(NEARLY, global_ctrl)?;
    let regs = vcpu.run()?;
    let host = MsrDevice::open(CPU)?.read(Way::Offset, msr::PERF_GLOBAL_STATUS)?;
    note!(
        "status {:#x}, in the host {host:#x}; pending {:#x}, LVT {:#x}",
        regs.r8,
        regs.r9,
        regs.r10
    );
    ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);
    ensure!(regs.r8 == expected, "the status is not {expected:#x}");
    ensure!(host == 0, "the status is in the host");
    ensure!(
        (regs.r9 >> (TIMER_VECTOR % 32)) & 1 != 0,
        "there is no interrupt"
    );
    ensure!(
        regs.r10 == LVT_MASKED | TIMER_VECTOR,
        "the LVT is not masked"
    );

    let regs = vcpu.run()?;
    note!(
        "later {:#x}, reset {:#x}, pending {:#x}",
        regs.r8,
        regs.r11,
        regs.r12
    );
    ensure!(regs.r8 == expected, "the status was lost");
    ensure!(regs.r11 == 0, "the status was not reset");
    ensure!(regs.r12 == 0, "the guest did not take the interrupt");
    Ok(())
}

fn of_slots() -> Result<()> {
    expect_status(msr::GLOBAL_FIXED_CTR3, msr::GLOBAL_FIXED_CTR3)
}

fn of_slots_and_metrics() -> Result<()> {
    let both = msr::GLOBAL_FIXED_CTR3 | msr::GLOBAL_PERF_METRICS;
    expect_status(both, both)
}

fn no_overflow() -> Result<()> {
    let (_guest, mut vcpu) = prepare(0, msr::GLOBAL_FIXED_CTR3 | msr::GLOBAL_PERF_METRICS)?;
    let regs = vcpu.run()?;
    ensure!(
        [regs.r8, regs.r9, regs.r10] == [0, 0, TIMER_VECTOR],
        "status {:#x}, pending {:#x}, LVT {:#x}",
        regs.r8,
        regs.r9,
        regs.r10
    );
    Ok(())
}

fn main() -> ExitCode {
    ktap::run(&[
        ("an overflow of slots", of_slots),
        (
            "an overflow of slots with their metrics",
            of_slots_and_metrics,
        ),
        ("no overflow", no_overflow),
    ])
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Values that the CPU does not take: a guest's WRMSR gets #GP and changes nothing.
//! User space may set any, as it cannot know which metrics a CPU has; where the CPU
//! refuses, the guest's metrics are zero, and the host's kernel has nothing to say. A
//! reset leaves zero.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::guest::{Guest, cpuid};
use harness::{cpu, kernel, ktap, note};
use perf_metrics::guest::vcpu;
use perf_metrics::metrics::require;
use perf_metrics::{msr, pmu_code};

pmu_code! {
    /// Writes RDI to MSR ESI on each run, with R15 #GPs so far, and reads to R8.
    write:
        "2:"
        "mov ecx, esi"
        "mov rax, rdi"
        "mov rdx, rax"
        "shr rdx, 32"
        "wrmsr"
        "mov ecx, esi"
        "rdmsr"
        "shl rdx, 32"
        "lea r8, [rdx + rax]"
        "exit"
        "jmp 2b"
}

/// MSRs, a value that each takes, and bits that it does not.
const CASES: [(u32, u64, &[u32]); 4] = [
    // Without slots there are no metrics.
    (msr::FIXED_CTR3, 1_000_000, &[48, 63]),
    (msr::PERF_METRICS, 0x4c33_1a66, &[32, 40, 63]),
    (
        msr::PERF_GLOBAL_CTRL,
        msr::GLOBAL_PERF_METRICS | msr::GLOBAL_FIXED_CTR0,
        &[8, 31, 36, 47, 49, 63],
    ),
    (msr::FIXED_CTR_CTRL, 0xb000, &[14, 16, 63]),
];

fn by_the_guest() -> Result<()> {
    require()?;
    cpu::pin(0)?;
    let guest = Guest::with_irqchip(write())?;
    let mut vcpu = vcpu(&guest)?;
    let mut faults = 0;
    for (msr, good, bad_bits) in CASES {
        let bad_values = bad_bits.iter().map(|bit| good ^ (1 << bit));
        for value in [good].into_iter().chain(bad_values) {
            let mut regs = vcpu.regs()?;
            (regs.rdi, regs.rsi) = (value, msr.into());
            vcpu.fd().set_regs(&regs)?;
            let regs = vcpu.run()?;
            let faulted = regs.r15 != faults;
            faults = regs.r15;
            note!(
                "{value:#x} to MSR {msr:#x}: #GP {faulted}, then {:#x}",
                regs.r8
            );
            ensure!(faulted == (value != good), "#GP {faulted}");
            ensure!(regs.r8 == good, "the value changed");
        }
    }
    Ok(())
}

pmu_code! {
    /// The metrics to R8 and R9.
    read:
        "rdmsr64 0x329, r8"
        "rdpmc64 0x20000000, r9"
        "exit"
}

fn by_user_space() -> Result<()> {
    require()?;
    cpu::pin(0)?;
    for (value, expected) in [(0x4c33_1a66, 0x4c33_1a66), (u64::MAX, 0), (1 << 32, 0)] {
        let guest = Guest::with_irqchip(read())?;
        let mut vcpu = vcpu(&guest)?;
        vcpu.set_msr(msr::FIXED_CTR3, 1_000_000)?;
        vcpu.set_msr(msr::PERF_METRICS, value)?;
        ensure!(
            vcpu.msr(msr::PERF_METRICS)? == Some(value),
            "not what was set"
        );
        let regs = vcpu.run()?;
        note!("{value:#x} by user space: {:#x} in the guest", regs.r8);
        ensure!(
            [regs.r8, regs.r9, regs.r15] == [expected, expected, 0],
            "RDMSR {:#x}, RDPMC {:#x}",
            regs.r8,
            regs.r9
        );
    }
    kernel::expect_no_warning()
}

/// KVM resets a vCPU's PMU whenever it is told what the vCPU has.
fn by_reset() -> Result<()> {
    require()?;
    let guest = Guest::with_irqchip(read())?;
    let mut vcpu = vcpu(&guest)?;
    let cpuid = cpuid::with_pair(guest.kvm())?;
    vcpu.set_msr(msr::FIXED_CTR3, 1_000_000)?;
    vcpu.set_msr(msr::PERF_METRICS, 0x4c33_1a66)?;
    vcpu.fd().set_cpuid2(&cpuid)?;
    ensure!(
        vcpu.msr(msr::PERF_METRICS)? == Some(0),
        "user space sees metrics after a reset"
    );
    let regs = vcpu.run()?;
    ensure!(
        [regs.r8, regs.r9, regs.r15] == [0, 0, 0],
        "the guest sees {:#x} after a reset",
        regs.r8
    );
    Ok(())
}

fn main() -> ExitCode {
    ktap::run(&[
        ("a guest gets #GP", by_the_guest),
        (
            "user space may set what this CPU does not have",
            by_user_space,
        ),
        ("a reset leaves zero", by_reset),
    ])
}

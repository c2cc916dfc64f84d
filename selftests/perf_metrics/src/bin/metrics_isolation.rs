// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Nothing of a guest's PMU is in the MSRs while the host has the CPU, and nothing of
//! the host's in the guest: slots, metrics, their control and status. vCPUs that take
//! turns on a CPU keep what is theirs. Exact.

use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;

use anyhow::{Result, ensure};
use harness::guest::{Guest, Vcpu};
use harness::msr_device::{MsrDevice, Way};
use harness::{cpu, ktap, note};
use perf_metrics::guest::{vcpu, vcpu_without_metrics};
use perf_metrics::metrics::require;
use perf_metrics::{msr, pmu_code};

const CPU: usize = 0;
const SLOTS: u64 = 0x1234_5678;
const METRICS: u64 = 0x4c33_1a66;

pmu_code! {
    /// Takes RDI for its slots, and RSI for its metrics if that is not zero, and
    /// leaves everything set.
    leave_everything:
        "wrmsr64 0x30c, rdi"
        "test rsi, rsi"
        "jz 2f"
        "wrmsr64 0x329, rsi"
        "2:"
        "wrmsr_value 0x38d, 0xb000"
        "wrmsr_value 0x38f, 0x800000000"
        "exit"
        "stop"
        "rdpmc64 0x40000003, r8"
        "exit"
}

pmu_code! {
    /// Metrics to R8 and R9, slots to R10, before anything was written.
    read_first:
        "rdmsr64 0x329, r8"
        "rdpmc64 0x20000000, r9"
        "rdpmc64 0x40000003, r10"
        "exit"
}

pmu_code! {
    /// Takes RDI for its slots and RSI for its metrics. Then 200 times: reads, counts
    /// strange values in R12, halts 200 us.
    hold_and_halt:
        "cli"
        "timer_one_shot"
        "wrmsr64 0x30c, rdi"
        "wrmsr64 0x329, rsi"
        "mov r14, 200000"
        "mov r13, 200"

        "2:"
        "rdpmc64 0x40000003, r8"
        "rdmsr64 0x329, r9"
        "cmp r8, rdi"
        "je 3f"
        "inc r12"
        "3:"
        "cmp r9, rsi"
        "je 4f"
        "inc r12"
        "4:"
        "burn 4000"
        "sleep r14"
        "dec r13"
        "jnz 2b"
        "exit"
}

fn set_arguments(vcpu: &Vcpu, slots: u64, metrics: u64) -> Result<()> {
    let mut regs = vcpu.regs()?;
    (regs.rdi, regs.rsi) = (slots, metrics);
    Ok(vcpu.fd().set_regs(&regs)?)
}

fn expect_nothing_left(slots: u64, metrics: u64, create: fn(&Guest) -> Result<Vcpu>) -> Result<()> {
    require()?;
    cpu::pin(CPU)?;
    let device = MsrDevice::open(CPU)?;
    let guest = Guest::with_irqchip(leave_everything())?;
    let mut vcpu = create(&guest)?;
    set_arguments(&vcpu, slots, metrics)?;
    let regs = vcpu.run()?;
    ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);

    for msr in [
        msr::FIXED_CTR3,
        msr::PERF_METRICS,
        msr::FIXED_CTR_CTRL,
        msr::PERF_GLOBAL_STATUS,
    ] {
        let value = device.read(Way::Offset, msr)?;
        note!("MSR {msr:#x} in the host: {value:#x}");
        ensure!(value == 0, "the guest left MSR {msr:#x}");
    }
    let resumed = vcpu.run()?.r8;
    note!("slots in the guest later: {resumed:#x}");
    ensure!(
        (slots..slots + 10_000).contains(&resumed),
        "the guest lost its slots"
    );
    Ok(())
}

fn nothing_left() -> Result<()> {
    expect_nothing_left(SLOTS, METRICS, vcpu)
}

/// The metrics follow the slots even where the guest has only these.
fn nothing_left_of_slots() -> Result<()> {
    expect_nothing_left(SLOTS, 0, vcpu_without_metrics)
}

fn nothing_of_the_host() -> Result<()> {
    require()?;
    cpu::pin(CPU)?;
    let device = MsrDevice::open(CPU)?;
    let guest = Guest::with_irqchip(read_first())?;
    let mut vcpu = vcpu(&guest)?;
    device.write(Way::Offset, msr::FIXED_CTR3, SLOTS)?;
    device.write(Way::Offset, msr::PERF_METRICS, METRICS)?;
    let regs = vcpu.run()?;
    note!(
        "metrics {:#x}, {:#x}, slots {:#x}",
        regs.r8,
        regs.r9,
        regs.r10
    );
    ensure!(
        [regs.r8, regs.r9, regs.r10, regs.r15] == [0; 4],
        "the guest sees the host's values"
    );
    Ok(())
}

fn other_vcpus() -> Result<()> {
    require()?;
    let start = Barrier::new(2);
    let hold = |slots, metrics| -> Result<u64> {
        cpu::pin(CPU)?;
        let guest = Guest::with_irqchip(hold_and_halt())?;
        let mut vcpu = vcpu(&guest)?;
        set_arguments(&vcpu, slots, metrics)?;
        start.wait();
        let regs = vcpu.run()?;
        let switches = cpu::thread_switches();
        note!("guest with {slots:#x}: {switches} switches of its thread");
        ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);
        ensure!(regs.r12 == 0, "{} reads are not its own", regs.r12);
        Ok(switches)
    };
    let switches = thread::scope(|scope| {
        let other = scope.spawn(|| hold(SLOTS, METRICS));
        let this = scope.spawn(|| hold(SLOTS << 8, 0x0102_03f9));
        Ok::<_, anyhow::Error>(this.join().unwrap()? + other.join().unwrap()?)
    })?;
    ensure!(switches >= 200, "the guests did not take turns");
    Ok(())
}

fn main() -> ExitCode {
    ktap::run(&[
        ("a guest leaves nothing in the host", nothing_left),
        (
            "nor one that has slots without metrics",
            nothing_left_of_slots,
        ),
        ("the host leaves nothing in a guest", nothing_of_the_host),
        ("two vCPUs on one CPU keep their own", other_vcpus),
    ])
}

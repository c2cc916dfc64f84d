// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A guest and a user of perf in the host share a CPU's PMU: each counts its own, and
//! nothing of the other's.
//!
//! A guest's instructions: exact, however often it was preempted. Its slots: those of
//! the cycle in which a VM exit begins. Its metrics: exact, or one step if some of its
//! slots pass before it can change how they divide. perf's: two steps.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use harness::guest::Guest;
use harness::oracle::THIS_CPU;
use harness::{cpu, kernel, ktap, note};
use kvm_bindings::kvm_regs;
use perf_metrics::guest::vcpu;
use perf_metrics::metrics::{Division, FULL_SCALE, Metrics, require};
use perf_metrics::perf::Topdown;
use perf_metrics::pmu_code;

const CPU: usize = 0;
const GUESTS: Metrics = Metrics([150, 5, 60, 40]);
/// 5 slots for each of fewer than 100 exits.
const SLOTS_BOUND: u64 = 500;
const HOSTS: Metrics = Metrics([10, 120, 25, 100]);
/// How often the guest that counts by turns exits in between.
const TURNS: u64 = 20;

pmu_code! {
    /// Counts while it divides slots as RDI says: 4,000,000 instructions in one
    /// KVM_RUN. Metrics in R8, slots in R9, instructions in R10.
    count_at_once:
        "topdown_zero"
        "divide rdi"
        "topdown_count"
        "burn 4000000"
        "stop"
        "rdmsr64 0x329, r8"
        "rdpmc64 0x40000003, r9"
        "rdpmc64 0x40000000, r10"
        "exit"
}

pmu_code! {
    /// The same in 20 KVM_RUNs, without a stop in between.
    count_by_turns:
        "topdown_zero"
        "divide rdi"
        "topdown_count"
        "mov r14, 20"
        "2:"
        "divide rdi"
        "burn 200000"
        "exit"
        "dec r14"
        "jnz 2b"
        "stop"
        "rdmsr64 0x329, r8"
        "rdpmc64 0x40000003, r9"
        "rdpmc64 0x40000000, r10"
        "exit"
}

fn expect_guests(regs: &kvm_regs, bound: u8) -> Result<()> {
    let metrics = Metrics::from_raw(regs.r8)?;
    note!(
        "guest: {} slots, {} instructions, {metrics}",
        regs.r9,
        regs.r10
    );
    ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);
    ensure!(
        metrics.distance(GUESTS) <= bound && metrics.sum() == FULL_SCALE,
        "the guest's metrics are not {GUESTS}"
    );
    Ok(())
}

/// perf counts the very thread that runs the guest.
fn by_turns() -> Result<()> {
    require()?;
    cpu::pin(CPU)?;
    let _division = Division::set(THIS_CPU, HOSTS)?;
    let guest = Guest::with_irqchip(count_by_turns())?;
    let mut vcpu = vcpu(&guest)?;
    vcpu.set_argument(GUESTS.raw())?;

    let topdown = Topdown::of_host()?;
    let mut regs = kvm_regs::default();
    // The kernel's slots on the way to the guest and back divide like the guest's.
    let turn = kernel::cost(1_000_000);
    for _ in 0..=TURNS {
        regs = vcpu.run()?;
        let _hosts = Division::set(THIS_CPU, HOSTS)?;
        cpu::spin(turn);
    }
    expect_guests(&regs, 1)?;
    let (slots, metrics) = topdown.read()?;
    note!("host: {slots} slots, {metrics}");
    ensure!(slots >= TURNS * 5 * turn, "perf lost slots");
    ensure!(
        metrics.distance(HOSTS) <= 2 && metrics.sum().abs_diff(FULL_SCALE) <= 2,
        "perf's metrics are not {HOSTS}"
    );
    Ok(())
}

/// Runs the guest alone or beside a thread of the same CPU that perf counts.
fn run_at_once(disturbed: bool) -> Result<kvm_regs> {
    cpu::pin(CPU)?;
    let guest = Guest::with_irqchip(count_at_once())?;
    let mut vcpu = vcpu(&guest)?;
    vcpu.set_argument(GUESTS.raw())?;

    let stop = AtomicBool::new(!disturbed);
    let switches = cpu::thread_switches();
    let regs = thread::scope(|scope| {
        let other = scope.spawn(|| -> Result<(u64, Metrics)> {
            cpu::pin(CPU)?;
            let topdown = Topdown::of_host()?;
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            topdown.read()
        });
        while disturbed && cpu::thread_switches() == switches {
            thread::yield_now();
        }
        let regs = vcpu.run();
        stop.store(true, Ordering::Relaxed);
        let (slots, metrics) = other.join().unwrap()?;
        note!("host: {slots} slots, {metrics}");
        ensure!(
            !disturbed || metrics.distance(GUESTS) <= 2,
            "perf's metrics are not those of the CPU"
        );
        regs
    })?;
    let switches = cpu::thread_switches() - switches;
    note!("the vCPU's thread was switched {switches} times");
    ensure!(!disturbed || switches >= 3, "the guest was not preempted");
    expect_guests(&regs, 0)?;
    Ok(regs)
}

fn preempted() -> Result<()> {
    require()?;
    cpu::pin(CPU)?;
    let _division = Division::set(THIS_CPU, GUESTS)?;
    let alone = run_at_once(false)?;
    let disturbed = run_at_once(true)?;
    ensure!(
        disturbed.r10 == alone.r10,
        "the guest's instructions are not the same"
    );
    ensure!(
        cpu::online() > 1 || disturbed.r9.abs_diff(alone.r9) <= SLOTS_BOUND,
        "the guest's slots are not the same"
    );
    Ok(())
}

fn main() -> ExitCode {
    ktap::run(&[
        ("guest and perf count by turns in one thread", by_turns),
        ("a guest that another thread preempts", preempted),
    ])
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! perf counts in the emulated host as on a real one: instructions, cycles, reference
//! cycles, branches, slots and their metrics of a thread in user space.
//!
//! The bound is what user space executes between the system calls to perf and the
//! work, some 100 instructions for each event. Metrics: exact.

use std::arch::asm;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::{cpu, ktap, note, oracle};
use perf_metrics::metrics::{Division, Metrics, require};
use perf_metrics::perf::{
    BRANCHES, CYCLES, Event, INSTRUCTIONS, Kind, REFERENCE_CYCLES, SLOTS, Topdown,
};

const ITERATIONS: u64 = 1_000_000;
const BOUND: u64 = 400;

/// Two instructions an iteration, of which one is a branch.
fn work() {
    // SAFETY: The loop only changes its counter.
    unsafe {
        asm!("2:", "dec {0}", "jnz 2b", inout(reg) ITERATIONS => _, options(nomem, nostack));
    }
}

fn count(kind: Kind) -> Result<u64> {
    let event = Event::of_user_space(kind)?;
    let before = event.read()?;
    work();
    Ok(event.read()? - before)
}

fn instructions_and_branches() -> Result<()> {
    require()?;
    cpu::pin(0)?;
    for (kind, expected) in [(INSTRUCTIONS, 2 * ITERATIONS), (BRANCHES, ITERATIONS)] {
        let counted = count(kind)?;
        note!("{kind:?}: {counted}, expected {expected}");
        ensure!(
            (expected..expected + BOUND).contains(&counted),
            "perf counts something else"
        );
    }
    Ok(())
}

/// With several CPUs a cycle is not an instruction, but cycles and slots still follow
/// the ratio.
fn cycles_and_slots() -> Result<()> {
    require()?;
    cpu::pin(0)?;
    let machine = oracle::require()?;
    let _ratio = Ratio::set(THIS_CPU, RATIO_ONE / 2);
    let reference = Event::of_user_space(REFERENCE_CYCLES)?;
    let cycles = Event::of_user_space(CYCLES)?;
    let slots = Event::of_user_space(SLOTS)?;
    let read = || -> Result<[u64; 3]> { Ok([reference.read()?, cycles.read()?, slots.read()?]) };
    let before = read()?;
    work();
    let after = read()?;
    let [reference, cycles, slots] = [0, 1, 2].map(|n| after[n] - before[n]);
    note!("reference cycles {reference}, cycles {cycles}, slots {slots}");
    let bound = BOUND * machine.cpus;
    ensure!(
        cycles.abs_diff(reference / 2) <= bound,
        "cycles do not follow the ratio"
    );
    ensure!(
        slots.abs_diff(5 * cycles) <= 5 * bound,
        "not 5 slots a cycle"
    );
    ensure!(
        machine.cpus > 1 || reference.abs_diff(2 * ITERATIONS) <= bound,
        "an instruction is not a tick"
    );
    Ok(())
}

fn metrics() -> Result<()> {
    require()?;
    cpu::pin(0)?;
    for expected in [Metrics([102, 26, 51, 76]), Metrics([5, 50, 100, 100])] {
        let _division = Division::set(THIS_CPU, expected)?;
        let topdown = Topdown::of_host()?;
        work();
        let (slots, metrics) = topdown.read()?;
        note!("{slots} slots: {metrics}, expected {expected}");
        ensure!(slots >= 10 * ITERATIONS, "perf lost slots");
        ensure!(metrics == expected, "perf has other metrics");
    }
    Ok(())
}

fn main() -> ExitCode {
    ktap::run(&[
        (
            "perf counts instructions and branches",
            instructions_and_branches,
        ),
        ("perf counts cycles and slots", cycles_and_slots),
        ("perf divides slots", metrics),
    ])
}

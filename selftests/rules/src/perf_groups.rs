// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule host-continuity for perf's groups: when the first event of a group is sampled,
//! perf reads the others in the handler, and the msr PMU reads APERF and MPERF. It
//! does so in NMIs, where the CPU has a PMU, and in interrupts, wherever they come:
//! in guests, in KVM, and NMIs inside of a switch, too.
//!
//! The CPU is kept in C0 at one frequency, so what both counters must have advanced
//! between any two samples follows from the TSC, which is in each sample. Bound: the
//! counters are not read at once, and not always by the same path, for which up to
//! [`SKEW`] ticks may pass.

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use harness::guest::{Guest, Vcpu};
use harness::ktap::Skip;
use harness::module::Module;
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio};
use harness::perf::Attr;
use harness::perf_group::{Group, Sample};
use harness::{cpu, guest_code, kernel, ktap, note, oracle, sweep};

/// Where all happens.
const CPU: usize = 0;
/// APERF has no fraction of a tick that a switch would have to round: see the `drift` test
/// for what that adds up to.
const RATIO: u64 = 2 * RATIO_ONE;
const RUNS: usize = 5000;
const SKEW: u64 = 50;

/// What a guest takes between exits, in ticks.
const IN_GUEST: u64 = 3000;

guest_code! {
    /// Makes its values as different from the host's as can be. Exits every RDI ticks.
    write_and_exit:
        "mov rsi, rdi"
        "far"
        "2:"
        "burn64 rsi"
        "exit"
        "jmp 2b"
}

/// What is sampled, and how often in a usual kernel: prime numbers, lest the samples come
/// at the same point of a switch.
#[derive(Clone, Copy)]
struct Leader {
    attr: fn() -> Attr,
    period: u64,
}

/// PERF_COUNT_HW_CPU_CYCLES; its overflow is an NMI.
const CYCLES: Leader = Leader {
    attr: || Attr::new(0, 0),
    period: 80_021,
};

/// PERF_COUNT_SW_CPU_CLOCK, in nanoseconds: a timer's interrupt.
const CLOCK: Leader = Leader {
    attr: || Attr::new(1, 0),
    period: 100_003,
};

/// Counts of a sample.
const APERF: usize = 1;
const MPERF: usize = 2;
const TSC: usize = 3;

/// Guests take turns, each with values of its own.
fn run_by_turns(vcpus: &mut [Vcpu], runs: usize) -> Result<()> {
    for turn in 0..runs {
        vcpus[turn % vcpus.len()].resume()?;
    }
    Ok(())
}

/// How far `counter` strayed from `ratio` of the TSC between any two samples, in ticks.
fn stray(samples: &[Sample], counter: usize, ratio: u64) -> u64 {
    let distance = |sample: &Sample| {
        let expected = sample.counts[TSC] as i128 * i128::from(ratio) / i128::from(RATIO_ONE);
        sample.counts[counter] as i128 - expected
    };
    let distances = samples.iter().map(distance);
    (distances.clone().max().unwrap() - distances.min().unwrap()) as u64
}

fn sampled_by(leader: Leader) -> Result<Vec<Sample>> {
    oracle::require()?;
    cpu::pin(CPU)?;
    let _module = Module::loaded()?;
    let _ratio = Ratio::set(ALL_CPUS, RATIO);
    let members = [Attr::msr("aperf")?, Attr::msr("mperf")?, Attr::msr("tsc")?];
    let group = Group::new((leader.attr)(), kernel::cost(leader.period), &members, CPU)?;
    let guests = [Guest::new(write_and_exit())?, Guest::new(write_and_exit())?];
    let mut vcpus = [guests[0].vcpu(0)?, guests[1].vcpu(0)?];
    for vcpu in &vcpus {
        vcpu.set_argument(kernel::cost(IN_GUEST))?;
    }
    run_by_turns(&mut vcpus, 100)?;

    let truth = oracle::truth(CPU as u64).host;
    let start = cpu::tsc();
    group.start()?;
    run_by_turns(&mut vcpus, RUNS)?;
    let samples = group.stop()?;
    let ticks = cpu::tsc() - start;
    let truth = oracle::truth(CPU as u64).host - truth;

    let (aperf, mperf) = (
        stray(&samples, APERF, RATIO),
        stray(&samples, MPERF, RATIO_ONE),
    );
    let skew = kernel::cost(SKEW);
    let in_guest = samples.iter().filter(|sample| sample.in_guest).count();
    note!(
        "{} samples, {in_guest} in a guest: APERF strays {aperf} ticks, MPERF {mperf}",
        samples.len()
    );
    ensure!(
        truth.mperf.abs_diff(ticks) <= skew,
        "the CPU was not in C0: {} of {ticks} ticks",
        truth.mperf
    );
    ensure!(
        samples.len() >= 500 && in_guest >= 50,
        "there were too few samples"
    );
    ensure!(
        aperf <= skew && mperf <= skew,
        "a sample has not what the CPU did"
    );
    Ok(samples)
}

fn in_interrupts() -> Result<()> {
    sampled_by(CLOCK).map(drop)
}

fn in_nmis() -> Result<()> {
    if cpu::is_amd() {
        bail!(Skip("the emulated AMD CPU has no PMU".into()));
    }
    let samples = sampled_by(CYCLES)?;
    let module = sweep::module_text()?;
    let inside = samples
        .iter()
        .filter(|sample| module.contains(&sample.ip))
        .count();
    note!("{inside} NMIs inside of the module");
    ensure!(inside >= 10, "no NMI came inside of a switch");
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("samples in interrupts", in_interrupts),
        ("samples in NMIs", in_nmis),
    ])
}

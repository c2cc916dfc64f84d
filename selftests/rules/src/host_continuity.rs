// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule host-continuity: readers of the host pair find what the CPU really did,
//! before, while and after a guest's values are in the MSRs.
//!
//! Each read is bracketed by two looks at the true counters. Bound: a value
//! may lie outside of its bracket by one switch, after however many: what APERF
//! did while its MSR was written is computed from the frequency before, which
//! may have changed.
//!
//! A bracket is wider than what many switches could lose. In user space the MSRs hold the
//! host pair, and the oracle compares them with the truth at one tick. Over 500 KVM_RUNs,
//! each with two switches, that changes by [`UNFORESEEN`] and APERF's [`roundings`].

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::guest::Guest;
use harness::host::{Msrs, PerfMsr, bracket, outside};
use harness::module::Module;
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio};
use harness::{ONE_SWITCH, Pair, UNFORESEEN, cpu, foreign, ktap, note, oracle, roundings};

const SWITCHES: u64 = 500;
const READS: u64 = 100;

/// Where the vCPU runs.
const CPU: usize = 0;

/// All of the host's ways to the pair of [`CPU`] that a process has.
struct Readers {
    msrs: Msrs,
    perf_aperf: PerfMsr,
    perf_mperf: PerfMsr,
    /// True values when each event started to count, to some thousand ticks.
    perf_start: Vec<(u64, u64)>,
}

const APERF: fn() -> u64 = || oracle::truth(CPU as u64).host.aperf;
const MPERF: fn() -> u64 = || oracle::truth(CPU as u64).host.mperf;

impl Readers {
    fn open() -> Result<Self> {
        let (perf_aperf, aperf_start) = bracket(APERF, || PerfMsr::open("aperf", CPU));
        let (perf_mperf, mperf_start) = bracket(MPERF, || PerfMsr::open("mperf", CPU));
        Ok(Readers {
            msrs: Msrs::open(CPU)?,
            perf_aperf: perf_aperf?,
            perf_mperf: perf_mperf?,
            perf_start: vec![aperf_start, mperf_start],
        })
    }

    /// Reads in all ways and returns the largest error in ticks.
    fn error(&self) -> Result<u64> {
        let mut worst = self.msrs.error()?;
        for (event, truth, start) in [
            (&self.perf_aperf, APERF, self.perf_start[0]),
            (&self.perf_mperf, MPERF, self.perf_start[1]),
        ] {
            let (advance, (low, high)) = bracket(truth, || event.read());
            let (low, high) = (low.wrapping_sub(start.1), high.wrapping_sub(start.0));
            worst = worst.max(outside(advance?, (low, high)));
        }
        Ok(worst)
    }
}

fn prepare(ratio: u64) -> Result<(Module, Ratio)> {
    oracle::require()?;
    cpu::pin(CPU)?;
    Ok((Module::loaded()?, Ratio::set(ALL_CPUS, ratio)))
}

/// How far the MSRs of [`CPU`] are ahead of the truth, in user space there.
fn ahead() -> Pair {
    let truth = oracle::truth(CPU as u64);
    truth.hardware - truth.host
}

fn before_and_after(ratio: u64) -> Result<()> {
    let _setup = prepare(ratio)?;
    let readers = Readers::open()?;
    let before = readers.error()?;

    let guest = Guest::new(foreign::exits())?;
    let mut vcpu = guest.vcpu(0)?;
    vcpu.resume()?;
    let first = readers.error()?;
    let start = ahead();
    for _ in 0..SWITCHES {
        vcpu.resume()?;
    }
    let strayed = (ahead() - start).magnitude();
    let last = readers.error()?;
    drop((vcpu, guest));
    let after = readers.error()?;

    note!(
        "error before the VM {before}, after one KVM_RUN {first}, after {SWITCHES} {last}, \
         without the VM again {after} ticks"
    );
    note!("{SWITCHES} times, two switches added {strayed}");
    for error in [before, first, last, after] {
        ensure!(error <= ONE_SWITCH, "the host pair is off by {error} ticks");
    }
    ensure!(
        strayed.mperf <= UNFORESEEN && strayed.aperf <= UNFORESEEN + roundings(2 * SWITCHES),
        "what each switch leaves adds up to {strayed}"
    );
    Ok(())
}

/// Reads from `reader_cpu` while a guest with `code` runs on [`CPU`].
fn during(reader_cpu: usize, code: &[u8]) -> Result<()> {
    let _setup = prepare(RATIO_ONE * 3 / 5)?;
    let readers = Readers::open()?;
    let guest = Guest::with_irqchip(code)?;
    let mut vcpu = guest.vcpu(0)?;

    let (worst, entries) = foreign::beside(&mut vcpu, CPU, || {
        cpu::pin(reader_cpu)?;
        let count_entries = || oracle::count(CPU as u64, oracle::event::VM_ENTRY);
        let entries = count_entries();
        let mut worst = 0;
        for _ in 0..READS {
            thread::sleep(Duration::from_micros(20));
            worst = worst.max(readers.error()?);
        }
        Ok((worst, count_entries() - entries))
    })?;

    note!("{READS} times all readers, {entries} VM entries meanwhile, worst error {worst} ticks");
    ensure!(entries >= READS, "the guest did not run meanwhile");
    ensure!(worst <= ONE_SWITCH, "the host pair is off by {worst} ticks");
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("before and after, at base frequency", || {
            before_and_after(RATIO_ONE)
        }),
        ("before and after, throttled", || {
            before_and_after(RATIO_ONE * 3 / 5)
        }),
        ("during, from a task on the same CPU", || {
            during(CPU, foreign::exits())
        }),
        ("while it halts, from a task on the same CPU", || {
            during(CPU, foreign::halts())
        }),
        ("during, from another CPU", || {
            cpu::require_two()?;
            during(1, foreign::exits())
        }),
        ("while it halts, from another CPU", || {
            cpu::require_two()?;
            during(1, foreign::halts())
        }),
    ])
}

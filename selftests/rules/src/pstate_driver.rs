// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule host-continuity for the drivers that choose the CPU's frequency, intel_pstate
//! and amd-pstate: they sample the counters in the scheduler's context, whenever the
//! scheduler looks at the load, and so also while a vCPU's thread is current.
//!
//! The driver is made to ask for one frequency, and each of its samples must show
//! it, within 1 %. So must RDPRU over some time, and scaling_cur_freq and
//! /proc/cpuinfo within 10 %, as they show the average of one tick: with and without a
//! guest. A driver binds only where scripts/boot.sh is asked for this test.

use std::collections::HashSet;
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use harness::guest::Guest;
use harness::ktap::Skip;
use harness::module::Module;
use harness::tracefs::{Event, Tracing};
use harness::{cpu, cpufreq, guest_code, kernel, ktap, note, oracle, rdpru};

/// Where the vCPU runs.
const CPU: usize = 0;
/// One and a half of the emulated CPU's base frequency.
const KHZ: u64 = 300_000;
const TURNS: u64 = 300;
/// What a turn takes.
const TICKS: u64 = 200_000;
/// Turns with a guest, and then as many without, for several samples of the driver each.
const BLOCK: u64 = 60;

guest_code! {
    /// Makes its values as different from the host's as can be.
    write_and_exit:
        "far"
        "2:"
        "burn 200000"
        "exit"
        "jmp 2b"
}

/// A driver's event with a sample: the counters' advance since the one before.
struct Driver {
    name: &'static str,
    event: &'static str,
}

const DRIVERS: [Driver; 2] = [
    Driver {
        name: "intel_pstate",
        event: "power/pstate_sample",
    },
    Driver {
        name: "amd-pstate",
        event: "amd_cpu/amd_pstate_perf",
    },
];

/// The driver, which asks for [`KHZ`] on all CPUs from now on.
fn held_driver() -> Result<&'static Driver> {
    let name = cpufreq::driver();
    let known = |driver: &&Driver| name.as_deref() == Some(driver.name);
    let Some(driver) = DRIVERS.iter().find(known) else {
        bail!(Skip("needs the driver intel_pstate or amd-pstate".into()));
    };
    cpufreq::hold(KHZ)?;
    Ok(driver)
}

/// Leaves out the first sample of each CPU: amd-pstate samples only while it is traced,
/// so that one reaches back to a time at another frequency.
fn but_first(events: Vec<Event>) -> Vec<Event> {
    let mut seen = HashSet::new();
    let known = |event: &Event| !seen.insert(event.cpu);
    events.into_iter().filter(known).collect()
}

fn near(khz: u64, percent: u64) -> bool {
    khz.abs_diff(KHZ) <= KHZ * percent / 100
}

fn samples() -> Result<()> {
    let machine = oracle::require()?;
    let driver = held_driver()?;
    cpu::pin(CPU)?;
    let _module = Module::loaded()?;
    let guest = Guest::new(write_and_exit())?;
    let mut vcpu = guest.vcpu(0)?;

    let tracing = Tracing::of(driver.event)?;
    let start = cpu::tsc();
    for turn in 0..TURNS {
        // A sample takes the difference to the one before, which is of a guest, too, where
        // all are.
        if (turn / BLOCK).is_multiple_of(2) {
            vcpu.resume()?;
        } else {
            cpu::spin(TICKS);
        }
    }
    let elapsed = cpu::tsc() - start;
    let samples = but_first(tracing.stop()?);

    let mut shown = Vec::new();
    for sample in &samples {
        let (pair, tsc) = (sample.pair()?, sample.number("tsc")?);
        ensure!(
            pair.mperf <= tsc + tsc / 100,
            "MPERF overtakes the TSC: {sample:?}"
        );
        shown.push(sample.number("freq")?);
    }
    let (slowest, fastest) = (shown.iter().min(), shown.iter().max());
    let milliseconds = elapsed / (machine.tsc_hz / 1000);
    note!(
        "{} samples in {milliseconds} ms, {slowest:?} to {fastest:?} kHz",
        shown.len()
    );
    // One in 10 ms.
    ensure!(
        shown.len() as u64 >= milliseconds / 20,
        "the driver does not sample"
    );
    ensure!(
        shown.iter().all(|&khz| near(khz, 1)),
        "the driver sees another frequency"
    );
    kernel::expect_no_warning()
}

/// What the CPU is busy with for [`TICKS`].
type Work<'a> = &'a mut dyn FnMut() -> Result<()>;

/// What is furthest from [`KHZ`] of all that `read` returns.
fn furthest(mut read: impl FnMut() -> Result<u64>) -> Result<u64> {
    let mut worst = KHZ;
    for _ in 0..TURNS / 10 {
        let khz = read()?;
        if khz.abs_diff(KHZ) > worst.abs_diff(KHZ) {
            worst = khz;
        }
    }
    Ok(worst)
}

/// `read` must show the frequency after or during its work, within `percent`.
fn shown(percent: u64, read: fn(Work) -> Result<u64>) -> Result<()> {
    oracle::require()?;
    held_driver()?;
    cpu::pin(CPU)?;
    let _module = Module::loaded()?;
    let guest = Guest::new(write_and_exit())?;
    let mut vcpu = guest.vcpu(0)?;

    let alone = furthest(|| {
        read(&mut || {
            cpu::spin(TICKS);
            Ok(())
        })
    })?;
    let beside = furthest(|| read(&mut || vcpu.resume()))?;
    note!("furthest off: {alone} kHz without a guest, {beside} kHz beside one");
    ensure!(
        near(alone, percent) && near(beside, percent),
        "the host sees another frequency"
    );
    Ok(())
}

fn scaling_cur_freq() -> Result<()> {
    shown(10, |work| {
        work()?;
        cpufreq::scaling_khz(CPU)
    })
}

fn cpuinfo() -> Result<()> {
    shown(10, |work| {
        work()?;
        cpufreq::cpuinfo_khz(CPU)
    })
}

fn by_rdpru() -> Result<()> {
    if !rdpru::exists() {
        bail!(Skip("this CPU has no RDPRU".into()));
    }
    shown(1, |work| {
        let (aperf, mperf) = (rdpru::aperf(), rdpru::mperf());
        work()?;
        let (aperf, mperf) = (rdpru::aperf() - aperf, rdpru::mperf() - mperf);
        Ok((aperf as f64 / mperf as f64 * oracle::require()?.tsc_hz as f64 / 1e3) as u64)
    })
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("what the driver samples", samples),
        ("scaling_cur_freq", scaling_cur_freq),
        ("cpu MHz in /proc/cpuinfo", cpuinfo),
        ("RDPRU", by_rdpru),
    ])
}

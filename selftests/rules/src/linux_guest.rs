// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A stock Linux as guest: it finds `aperfmperf` in its CPU's flags, its
//! /proc/cpuinfo follows the frequency of the CPU, and its kernel has nothing
//! to complain about, after a pause and in another VM neither. Its scheduler trusts the
//! counters on Intel; on AMD it wants ACPI CPPC, which the monitor does not have. What
//! the guest reads of its pair never goes backwards, nor does MPERF overtake the TSC.
//!
//! Bound of the frequency: 10 %. The kernel shows the average over its last
//! tick, in which the monitor and the host's tick may have had their share.

use std::io::{BufRead, BufReader};
use std::process::{Child, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::module::Module;
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio};
use harness::{Pair, cpu, kernel, ktap, linux, note, oracle};

const SAMPLES: usize = 2;

/// Longer than the 1024 ticks of the guest's kernel after which a CPU that got one of
/// them has no frequency that its scheduler can express, see scale_freq_tick().
const PAUSE: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_secs(10);

fn signal(monitor: &Child, signal: i32) -> Result<()> {
    // SAFETY: kill() has no memory effects, and the child has not been waited for.
    let failed = unsafe { libc::kill(monitor.id() as i32, signal) } != 0;
    ensure!(!failed, "kill: {}", std::io::Error::last_os_error());
    Ok(())
}

/// As a shell stops a job and continues it.
fn pause(monitor: &Child) -> Result<()> {
    signal(monitor, libc::SIGSTOP)?;
    let end = Instant::now() + PAUSE;
    while Instant::now() < end {
        ktap::alive();
        thread::sleep(MOMENT);
    }
    signal(monitor, libc::SIGCONT)
}

/// Saves the guest and restores it in another VM, see selftests/vmm.
fn migrate(monitor: &Child) -> Result<()> {
    signal(monitor, libc::SIGUSR1)
}

/// What the guest says on its console; after its first sample, `meanwhile` is done.
fn console(meanwhile: impl Fn(&Child) -> Result<()>) -> Result<String> {
    let mut monitor = linux::monitor(SAMPLES)?
        .stdout(Stdio::piped())
        .spawn()
        .context("start the monitor")?;
    let mut said = String::new();
    let mut samples = 0;
    for line in BufReader::new(monitor.stdout.take().context("no console")?).lines() {
        let line = line?.replace('\r', "");
        note!("| {line}");
        said += &(line + "\n");
        if said.matches("guest: cpu MHz ").count() > samples {
            samples += 1;
            // kvmtool neither tells KVM that it was stopped nor saves a guest.
            if samples == 1 && linux::monitor_is_own() {
                meanwhile(&monitor)?;
            }
        }
    }
    let status = monitor.wait()?;
    ensure!(status.success(), "the monitor failed: {status}");
    Ok(said)
}

/// Boots the guest with the CPUs at `ratio` and checks what it says.
fn boots(ratio: u64, meanwhile: impl Fn(&Child) -> Result<()>) -> Result<()> {
    let machine = oracle::require()?;
    cpu::pin(0)?;
    let _module = Module::loaded()?;
    let _ratio = Ratio::set(ALL_CPUS, ratio);
    let start = cpu::tsc();
    let console = console(meanwhile)?;
    let elapsed = cpu::tsc() - start;

    let said = |what| {
        console
            .lines()
            .filter_map(move |line| line.strip_prefix(what))
    };
    ensure!(
        said("guest: aperfmperf ").eq(["yes"]),
        "the flag is missing"
    );
    ensure!(
        said("guest: warnings ").eq(["0"]),
        "the guest's kernel warned"
    );
    if linux::monitor_is_own() {
        let expected = if cpu::is_amd() { "0" } else { "1" };
        ensure!(
            said("guest: frequency invariance ").eq([expected]),
            "does the guest's scheduler trust the counters?"
        );
    }

    let pairs = said("guest: pair ").map(pair).collect::<Result<Vec<_>>>()?;
    ensure!(pairs.len() == 2, "the guest showed {} pairs", pairs.len());
    note!("{}, later {}, of {elapsed} ticks", pairs[0], pairs[1]);
    ensure!(
        pairs[0].aperf < pairs[1].aperf && pairs[0].mperf < pairs[1].mperf,
        "the pair went backwards"
    );
    ensure!(pairs[1].mperf <= elapsed, "MPERF overtakes the TSC");

    let expected = machine.tsc_hz as f64 / 1e6 * ratio as f64 / RATIO_ONE as f64;
    let mut samples = 0;
    for mhz in said("guest: cpu MHz ") {
        let mhz: f64 = mhz.parse()?;
        note!("guest sees {mhz} MHz, the CPU runs at {expected:.3} MHz");
        ensure!(
            (mhz / expected - 1.0).abs() <= kernel::part_of_time(0.1),
            "the guest sees another frequency"
        );
        samples += 1;
    }
    ensure!(
        samples == SAMPLES,
        "the guest showed its frequency {samples} times"
    );
    Ok(())
}

fn pair(said: &str) -> Result<Pair> {
    let mut counters = said.split_whitespace().map(str::parse);
    let mut next = || {
        counters
            .next()
            .context("no counter")?
            .context(said.to_owned())
    };
    Ok(Pair {
        aperf: next()?,
        mperf: next()?,
    })
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("at base frequency, over a pause of a minute", || {
            boots(RATIO_ONE, pause)
        }),
        (
            "throttled to three fifths, over a move to another VM",
            || boots(RATIO_ONE * 3 / 5, migrate),
        ),
    ])
}

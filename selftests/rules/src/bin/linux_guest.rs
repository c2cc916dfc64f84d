// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A stock Linux as guest: it finds `aperfmperf` in its CPU's flags, its
//! /proc/cpuinfo follows the frequency of the CPU, and its kernel has nothing
//! to complain about.
//!
//! Bound of the frequency: 10 %. The kernel shows the average over its last
//! tick, in which the monitor and the host's tick may have had their share.

use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use harness::module::Module;
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio};
use harness::{cpu, ktap, linux, note, oracle};

const SAMPLES: usize = 2;

/// Boots the guest with the CPUs at `ratio` and checks what it says.
fn boots(ratio: u64) -> Result<()> {
    let machine = oracle::require()?;
    cpu::pin(0)?;
    let _module = Module::loaded()?;
    let _ratio = Ratio::set(ALL_CPUS, ratio);

    let output = linux::monitor(SAMPLES)?
        .stderr(Stdio::inherit())
        .output()
        .context("start the monitor")?;
    let console = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    for line in console.lines() {
        note!("| {line}");
    }
    ensure!(
        output.status.success(),
        "the monitor failed: {}",
        output.status
    );

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

    let expected = machine.tsc_hz as f64 / 1e6 * ratio as f64 / RATIO_ONE as f64;
    let mut samples = 0;
    for mhz in said("guest: cpu MHz ") {
        let mhz: f64 = mhz.parse()?;
        note!("guest sees {mhz} MHz, the CPU runs at {expected:.3} MHz");
        ensure!(
            (mhz / expected - 1.0).abs() <= 0.1,
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

fn main() -> ExitCode {
    ktap::run(&[
        ("at base frequency", || boots(RATIO_ONE)),
        ("throttled to three fifths", || boots(RATIO_ONE * 3 / 5)),
    ])
}

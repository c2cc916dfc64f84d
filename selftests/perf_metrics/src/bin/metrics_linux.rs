// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A stock Linux as guest: `perf stat --topdown` says how the CPU divided the slots of
//! a program in the guest, and so do perf's events.
//!
//! perf shows percentages with one decimal, and switches the counters with the program,
//! which has 8 bits a part. Bound: half a percent.

use std::collections::HashMap;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use harness::oracle::ALL_CPUS;
use harness::{cpu, ktap, linux, note};
use perf_metrics::metrics::{Division, FULL_SCALE, Metrics, require};

const DIVISION: Metrics = Metrics([102, 26, 51, 76]);
/// perf's names, in the order of [`Metrics`].
const TOPDOWN: [&str; 4] = [
    "tma_retiring",
    "tma_bad_speculation",
    "tma_frontend_bound",
    "tma_backend_bound",
];
const EVENTS: [&str; 4] = [
    "topdown-retiring",
    "topdown-bad-spec",
    "topdown-fe-bound",
    "topdown-be-bound",
];
const BOUND: f64 = 0.5;

/// Percentages by name must be those of [`DIVISION`].
fn expect_percentages(names: [&str; 4], found: &HashMap<&str, f64>) -> Result<()> {
    for (name, part) in names.into_iter().zip(DIVISION.0) {
        let expected = f64::from(part) * 100.0 / f64::from(FULL_SCALE);
        let percentage = found.get(name).with_context(|| format!("no {name}"))?;
        note!("{name}: {percentage:.1} %, the CPU: {expected:.1} %");
        ensure!(
            (percentage - expected).abs() <= BOUND,
            "{name} is not what the CPU did"
        );
    }
    Ok(())
}

/// A line of names and a line of values.
fn percentages<'a>(mut lines: impl Iterator<Item = &'a str>) -> Result<HashMap<&'a str, f64>> {
    let names = lines.next().context("perf said nothing")?.split(';');
    let values = lines.next().context("perf gave no values")?.split(';');
    let names = names.map(|name| name.trim_start_matches('%').trim());
    let pairs = names.zip(values).filter(|(name, _)| !name.is_empty());
    pairs
        .map(|(name, value)| Ok((name, value.parse()?)))
        .collect()
}

/// Lines that begin with a count and, after the unit, a name: shares of the first one.
fn shares<'a>(lines: impl Iterator<Item = &'a str>) -> Result<HashMap<&'a str, f64>> {
    let mut slots = None;
    let mut shares = HashMap::new();
    for line in lines {
        let fields: Vec<_> = line.split(';').collect();
        let [count, _, name, ..] = fields[..] else {
            anyhow::bail!("perf said: {line}");
        };
        let count: f64 = count.parse().with_context(|| line.to_string())?;
        shares.insert(name, count * 100.0 / *slots.get_or_insert(count));
    }
    Ok(shares)
}

fn topdown() -> Result<()> {
    require()?;
    cpu::pin(0)?;
    let _division = Division::set(ALL_CPUS, DIVISION)?;
    let output = linux::monitor_of("/guest/topdown", 384, "quiet")?
        .stderr(Stdio::inherit())
        .output()
        .context("start the monitor")?;
    let console = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    for line in console.lines() {
        note!("| {line}");
    }
    ensure!(output.status.success(), "the monitor: {}", output.status);

    let said = |what| {
        console
            .lines()
            .filter_map(move |line| line.strip_prefix(what))
    };
    ensure!(
        said("guest: warnings ").eq(["0"]),
        "the guest's kernel warned"
    );
    expect_percentages(TOPDOWN, &percentages(said("guest: topdown "))?)?;
    expect_percentages(EVENTS, &shares(said("guest: event "))?)
}

fn main() -> ExitCode {
    ktap::run(&[("perf stat --topdown in a Linux guest", topdown)])
}

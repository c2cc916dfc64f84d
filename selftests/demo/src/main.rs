// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Shows what the module does, measured in the machine that this runs in: a
//! guest of a few instructions and a stock Linux, both reading the frequency of
//! a CPU that changes while they run.

mod linux;
mod table;
mod tiny;

use std::fs;

use anyhow::{Context, Result};
use harness::module::Module;
use harness::oracle::{self, ALL_CPUS, RATIO_ONE, Ratio};

/// Frequencies of the CPU in the order shown: base, throttled, turbo, base.
const RATIOS: [u64; 4] = [RATIO_ONE, RATIO_ONE * 3 / 5, RATIO_ONE * 3 / 2, RATIO_ONE];

/// Where the guests run.
const CPU: usize = 0;

fn main() -> Result<()> {
    let machine = oracle::machine().context("this machine has no oracle")?;
    let base_mhz = machine.tsc_hz as f64 / 1e6;
    let _module = Module::loaded()?;
    let _ratio = Ratio::set(ALL_CPUS, RATIO_ONE);

    println!(
        "{}: {} CPUs, base frequency {base_mhz} MHz",
        model()?,
        machine.cpus
    );
    println!("Module kvm_aperfmperf is loaded.");
    tiny::power_on()?;

    let mut rows = tiny::run(base_mhz)?;
    rows.extend(linux::run(base_mhz)?);
    table::print(&rows);
    Ok(())
}

fn model() -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let name = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    Ok(name
        .context("no model name")?
        .trim_start_matches([' ', '\t', ':'])
        .into())
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Shows what the module does, measured in the machine that this runs in: a
//! guest of a few instructions that counts its own VM exits, and then a stock Linux
//! over time, both on a CPU whose frequency changes while they run.

mod cpuinfo;
mod linux;
mod neighbour;
mod table;
mod timeline;
mod tiny;
mod turbostat;

use anyhow::{Context, Result};
use harness::module::Module;
use harness::oracle::{self, ALL_CPUS, RATIO_ONE, Ratio};

use timeline::Timeline;

/// Frequencies of the CPU in the table: base, throttled, turbo, base.
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
        cpuinfo::model()?,
        machine.cpus
    );
    println!("Module kvm_aperfmperf is loaded.");
    tiny::power_on()?;

    table::print(&tiny::run(base_mhz)?);

    println!("A stock Linux boots as guest. What it sees is cpu MHz in /proc/cpuinfo.");
    let mut timeline = Timeline::new();
    linux::run(&mut timeline)?;
    timeline.csv();
    Ok(())
}

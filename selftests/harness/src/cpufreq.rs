// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The frequency of the CPUs as the host's kernel chooses and shows it.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::ktap::Skip;
use crate::{cpu, kernel};

fn path(cpu: usize, file: &str) -> String {
    format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/{file}")
}

/// The driver of this machine, if one binds.
pub fn driver() -> Option<String> {
    let driver = fs::read_to_string(path(0, "scaling_driver")).ok()?;
    Some(driver.trim().into())
}

/// Lets the driver ask for `khz` on all CPUs, whatever the load, from now on. As it
/// does not ask again for what it has, another ratio of the oracle's lasts, too. Skips a
/// test where nothing lasts.
pub fn hold(khz: u64) -> Result<()> {
    // What a real-time thread needs at least outdoes the limits there, see
    // amd_pstate_adjust_perf().
    if driver().as_deref() == Some("amd-pstate") && kernel::is_realtime()? {
        bail!(Skip(
            "amd-pstate raises the frequency for each interrupt of PREEMPT_RT".into()
        ));
    }
    for cpu in 0..cpu::online() {
        for limit in ["scaling_max_freq", "scaling_min_freq"] {
            let file = path(cpu, limit);
            fs::write(&file, khz.to_string()).context(file)?;
        }
    }
    thread::sleep(Duration::from_millis(50));
    Ok(())
}

/// What scaling_cur_freq shows. Skips a test where there is none.
pub fn scaling_khz(cpu: usize) -> Result<u64> {
    let path = path(cpu, "scaling_cur_freq");
    if !Path::new(&path).exists() {
        bail!(Skip("no cpufreq driver knows this machine".into()));
    }
    Ok(fs::read_to_string(path)?.trim().parse()?)
}

/// What /proc/cpuinfo says of a CPU.
pub fn cpuinfo_khz(cpu: usize) -> Result<u64> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let mhz = cpuinfo
        .lines()
        .filter(|line| line.starts_with("cpu MHz"))
        .nth(cpu)
        .and_then(|line| line.split(": ").nth(1));
    let mhz: f64 = mhz.context("no cpu MHz")?.trim().parse()?;
    Ok((mhz * 1e3) as u64)
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The host's own /proc/cpuinfo.

use std::fs;

use anyhow::{Context, Result};

fn values(key: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    Ok(lines
        .filter(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim().into())
        .collect())
}

/// The name of the CPUs.
pub fn model() -> Result<String> {
    values("model name")?.pop().context("no model name")
}

/// The frequency of `cpu`, in MHz.
pub fn mhz(cpu: usize) -> Result<f64> {
    let mhz = values("cpu MHz")?;
    Ok(mhz.get(cpu).context("no cpu MHz")?.parse()?)
}

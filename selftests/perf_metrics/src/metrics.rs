// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Level 1 of Topdown: how slots divide.

use std::fmt;

use anyhow::{Result, bail, ensure};
use harness::ktap::Skip;
use harness::{cpu, oracle};

/// What all slots together are.
pub const FULL_SCALE: u32 = 255;

/// Parts of [`FULL_SCALE`], as in IA32_PERF_METRICS from the least significant byte
/// on: retiring, bad speculation, frontend bound, backend bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics(pub [u8; 4]);

impl Metrics {
    pub const ZERO: Metrics = Metrics([0; 4]);

    /// The value of IA32_PERF_METRICS.
    pub fn raw(self) -> u64 {
        u32::from_le_bytes(self.0).into()
    }

    /// What `raw` says, if it is a value of level 1.
    pub fn from_raw(raw: u64) -> Result<Self> {
        match u32::try_from(raw) {
            Ok(raw) => Ok(Metrics(raw.to_le_bytes())),
            Err(_) => bail!("{raw:#x} has more than four metrics"),
        }
    }

    pub fn sum(self) -> u32 {
        self.0.into_iter().map(u32::from).sum()
    }

    /// The largest distance of a part in `self` from the same in `other`.
    pub fn distance(self, other: Metrics) -> u8 {
        let parts = self.0.into_iter().zip(other.0);
        parts.map(|(a, b)| a.abs_diff(b)).max().unwrap_or(0)
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [retiring, bad_speculation, frontend, backend] = self.0;
        write!(f, "{retiring}/{bad_speculation}/{frontend}/{backend}")
    }
}

/// How the machine's CPUs divide their slots, until this is dropped.
#[must_use]
pub struct Division {
    cpu: u64,
    previous: u32,
}

impl Division {
    /// Makes `cpu` divide its slots into `parts`, which must add up to [`FULL_SCALE`].
    pub fn set(cpu: u64, parts: Metrics) -> Result<Self> {
        let previous = oracle::set_topdown(cpu, parts.raw() as u32);
        match previous {
            Some(previous) => Ok(Division { cpu, previous }),
            None => bail!("the oracle does not divide slots into {parts}"),
        }
    }
}

impl Drop for Division {
    fn drop(&mut self) {
        oracle::set_topdown(self.cpu, self.previous);
    }
}

/// Skips a test on a machine without an emulated Intel CPU.
pub fn require() -> Result<()> {
    oracle::require()?;
    if cpu::is_amd() {
        bail!(Skip("AMD has no IA32_PERF_METRICS".into()));
    }
    ensure!(
        crate::kvm_intel::has_mediated_pmu()?,
        "kvm-intel is not loaded with enable_mediated_pmu=1"
    );
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What a guest under QEMU shows of its counters, by its kernel and its tools.

use anyhow::{Context, Result, ensure};

use super::Qemu;
use crate::{Pair, kernel, note, oracle};

/// What scale_freq_tick() says when it gives up.
const LOST_TRUST: &str = "wobbly";

/// Keeps each CPU of the guest busy for good.
const BUSY: &str = "for cpu in $(seq 0 $(($(nproc) - 1))); do \
                    taskset -c $cpu sh -c 'while :; do :; done' & done";

/// The frequency of the TSC, in MHz.
pub fn base_mhz() -> Result<f64> {
    Ok(oracle::require()?.tsc_hz as f64 / 1e6)
}

/// Fails if `seen` is off by more than `bound`, a fraction, in a usual kernel.
pub fn expect_mhz(what: &str, seen: f64, expected: f64, bound: f64) -> Result<()> {
    note!("{what}: {seen:.1} MHz, expected {expected:.1} MHz");
    ensure!(
        (seen / expected - 1.0).abs() <= kernel::part_of_time(bound),
        "{what}: {seen:.1} MHz, not {expected:.1}"
    );
    Ok(())
}

/// `ticks` of MPERF, or of APERF at base frequency.
pub fn seconds(ticks: u64) -> Result<f64> {
    Ok(ticks as f64 / 1e6 / base_mhz()?)
}

impl Qemu {
    /// Keeps all vCPUs busy for good.
    pub fn be_busy(&mut self) -> Result<()> {
        self.shell(BUSY).map(drop)
    }

    /// Whether `aperfmperf` is among the flags.
    pub fn has_flag(&mut self) -> Result<bool> {
        let flags = self.shell("grep -m 1 -ow aperfmperf /proc/cpuinfo || true")?;
        Ok(flags.contains("aperfmperf"))
    }

    /// `cpu MHz` of the first CPU in some samples, in ascending order.
    pub fn cpuinfo_mhz(&mut self) -> Result<Vec<f64>> {
        // Who sleeps where the CPU is capped wakes when it may run again: at one moment of
        // the cap's period, always.
        const SAMPLES: &str = "for i in $(seq 25); do grep -m 1 'cpu MHz' /proc/cpuinfo; done";

        let said = self.shell(SAMPLES)?;
        let mhz = said.lines().map(|line| {
            let mhz = line.split(':').nth(1).context("no cpu MHz")?;
            Ok(mhz.trim().parse()?)
        });
        let mut mhz = mhz.collect::<Result<Vec<f64>>>()?;
        mhz.sort_by(f64::total_cmp);
        ensure!(!mhz.is_empty(), "no sample");
        Ok(mhz)
    }

    /// Fails unless the best sample of `cpu MHz` shows base frequency, within 5 %.
    pub fn expect_base_frequency(&mut self) -> Result<()> {
        self.shell("sleep 0.1")?;
        let best = self.cpuinfo_mhz()?.pop().context("no sample")?;
        expect_mhz("cpu MHz", best, base_mhz()?, 0.05)
    }

    /// The pair of each CPU, as the guest's rdmsr shows it.
    pub fn pairs(&mut self) -> Result<Vec<Pair>> {
        let mut counter = |msr| -> Result<Vec<u64>> {
            let said = self.shell(&format!("rdmsr -a -d {msr}"))?;
            // "CPU 0: 12345", one line each.
            let values = said.lines().filter_map(|line| line.rsplit(' ').next());
            let values: Result<_, _> = values.map(str::parse).collect();
            values.with_context(|| said.clone())
        };
        let (aperf, mperf) = (counter("0xe8")?, counter("0xe7")?);
        let pairs = aperf.into_iter().zip(mperf);
        Ok(pairs.map(|(aperf, mperf)| Pair { aperf, mperf }).collect())
    }

    /// The pair of the first CPU.
    pub fn pair(&mut self) -> Result<Pair> {
        self.pairs()?.first().copied().context("no pair")
    }

    /// The frequency of each CPU over half a second, by its pair.
    pub fn mhz_by_rdmsr(&mut self) -> Result<Vec<f64>> {
        let before = self.pairs()?;
        self.shell("sleep 0.5")?;
        let advances = self.pairs()?.into_iter().zip(before);
        let base = base_mhz()?;
        Ok(advances
            .map(|(after, before)| base * (after - before).ratio())
            .collect())
    }

    /// Fails if the guest's kernel has complained about the counters.
    pub fn expect_trust(&mut self) -> Result<()> {
        let log = self.shell("dmesg")?;
        ensure!(
            !log.contains(LOST_TRUST) && !log.contains("unchecked MSR"),
            "the guest's kernel complains: {log}"
        );
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A stock Linux guest, which shows its frequency on its console again and
//! again.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use harness::host::Msrs;
use harness::oracle::{self, ALL_CPUS, RATIO_ONE};
use harness::{cpu, linux, oracle::Machine};

use crate::table::Row;
use crate::{CPU, RATIOS};

/// The guest samples while the frequency changes; the next sample is clean.
const SAMPLES_A_RATIO: usize = 2;

/// Boots the guest and runs it at all frequencies.
pub fn run(base_mhz: f64) -> Result<Vec<Row>> {
    let Machine { cpus, .. } = oracle::require()?;
    cpu::pin(CPU)?;
    let mut vmm = linux::monitor(SAMPLES_A_RATIO * RATIOS.len())?
        .stdout(Stdio::piped())
        .spawn()
        .context("start the monitor")?;
    // Watch from elsewhere, so that the guest has its CPU to itself.
    cpu::pin(cpus as usize - 1)?;
    let msrs = Msrs::open(CPU)?;

    let mut rows = Vec::new();
    let mut log = Vec::new();
    let mut samples = 0;
    let mut before = oracle::truth(CPU as u64).host;
    let console = BufReader::new(vmm.stdout.take().context("no console")?);
    for line in console.lines() {
        let line = line?.replace('\r', "");
        let Some(message) = line.strip_prefix("guest: ") else {
            log.push(line);
            continue;
        };
        let Some(mhz) = message.strip_prefix("cpu MHz ") else {
            println!("The Linux guest says: {message}");
            continue;
        };

        let ratio = RATIOS[samples / SAMPLES_A_RATIO];
        samples += 1;
        if samples % SAMPLES_A_RATIO == 0 {
            let ran = oracle::truth(CPU as u64).host - before;
            rows.push(Row {
                guest: "Linux",
                set_mhz: base_mhz * ratio as f64 / RATIO_ONE as f64,
                ran_mhz: base_mhz * ran.ratio(),
                seen_mhz: mhz.parse()?,
                exits: None,
                host_error: msrs.error()?,
            });
            if let Some(&next) = RATIOS.get(samples / SAMPLES_A_RATIO) {
                oracle::set_ratio(ALL_CPUS, next);
            }
        }
        before = oracle::truth(CPU as u64).host;
    }
    oracle::set_ratio(ALL_CPUS, RATIO_ONE);

    let status = vmm.wait()?;
    let log = log.join("\n");
    ensure!(status.success(), "{log}\nthe monitor failed: {status}");
    ensure!(
        rows.len() == RATIOS.len(),
        "{log}\nthe guest did not finish"
    );
    Ok(rows)
}

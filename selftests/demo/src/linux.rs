// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A stock Linux guest, which shows its frequency on its console again and
//! again, while the frequency of its CPU is changed and a neighbour takes half
//! of it.

use std::io::{BufRead, BufReader};
use std::mem;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use harness::host::Msrs;
use harness::oracle::{self, ALL_CPUS, Machine, RATIO_ONE};
use harness::{Pair, cpu, linux};

use crate::neighbour::Neighbour;
use crate::timeline::{Moment, Timeline};
use crate::turbostat::Turbostat;
use crate::{CPU, cpuinfo};

/// One part of the show: the CPU's frequency, and whether a neighbour runs on it.
struct Part {
    ratio: u64,
    shared: bool,
}

const fn part(ratio: u64, shared: bool) -> Part {
    Part { ratio, shared }
}

/// Base, throttled, turbo, base; then shared at base and turbo; then alone again.
const PARTS: [Part; 7] = [
    part(RATIO_ONE, false),
    part(RATIO_ONE * 3 / 5, false),
    part(RATIO_ONE * 3 / 2, false),
    part(RATIO_ONE, false),
    part(RATIO_ONE, true),
    part(RATIO_ONE * 3 / 2, true),
    part(RATIO_ONE, false),
];

/// How often the guest shows its frequency in each part.
const SAMPLES: usize = 8;

/// What has run since the machine started, at one time.
struct Account {
    /// TSC ticks.
    tsc: u64,
    /// The true counters of the guest's CPU.
    host: Pair,
    /// CPU time of the monitor, in seconds, by the scheduler's account.
    monitor: f64,
}

impl Account {
    fn now(vmm: &Child) -> Result<Self> {
        Ok(Account {
            tsc: cpu::tsc(),
            host: oracle::truth(CPU as u64).host,
            monitor: process_time(vmm)?,
        })
    }
}

/// Boots the guest, and shows each sample as it comes.
pub fn run(timeline: &mut Timeline) -> Result<()> {
    let Machine { cpus, tsc_hz } = oracle::require()?;
    let base_mhz = tsc_hz as f64 / 1e6;
    // Watch from elsewhere, so that the guest has its CPU to itself.
    let elsewhere = cpus as usize - 1;
    cpu::pin(elsewhere)?;
    let mut turbostat = Turbostat::start()?;
    cpu::pin(CPU)?;
    let mut vmm = linux::monitor(SAMPLES * PARTS.len())?
        .stdout(Stdio::piped())
        .spawn()
        .context("start the monitor")?;
    cpu::pin(elsewhere)?;
    let msrs = Msrs::open(CPU)?;

    let mut log = Vec::new();
    let mut neighbour = None;
    let mut samples = 0;
    let mut before = Account::now(&vmm)?;
    let mut start = 0;
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

        let now = Account::now(&vmm)?;
        if samples == 0 {
            start = now.tsc;
            timeline.head();
        }
        let seconds = (now.tsc - before.tsc) as f64 / tsc_hz as f64;
        let cpu_mhz = base_mhz * (now.host - before.host).ratio();
        let share = ((now.monitor - before.monitor) / seconds).min(1.0);
        timeline.add(Moment {
            seconds: (now.tsc - start) as f64 / tsc_hz as f64,
            shared: neighbour.is_some(),
            cpu_mhz,
            got_mhz: cpu_mhz * share,
            guest_mhz: mhz.parse()?,
            host_mhz: cpuinfo::mhz(CPU)?,
            turbostat_mhz: turbostat.mhz()?,
            host_error: msrs.error()?,
        });

        samples += 1;
        let part = PARTS.get(samples / SAMPLES);
        if let Some(part) = part.filter(|_| samples % SAMPLES == 0) {
            oracle::set_ratio(ALL_CPUS, part.ratio);
            neighbour = part.shared.then(Neighbour::start);
        }
        before = Account::now(&vmm)?;
    }
    drop(neighbour);
    oracle::set_ratio(ALL_CPUS, RATIO_ONE);

    let status = vmm.wait()?;
    let log = log.join("\n");
    ensure!(status.success(), "{log}\nthe monitor failed: {status}");
    ensure!(
        samples == SAMPLES * PARTS.len(),
        "{log}\nthe guest did not finish"
    );
    Ok(())
}

/// CPU time of all threads of a process, in seconds.
fn process_time(process: &Child) -> Result<f64> {
    let mut clock = 0;
    // SAFETY: Both are writable, and all zeroes is a valid time.
    let (failed, time) = unsafe {
        let mut time: libc::timespec = mem::zeroed();
        let failed = libc::clock_getcpuclockid(process.id() as i32, &mut clock) != 0
            || libc::clock_gettime(clock, &mut time) != 0;
        (failed, time)
    };
    ensure!(!failed, "no CPU time of the monitor");
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

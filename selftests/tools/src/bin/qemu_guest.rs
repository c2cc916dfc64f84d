// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A stock Linux under a stock QEMU, which knows nothing of the counters: it has
//! them if the administrator granted them, finds the frequency of its CPU, its
//! share of a CPU and its cap, and its kernel does not complain about them.
//!
//! Bounds: what /proc/cpuinfo shows is the average of one tick, in which the host
//! may have had its share, so that the best of some samples counts: 5 %. A share
//! and a cap are measured with the guest's rdmsr over a longer time, in which the
//! scheduler's slices average out: 15 %.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use harness::ktap::Skip;
use harness::module::{self, Module};
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio};
use harness::qemu::{Qemu, Setup};
use harness::{Pair, cpu, ktap, note, oracle};

const GRANTED: Setup = Setup {
    cpu: "host",
    vcpus: 1,
    granted: true,
};

/// What scale_freq_tick() says when it gives up.
const LOST_TRUST: &str = "wobbly";

/// Keeps each CPU of the guest busy for good.
const BUSY: &str = "for cpu in $(seq 0 $(($(nproc) - 1))); do \
                    taskset -c $cpu sh -c 'while :; do :; done' & done";

/// The frequency of the TSC, in MHz.
fn base_mhz() -> Result<f64> {
    Ok(oracle::require()?.tsc_hz as f64 / 1e6)
}

fn has_flag(guest: &mut Qemu) -> Result<bool> {
    let flags = guest.shell("grep -m 1 -ow aperfmperf /proc/cpuinfo || true")?;
    Ok(flags.contains("aperfmperf"))
}

/// The most that the guest's /proc/cpuinfo says of its first CPU in some samples.
fn cpuinfo_mhz(guest: &mut Qemu) -> Result<f64> {
    const SAMPLES: &str = "for i in 1 2 3 4 5; do \
                           sleep 0.02; grep -m 1 'cpu MHz' /proc/cpuinfo; done";

    let mut most = 0.0;
    for line in guest.shell(SAMPLES)?.lines() {
        let mhz = line.split(':').nth(1).context("no cpu MHz")?;
        most = f64::max(most, mhz.trim().parse()?);
    }
    Ok(most)
}

/// The pair of the guest's first CPU, as the guest's rdmsr shows it.
fn rdmsr(guest: &mut Qemu) -> Result<Pair> {
    let said = guest.shell("rdmsr -p 0 -d 0xe8; rdmsr -p 0 -d 0xe7")?;
    let mut values = said.lines().map(|line| line.trim().parse());
    let mut next = || values.next().context("rdmsr said nothing");
    Ok(Pair {
        aperf: next()??,
        mperf: next()??,
    })
}

/// The frequency that the pair shows over half a second of the guest's time.
fn mhz_by_rdmsr(guest: &mut Qemu) -> Result<f64> {
    let before = rdmsr(guest)?;
    guest.shell("sleep 0.5")?;
    Ok(base_mhz()? * (rdmsr(guest)? - before).ratio())
}

fn expect_mhz(what: &str, seen: f64, expected: f64, bound: f64) -> Result<()> {
    note!("{what}: {seen:.1} MHz, expected {expected:.1} MHz");
    ensure!(
        (seen / expected - 1.0).abs() <= bound,
        "{what}: {seen:.1} MHz, not {expected:.1}"
    );
    Ok(())
}

fn expect_trust(guest: &mut Qemu) -> Result<()> {
    let log = guest.shell("dmesg")?;
    ensure!(
        !log.contains(LOST_TRUST) && !log.contains("unchecked MSR"),
        "the guest's kernel complains: {log}"
    );
    Ok(())
}

fn not_granted() -> Result<()> {
    let _module = Module::loaded()?;
    let mut guest = Qemu::boot(&Setup {
        granted: false,
        ..GRANTED
    })?;
    ensure!(!has_flag(&mut guest)?, "the guest has the flag unasked");
    ensure!(
        guest.shell("! rdmsr 0xe7")?.contains("cannot read"),
        "the guest reads a counter"
    );
    ensure!(module::users()? == 0, "a vCPU has a pair unasked");
    Ok(())
}

fn follows_frequency() -> Result<()> {
    let _module = Module::loaded()?;
    let mut guest = Qemu::boot(&GRANTED)?;
    ensure!(has_flag(&mut guest)?, "the flag is missing");
    // One by the vCPU, one by the grant.
    ensure!(module::users()? == 2, "{} users", module::users()?);

    guest.shell(BUSY)?;
    for ratio in [RATIO_ONE, RATIO_ONE * 3 / 5, RATIO_ONE * 3 / 2] {
        let _ratio = Ratio::set(ALL_CPUS, ratio);
        guest.shell("sleep 0.1")?;
        let expected = base_mhz()? * ratio as f64 / RATIO_ONE as f64;
        expect_mhz("cpu MHz", cpuinfo_mhz(&mut guest)?, expected, 0.05)?;
        expect_mhz("by rdmsr", mhz_by_rdmsr(&mut guest)?, expected, 0.1)?;
    }
    expect_trust(&mut guest)
}

/// Two busy vCPUs that share a CPU see half of it each.
fn shares_a_cpu() -> Result<()> {
    if cpu::is_amd() {
        bail!(Skip(
            "a second vCPU of QEMU's microvm does not come up on the emulated AMD CPU".into()
        ));
    }
    let _module = Module::loaded()?;
    let mut guest = Qemu::boot(&Setup {
        vcpus: 2,
        ..GRANTED
    })?;
    guest.shell(BUSY)?;
    expect_mhz(
        "by rdmsr",
        mhz_by_rdmsr(&mut guest)?,
        base_mhz()? / 2.0,
        0.15,
    )?;
    expect_trust(&mut guest)
}

/// A control group that lets its processes run for a quarter of the time.
struct Quarter;

impl Quarter {
    const MOUNT: &str = "/tmp/cgroup";
    const GROUP: &str = "/tmp/cgroup/quarter";

    /// With a period as short as a tick, each tick sees the same share.
    fn of(pid: u32) -> Result<Self> {
        fs::create_dir_all(Self::MOUNT)?;
        let mounted = std::process::Command::new("/bin/mount")
            .args(["-t", "cgroup2", "none", Self::MOUNT])
            .status()?;
        ensure!(mounted.success(), "no cgroup2");
        fs::write(format!("{}/cgroup.subtree_control", Self::MOUNT), "+cpu")?;
        fs::create_dir(Self::GROUP)?;
        fs::write(format!("{}/cpu.max", Self::GROUP), "1000 4000")?;
        fs::write(format!("{}/cgroup.procs", Self::GROUP), pid.to_string())?;
        Ok(Quarter)
    }
}

impl Drop for Quarter {
    fn drop(&mut self) {
        let _ = std::process::Command::new("/bin/umount")
            .arg(Self::MOUNT)
            .status();
    }
}

fn is_capped() -> Result<()> {
    let _module = Module::loaded()?;
    let mut guest = Qemu::boot(&GRANTED)?;
    guest.shell(BUSY)?;
    let _quarter = Quarter::of(guest.pid())?;
    guest.shell("sleep 0.1")?;
    note!("cpu MHz: {:.1}", cpuinfo_mhz(&mut guest)?);
    expect_mhz(
        "by rdmsr",
        mhz_by_rdmsr(&mut guest)?,
        base_mhz()? / 4.0,
        0.15,
    )?;
    expect_trust(&mut guest)
}

fn main() -> ExitCode {
    ktap::run(&[
        ("without a grant, no counters", not_granted),
        ("granted, it follows the frequency", follows_frequency),
        ("two vCPUs on a CPU see half of it", shares_a_cpu),
        ("a quota is seen as a lower frequency", is_capped),
    ])
}

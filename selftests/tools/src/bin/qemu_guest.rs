// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A stock Linux under a stock QEMU, which knows nothing of the counters: it has
//! them if the administrator granted them, finds the frequency of its CPU, its
//! share of a CPU and its cap, by its own tools too, and its kernel does not complain
//! about them.
//!
//! Bounds: what /proc/cpuinfo shows is the average of one tick, in which the host
//! may have had its share, so that the best of some samples counts: 5 %. A share
//! and a cap are measured with the guest's rdmsr over a longer time, in which the
//! scheduler's slices average out: 15 %. A capped CPU runs as it likes until the
//! host's tick, and then not until it has made up for that, so that some of the
//! guest's ticks see the cap or less. A tool shows whole MHz of some tenths of a
//! second: 10 %.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use harness::module::{self, Module};
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio};
use harness::qemu::{Qemu, Setup, base_mhz, expect_mhz};
use harness::{cpu, ktap, note};

/// cpupower wants an invariant TSC, which QEMU offers only to a VM that asks for it.
const GRANTED: Setup = Setup {
    cpu: "host,+invtsc",
    vcpus: 1,
    granted: true,
};

fn not_granted() -> Result<()> {
    let _module = Module::loaded()?;
    let mut guest = Qemu::boot(&Setup {
        granted: false,
        ..GRANTED
    })?;
    ensure!(!guest.has_flag()?, "the guest has the flag unasked");
    ensure!(
        guest.shell("! rdmsr 0xe7")?.contains("cannot read"),
        "the guest reads a counter"
    );
    ensure!(module::users()? == 0, "a vCPU has a pair unasked");
    Ok(())
}

fn granted() -> Result<()> {
    let _module = Module::loaded()?;
    let mut guest = Qemu::boot(&GRANTED)?;
    ensure!(guest.has_flag()?, "the flag is missing");
    // One by the vCPU, one by the grant.
    ensure!(module::users()? == 2, "{} users", module::users()?);

    guest.be_busy()?;
    for ratio in [RATIO_ONE, RATIO_ONE * 3 / 2] {
        follows_frequency(&mut guest, ratio)?;
    }
    let throttled = RATIO_ONE * 3 / 5;
    follows_frequency(&mut guest, throttled)?;
    {
        let _ratio = Ratio::set(ALL_CPUS, throttled);
        let expected = base_mhz()? * 0.6;
        if !cpu::is_amd() {
            expect_mhz("cpupower", cpupower(&mut guest)?, expected, 0.1)?;
        }
        expect_mhz("turbostat", turbostat(&mut guest)?, expected, 0.1)?;
    }
    is_capped(&mut guest)?;
    guest.expect_trust()
}

fn follows_frequency(guest: &mut Qemu, ratio: u64) -> Result<()> {
    let _ratio = Ratio::set(ALL_CPUS, ratio);
    guest.shell("sleep 0.1")?;
    let expected = base_mhz()? * ratio as f64 / RATIO_ONE as f64;
    let best = guest.cpuinfo_mhz()?.pop().context("no sample")?;
    expect_mhz("cpu MHz", best, expected, 0.05)?;
    expect_mhz("by rdmsr", guest.mhz_by_rdmsr()?[0], expected, 0.1)
}

/// What the guest's `cpupower monitor` shows of its busy CPU. On AMD it wants to read
/// from HWCR that the TSC ticks at base frequency, of which KVM says nothing.
fn cpupower(guest: &mut Qemu) -> Result<f64> {
    let said = guest.shell("cpupower monitor -m Mperf sleep 0.3")?;
    let last = said.lines().rfind(|line| line.contains('|'));
    let mhz = last.and_then(|line| line.rsplit('|').next());
    mhz.unwrap_or_default().trim().parse().context(said)
}

/// What the guest's turbostat shows of its busy CPU. It wants MSRs that KVM does not
/// emulate, but for --no-msr, with which it reads the counters by perf; and for Bzy_MHz
/// the base frequency, which QEMU does not tell.
fn turbostat(guest: &mut Qemu) -> Result<f64> {
    let said = guest.shell("turbostat --quiet --no-msr --show Avg_MHz sleep 0.3")?;
    let mut words = said.split_whitespace();
    let mhz = words.find(|word| *word == "Avg_MHz").and(words.next());
    mhz.unwrap_or_default().parse().context(said)
}

/// A control group whose threads run for a quarter of the time.
struct Quarter;

impl Quarter {
    const MOUNT: &str = "/tmp/cgroup";
    const GROUP: &str = "/tmp/cgroup/quarter";

    /// With a period about as short as a tick of host and guest, and in no ratio to it: else
    /// each tick could see the same part of it.
    fn of(thread: i32) -> Result<Self> {
        fs::create_dir_all(Self::MOUNT)?;
        let mounted = std::process::Command::new("/bin/mount")
            .args(["-t", "cgroup2", "none", Self::MOUNT])
            .status()?;
        ensure!(mounted.success(), "no cgroup2");
        fs::write(format!("{}/cgroup.subtree_control", Self::MOUNT), "+cpu")?;
        fs::create_dir(Self::GROUP)?;
        fs::write(format!("{}/cgroup.type", Self::GROUP), "threaded")?;
        fs::write(format!("{}/cpu.max", Self::GROUP), "1175 4700")?;
        fs::write(
            format!("{}/cgroup.threads", Self::GROUP),
            thread.to_string(),
        )?;
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

fn is_capped(guest: &mut Qemu) -> Result<()> {
    let thread = guest.vcpu_threads()?[0];
    let _quarter = Quarter::of(thread)?;
    guest.shell("sleep 0.1")?;
    let cap = base_mhz()? / 4.0;
    expect_mhz("capped, by rdmsr", guest.mhz_by_rdmsr()?[0], cap, 0.15)?;

    let samples = guest.cpuinfo_mhz()?;
    note!("capped, cpu MHz: {samples:.1?}");
    ensure!(
        samples[0] <= cap * 1.15,
        "the cap is not in cpu MHz: {samples:?}"
    );
    Ok(())
}

/// Two busy vCPUs that share a CPU see half of it each.
fn shares_a_cpu() -> Result<()> {
    let _module = Module::loaded()?;
    let mut guest = Qemu::boot(&Setup {
        vcpus: 2,
        ..GRANTED
    })?;
    guest.be_busy()?;
    let vcpus = guest.mhz_by_rdmsr()?;
    ensure!(vcpus.len() == 2, "{} vCPUs came up", vcpus.len());
    for mhz in vcpus {
        expect_mhz("shared, by rdmsr", mhz, base_mhz()? / 2.0, 0.15)?;
    }
    guest.expect_trust()
}

fn main() -> ExitCode {
    ktap::run(&[
        ("without a grant, no counters", not_granted),
        ("granted, it sees frequency and cap", granted),
        ("two vCPUs on a CPU see half of it", shares_a_cpu),
    ])
}

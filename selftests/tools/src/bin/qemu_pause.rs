// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A guest of a stock QEMU that is paused, and one that is saved and restored.
//!
//! QEMU tells KVM about a pause when it ends (KVM_KVMCLOCK_CTRL): it is not in MPERF,
//! for what a tenth of it is room enough for the commands around. QEMU does not save
//! the counters of a VM: in the next one they start anew. In both cases /proc/cpuinfo
//! shows the frequency afterwards, by the best of some samples: 5 %.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::module::Module;
use harness::qemu::{Qemu, Setup, base_mhz};
use harness::{Pair, ktap, note};

const GRANTED: Setup = Setup {
    cpu: "host",
    vcpus: 1,
    granted: true,
    incoming: None,
};

const PAUSE: Duration = Duration::from_secs(10);

fn expect_frequency(guest: &mut Qemu) -> Result<()> {
    guest.shell("sleep 0.1")?;
    let best = guest.cpuinfo_mhz()?.pop().context("no sample")?;
    note!("cpu MHz: {best:.1}");
    ensure!((best / base_mhz()? - 1.0).abs() <= 0.05, "{best:.1} MHz");
    Ok(())
}

/// `ticks` of MPERF or of APERF at base frequency.
fn seconds(ticks: u64) -> Result<f64> {
    Ok(ticks as f64 / 1e6 / base_mhz()?)
}

fn pair(guest: &mut Qemu) -> Result<Pair> {
    guest.pairs()?.first().copied().context("no pair")
}

fn is_paused(guest: &mut Qemu) -> Result<()> {
    let before = pair(guest)?;
    guest.qmp("stop")?;
    ktap::alive();
    thread::sleep(PAUSE);
    guest.qmp("cont")?;
    let advance = pair(guest)? - before;
    let (aperf, mperf) = (seconds(advance.aperf)?, seconds(advance.mperf)?);
    note!("a pause of {PAUSE:?}: {mperf:.3} s in MPERF, {aperf:.3} s in APERF");
    ensure!(
        mperf < PAUSE.as_secs_f64() / 10.0,
        "the pause is in MPERF: {mperf:.3} s"
    );

    expect_frequency(guest)?;
    guest.expect_trust()
}

fn is_restored(mut guest: Qemu) -> Result<()> {
    const STATE: &str = "file:/tmp/state";

    let before = pair(&mut guest)?;
    guest.qmp("stop")?;
    guest.qmp_with("migrate", &format!("{{\"uri\": \"{STATE}\"}}"))?;
    guest.wait_for("query-migrate", "\"status\": \"completed\"")?;
    drop(guest);

    let mut guest = Qemu::boot(&Setup {
        incoming: Some(STATE),
        ..GRANTED
    })?;
    guest.wait_for("query-status", "\"status\": \"paused\"")?;
    guest.qmp("cont")?;
    let after = pair(&mut guest)?;
    let (old, new) = (seconds(before.mperf)?, seconds(after.mperf)?);
    note!("MPERF was at {old:.3} s and is at {new:.3} s");
    ensure!(new < old, "who has saved the counters?");
    expect_frequency(&mut guest)
}

/// One guest for both, as its boot takes the most of the time.
fn is_paused_and_restored() -> Result<()> {
    let _module = Module::loaded()?;
    let mut guest = Qemu::boot(&GRANTED)?;
    guest.be_busy()?;
    is_paused(&mut guest)?;
    is_restored(guest)
}

fn main() -> ExitCode {
    ktap::run(&[(
        "a pause is not in MPERF; restored, the counters start anew",
        is_paused_and_restored,
    )])
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A stock Linux under a QEMU with patches/qemu, which has the counters as a feature of
//! its CPU models: with `-cpu host` if the module is loaded, unless the user says no,
//! and with another model if the user says so. Both counters are saved with the VM, as
//! they were when it stopped.
//!
//! Bounds: `cpu MHz` as in qemu_guest; a pause, before the state is saved too, may leave
//! a tenth of itself in either counter, room enough for the commands around.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use harness::ktap::Skip;
use harness::module::{self, Module};
use harness::qemu::{self, Qemu, Setup, seconds};
use harness::{Pair, ktap, note};

const PAUSE: Duration = Duration::from_secs(10);

/// A model of which no version has the feature by itself.
const NAMED: &str = "kvm64,+aperfmperf";

/// One vCPU, and no grant.
fn boot(cpu: &str) -> Result<Qemu> {
    Qemu::boot(&setup(cpu))
}

fn setup(cpu: &str) -> Setup<'_> {
    Setup {
        cpu,
        vcpus: 1,
        granted: false,
    }
}

fn expect_feature_known() -> Result<()> {
    if !qemu::knows_feature()? {
        bail!(Skip("this QEMU is without patches/qemu".into()));
    }
    Ok(())
}

fn expect_no_counters(guest: &mut Qemu) -> Result<()> {
    ensure!(!guest.has_flag()?, "the guest has the flag");
    ensure!(
        guest.shell("! rdmsr 0xe7")?.contains("cannot read"),
        "the guest reads a counter"
    );
    Ok(())
}

fn without_module() -> Result<()> {
    expect_feature_known()?;
    let _without = Module::unloaded()?;
    let refusal = qemu::refusal(&format!("{NAMED},enforce"))?;
    for line in refusal.lines() {
        note!("{line}");
    }
    ensure!(
        refusal.contains("CPUID.06H:ECX.aperfmperf [bit 0]"),
        "QEMU does not say what lacks"
    );
    expect_no_counters(&mut boot("host")?)
}

fn disabled() -> Result<()> {
    expect_feature_known()?;
    let _module = Module::loaded()?;
    let mut guest = boot("host,-aperfmperf")?;
    expect_no_counters(&mut guest)?;
    ensure!(module::users()? == 0, "a vCPU has a pair unasked");
    Ok(())
}

fn expect_counters(guest: &mut Qemu) -> Result<()> {
    ensure!(guest.has_flag()?, "the flag is missing");
    ensure!(module::users()? == 1, "{} users", module::users()?);
    guest.be_busy()?;
    guest.expect_base_frequency()
}

fn named() -> Result<()> {
    expect_feature_known()?;
    let _module = Module::loaded()?;
    expect_counters(&mut boot(NAMED)?)
}

/// `after` is the pair `before`, and what the commands around took.
fn expect_continued(what: &str, before: Pair, after: Pair) -> Result<()> {
    let counters = [
        ("APERF", before.aperf, after.aperf),
        ("MPERF", before.mperf, after.mperf),
    ];
    for (name, before, after) in counters {
        let (before, after) = (seconds(before)?, seconds(after)?);
        note!("{what}: {name} was at {before:.3} s and is at {after:.3} s");
        ensure!(
            (0.0..PAUSE.as_secs_f64() / 10.0).contains(&(after - before)),
            "{what}: {name} does not go on from {before:.3} s but is at {after:.3} s"
        );
    }
    Ok(())
}

/// One guest for all, as its boot takes the most of the time.
fn host_model() -> Result<()> {
    expect_feature_known()?;
    let _module = Module::loaded()?;
    let mut guest = boot("host")?;
    expect_counters(&mut guest)?;

    let before = guest.pair()?;
    guest.pause(PAUSE)?;
    expect_continued("paused", before, guest.pair()?)?;

    let before = guest.pair()?;
    guest.save(PAUSE)?;
    let mut guest = Qemu::restore(&setup("host"))?;
    expect_continued("restored", before, guest.pair()?)?;
    guest.expect_base_frequency()?;
    guest.expect_trust()
}

fn main() -> ExitCode {
    ktap::run(&[
        (
            "the host's CPU has them, over pause and restore",
            host_model,
        ),
        ("the host's CPU without the feature has none", disabled),
        ("a named model with the feature has them", named),
        ("without the module there are none", without_module),
    ])
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A guest of a stock QEMU that is paused, and one that is saved and restored.
//!
//! QEMU tells KVM about a pause when it ends (KVM_KVMCLOCK_CTRL): it is not in MPERF,
//! for what a tenth of it is room enough for the commands around. QEMU does not save
//! the counters of a VM: in the next one they start anew. In both cases /proc/cpuinfo
//! shows the frequency afterwards, by the best of some samples: 5 %.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::module::Module;
use harness::qemu::{Qemu, Setup, seconds};
use harness::{ktap, note};

const GRANTED: Setup = Setup {
    cpu: "host",
    vcpus: 1,
    granted: true,
};

const PAUSE: Duration = Duration::from_secs(10);

fn is_paused(guest: &mut Qemu) -> Result<()> {
    let before = guest.pair()?;
    guest.pause(PAUSE)?;
    let advance = guest.pair()? - before;
    let (aperf, mperf) = (seconds(advance.aperf)?, seconds(advance.mperf)?);
    note!("a pause of {PAUSE:?}: {mperf:.3} s in MPERF, {aperf:.3} s in APERF");
    ensure!(
        mperf < PAUSE.as_secs_f64() / 10.0,
        "the pause is in MPERF: {mperf:.3} s"
    );

    guest.expect_base_frequency()?;
    guest.expect_trust()
}

fn is_restored(mut guest: Qemu) -> Result<()> {
    let before = guest.pair()?;
    guest.save(Duration::ZERO)?;

    let mut guest = Qemu::restore(&GRANTED)?;
    let after = guest.pair()?;
    let (old, new) = (seconds(before.mperf)?, seconds(after.mperf)?);
    note!("MPERF was at {old:.3} s and is at {new:.3} s");
    ensure!(new < old, "who has saved the counters?");
    guest.expect_base_frequency()
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

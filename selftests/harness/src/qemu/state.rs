// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A guest under QEMU that is paused, saved and restored.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::{Qemu, Setup};
use crate::ktap;

/// Where a state is saved, as QEMU wants it.
const STATE: &str = "file:/tmp/state";

impl Qemu {
    /// Stops the guest for some time.
    pub fn pause(&mut self, time: Duration) -> Result<()> {
        self.qmp("stop")?;
        ktap::alive();
        thread::sleep(time);
        self.qmp("cont").map(drop)
    }

    /// Stops the guest, saves its state after some time, and ends this QEMU.
    pub fn save(mut self, after: Duration) -> Result<()> {
        self.qmp("stop")?;
        ktap::alive();
        thread::sleep(after);
        self.qmp_with("migrate", &format!("{{\"uri\": \"{STATE}\"}}"))?;
        self.wait_for("query-migrate", "\"status\": \"completed\"")
    }

    /// The guest that was saved, in a QEMU of its own. Its shell goes on.
    pub fn restore(setup: &Setup) -> Result<Self> {
        let mut qemu = Self::start(setup, &["-incoming", STATE])?;
        qemu.share_first_cpu()?;
        qemu.wait_for("query-status", "\"status\": \"paused\"")?;
        qemu.qmp("cont")?;
        Ok(qemu)
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A CPU that goes offline and comes back.

use std::fs;
use std::io;

use crate::cpu;

/// The CPU that comes and goes.
pub const CPU: usize = 1;

/// That CPU, which is back online when this is dropped.
pub struct Second;

impl Second {
    /// # Errors
    ///
    /// What a driver says that keeps the CPU from coming or going.
    pub fn set_online(&self, online: bool) -> io::Result<()> {
        let path = format!("/sys/devices/system/cpu/cpu{CPU}/online");
        fs::write(path, if online { "1" } else { "0" })
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        if cpu::online() < 2 {
            self.set_online(true).expect("it was online before");
        }
    }
}

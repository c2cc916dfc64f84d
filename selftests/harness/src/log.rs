// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The kernel's log while a test runs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};

/// The kernel's log from some moment on.
pub struct Tail(File);

impl Tail {
    /// From now on.
    pub fn new() -> Result<Self> {
        let path = "/dev/kmsg";
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .context(path)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Tail(file))
    }

    /// What has come since this was called last, with the marks of `/dev/kmsg`.
    pub fn read(&mut self) -> Result<String> {
        let mut record = [0; 4096];
        let mut text = Vec::new();
        loop {
            match self.0.read(&mut record) {
                Ok(length) => text.extend_from_slice(&record[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("read /dev/kmsg"),
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

const PRINTK: &str = "/proc/sys/kernel/printk";

/// Keeps call traces off the serial console until it is dropped, as a character takes
/// thousands of instructions: they are messages without a level. Warnings have one.
#[must_use]
pub struct TracesOffConsole(String);

pub fn traces_off_console() -> Result<TracesOffConsole> {
    let levels = fs::read_to_string(PRINTK).context(PRINTK)?;
    let console = levels.split_whitespace().next().context(PRINTK)?;
    fs::write(PRINTK, format!("{console} 7")).context(PRINTK)?;
    Ok(TracesOffConsole(levels))
}

impl Drop for TracesOffConsole {
    fn drop(&mut self) {
        fs::write(PRINTK, &self.0).expect("the levels were valid before");
    }
}

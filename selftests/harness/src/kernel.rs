// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What the host's kernel has to say about itself.

use std::fs;
use std::io;
use std::mem;

use anyhow::{Context, Result, bail, ensure};

use crate::ktap::Skip;

/// Bit of /proc/sys/kernel/tainted that a warning sets, for good.
const TAINT_WARN: u64 = 1 << 9;

const SYSLOG_ACTION_READ_ALL: libc::c_int = 3;

/// Fails if the kernel has warned since it booted.
pub fn expect_no_warning() -> Result<()> {
    let tainted = fs::read_to_string("/proc/sys/kernel/tainted").context("taint mask")?;
    let tainted: u64 = tainted.trim().parse()?;
    ensure!(tainted & TAINT_WARN == 0, "the kernel has warned");
    Ok(())
}

/// Whether the scheduler has frequency invariance: it gives it up for good when it
/// finds APERF and MPERF implausible, see scale_freq_tick().
pub fn has_frequency_invariance() -> Result<bool> {
    let log = log()?;
    Ok(log.contains("Estimated ratio of average max frequency") && !log.contains("went wobbly"))
}

/// Fails if the scheduler gave up frequency invariance during `test`.
pub fn keeping_frequency_invariance(test: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = has_frequency_invariance()?;
    test()?;
    ensure!(
        has_frequency_invariance()? == before,
        "the host gave up frequency invariance"
    );
    Ok(())
}

/// Fails if the scheduler has given up frequency invariance. Skips a test if it
/// never had it.
pub fn expect_frequency_invariance() -> Result<()> {
    ensure!(
        !log()?.contains("went wobbly"),
        "frequency invariance is off"
    );
    if !has_frequency_invariance()? {
        bail!(Skip("this machine has no frequency invariance".into()));
    }
    Ok(())
}

/// How often the kernel's log has `text`, in as much of it as is still there.
pub fn count_in_log(text: &str) -> Result<usize> {
    Ok(log()?.matches(text).count())
}

/// Returns right after a tick of the kernel's clock.
pub fn wait_for_tick() {
    let start = coarse_time();
    while coarse_time() == start {}
}

/// Time of the last tick in nanoseconds.
fn coarse_time() -> i64 {
    // SAFETY: `time` is writable and all zeroes is a valid value.
    let time = unsafe {
        let mut time: libc::timespec = mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut time);
        time
    };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// The kernel's log, as much of it as is still there.
fn log() -> Result<String> {
    let mut buffer = vec![0u8; 1 << 20];
    // SAFETY: The buffer is as long as the kernel is told.
    let length = unsafe {
        libc::klogctl(
            SYSLOG_ACTION_READ_ALL,
            buffer.as_mut_ptr().cast(),
            buffer.len() as i32,
        )
    };
    if length < 0 {
        return Err(io::Error::last_os_error()).context("read the kernel's log");
    }
    buffer.truncate(length as usize);
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

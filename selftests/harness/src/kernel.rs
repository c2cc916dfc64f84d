// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What the host's kernel has to say about itself.

use std::fs;
use std::io;
use std::mem;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::cpu::{self, Alone};
use crate::ktap::Skip;

/// Bit of /proc/sys/kernel/tainted that a warning sets, for good.
const TAINT_WARN: u64 = 1 << 9;

/// What a CPU takes for a tick, in ticks of the TSC.
const TICK: u64 = 20_000;

/// The kernel's log as it was when tests began, if the machine's first program kept it:
/// the kernel itself forgets the oldest of it.
const BOOT_LOG: &str = "/tmp/boot.log";

/// How many times as long the code takes of a kernel that checks each lock and each access
/// to memory, at most.
const CHECKED: u64 = 8;

const SYSLOG_ACTION_READ_ALL: libc::c_int = 3;

/// What the kernel's code may take that takes up to `ticks` in a usual kernel, or what
/// else has to be as large in proportion.
pub fn cost(ticks: u64) -> u64 {
    if is_checked() { ticks * CHECKED } else { ticks }
}

/// What part of a guest's time may go to the kernel's code, and all else that is in the
/// same bound, if it is up to `part` in a usual kernel.
pub fn part_of_time(part: f64) -> f64 {
    if is_checked() { 2.0 * part } else { part }
}

/// Whether this kernel checks each lock, and maybe each access to memory.
pub fn is_checked() -> bool {
    Path::new("/proc/lockdep").exists()
}

/// Whether this is a PREEMPT_RT kernel, most of whose interrupts are threads.
pub fn is_realtime() -> io::Result<bool> {
    let version = fs::read_to_string("/proc/version")?;
    Ok(["PREEMPT_RT", "PREEMPT_{RT"]
        .iter()
        .any(|rt| version.contains(rt)))
}

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
    let log = fs::read_to_string(BOOT_LOG).unwrap_or_default() + &log()?;
    Ok(log.contains("Estimated ratio of average max frequency") && !log.contains("went wobbly"))
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

/// Returns right after a tick of the kernel's clock, which comes to all CPUs when
/// CLOCK_MONOTONIC is a multiple of its period, see tick_init_jiffy_update(). The
/// coarse clocks are no help: another CPU may keep them, and be late. One who is not
/// alone might be preempted by then, and come back right before the next tick.
pub fn wait_for_tick(_alone: &Alone) {
    let period = clock(libc::clock_getres, libc::CLOCK_MONOTONIC_COARSE);
    let ticks = || clock(libc::clock_gettime, libc::CLOCK_MONOTONIC) / period;
    let start = ticks();
    while ticks() == start {}
    cpu::spin(TICK);
}

type ClockCall = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> libc::c_int;

/// What `call` says of a clock, in nanoseconds.
fn clock(call: ClockCall, clock: libc::clockid_t) -> i64 {
    // SAFETY: `time` is writable and all zeroes is a valid value.
    let time = unsafe {
        let mut time: libc::timespec = mem::zeroed();
        call(clock, &mut time);
        time
    };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Returns when all of the kernel's log is on the serial console. The thread that puts it
/// there keeps interrupts disabled for milliseconds, and ticks and IPIs from its CPU.
pub fn wait_for_console() -> Result<()> {
    let stat = format!("/proc/{}/stat", thread("pr/ttyS0")?);
    while fs::read_to_string(&stat)?.contains(") R ") {
        thread::sleep(Duration::from_millis(4));
    }
    Ok(())
}

/// The number of the kernel's thread with this name.
///
/// # Errors
///
/// `NotFound` if there is none.
pub fn thread(name: &str) -> io::Result<libc::pid_t> {
    for entry in fs::read_dir("/proc")? {
        let number = entry?.file_name();
        let Some(number) = number.to_str().and_then(|number| number.parse().ok()) else {
            continue;
        };
        let comm = fs::read_to_string(format!("/proc/{number}/comm"));
        if comm.is_ok_and(|comm| comm.trim_end() == name) {
            return Ok(number);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, name))
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

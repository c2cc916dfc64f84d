// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! perf_event_open(2).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use anyhow::{Context, Result};

/// `struct perf_event_attr` in its first published size, PERF_ATTR_SIZE_VER0.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Attr {
    pub event_type: u32,
    size: u32,
    pub config: u64,
    pub sample_period: u64,
    pub sample_type: u64,
    pub read_format: u64,
    pub flags: u64,
    rest: [u64; 2],
}

const SIZE: usize = 64;
const _: () = assert!(size_of::<Attr>() == SIZE);

impl Attr {
    /// Counts everywhere.
    pub fn new(event_type: u32, config: u64) -> Self {
        Attr {
            event_type,
            size: SIZE as u32,
            config,
            sample_period: 0,
            sample_type: 0,
            read_format: 0,
            flags: 0,
            rest: [0; 2],
        }
    }

    /// `event`, such as "aperf", of the msr PMU.
    pub fn msr(event: &str) -> Result<Self> {
        let pmu = "/sys/bus/event_source/devices/msr";
        let pmu_type = fs::read_to_string(format!("{pmu}/type")).context("perf's msr PMU")?;
        let config = fs::read_to_string(format!("{pmu}/events/{event}"))
            .with_context(|| format!("event {event} of perf's msr PMU"))?;
        let config = config
            .trim()
            .strip_prefix("event=0x")
            .context("event=0x...")?;
        Ok(Self::new(
            pmu_type.trim().parse()?,
            u64::from_str_radix(config, 16)?,
        ))
    }
}

/// What an event counts.
#[derive(Clone, Copy, Debug)]
pub enum Scope {
    /// The calling thread, on whatever CPU it runs.
    ThisThread,
    /// All that happens on this CPU.
    Cpu(usize),
}

/// Opens an event, in the group of `leader` if there is one.
pub fn open(attr: &Attr, scope: Scope, leader: Option<&File>) -> Result<File> {
    let (thread, cpu) = match scope {
        Scope::ThisThread => (0, -1),
        Scope::Cpu(cpu) => (-1, cpu as i32),
    };
    let leader = leader.map_or(-1, |leader| leader.as_raw_fd());
    // SAFETY: `attr` is as large as it says, and the kernel only reads it.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attr, thread, cpu, leader, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("perf_event_open of {attr:?}"));
    }
    // SAFETY: The system call returned a descriptor that nobody else owns.
    Ok(unsafe { File::from_raw_fd(fd as i32) })
}

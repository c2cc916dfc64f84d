// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Hardware events of the host, as perf counts them for the calling thread.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;

use anyhow::{Result, ensure};
use harness::perf::{self, Attr, Scope};

use crate::metrics::{FULL_SCALE, Metrics};

/// What to count: a type and a configuration of perf_event_open(2).
#[derive(Clone, Copy, Debug)]
pub struct Kind(u32, u64);

const HARDWARE: u32 = 0;
const RAW: u32 = 4;

pub const CYCLES: Kind = Kind(HARDWARE, 0);
pub const INSTRUCTIONS: Kind = Kind(HARDWARE, 1);
pub const BRANCHES: Kind = Kind(HARDWARE, 4);
pub const REFERENCE_CYCLES: Kind = Kind(HARDWARE, 9);
/// Fixed counter 3; see the events in /sys/bus/event_source/devices/cpu.
pub const SLOTS: Kind = Kind(RAW, 0x0400);
/// The four metrics, in their order in IA32_PERF_METRICS.
pub const METRICS: [Kind; 4] = [
    Kind(RAW, 0x8000),
    Kind(RAW, 0x8100),
    Kind(RAW, 0x8200),
    Kind(RAW, 0x8300),
];

/// Where the event counts.
const EXCLUDE_KERNEL: u64 = 1 << 5;
/// A mediated PMU allows no other events beside it.
const EXCLUDE_GUEST: u64 = 1 << 20;

/// Counts when its group is complete, and not before.
const DISABLED: u64 = 1 << 0;
const PERF_EVENT_IOC_ENABLE: u64 = 0x2400;
/// A read returns how many events a group has, and the value of each at one time.
const PERF_FORMAT_GROUP: u64 = 1 << 3;

/// An event of the calling thread that has counted since it was opened.
pub struct Event(File);

impl Event {
    /// Counts in user space only.
    pub fn of_user_space(kind: Kind) -> Result<Self> {
        Self::open(kind, EXCLUDE_KERNEL | EXCLUDE_GUEST, 0, None)
    }

    /// Counts in the host, but not in guests.
    pub fn of_host(kind: Kind) -> Result<Self> {
        Self::open(kind, EXCLUDE_GUEST, 0, None)
    }

    fn open(
        Kind(event_type, config): Kind,
        flags: u64,
        read_format: u64,
        leader: Option<&Event>,
    ) -> Result<Self> {
        let mut attr = Attr::new(event_type, config);
        (attr.flags, attr.read_format) = (flags, read_format);
        let leader = leader.map(|leader| &leader.0);
        Ok(Event(perf::open(&attr, Scope::ThisThread, leader)?))
    }

    /// How often it happened.
    pub fn read(&self) -> io::Result<u64> {
        Ok(self.words::<1>()?[0])
    }

    fn words<const N: usize>(&self) -> io::Result<[u64; N]> {
        let mut words = [[0; 8]; N];
        (&self.0).read_exact(words.as_flattened_mut())?;
        Ok(words.map(u64::from_le_bytes))
    }
}

/// Slots and metrics of the calling thread in the host.
pub struct Topdown {
    slots: Event,
    _metrics: Vec<Event>,
}

impl Topdown {
    pub fn of_host() -> Result<Self> {
        let slots = Event::open(SLOTS, EXCLUDE_GUEST | DISABLED, PERF_FORMAT_GROUP, None)?;
        let metrics = METRICS.map(|kind| Event::open(kind, EXCLUDE_GUEST, 0, Some(&slots)));
        let metrics = metrics.into_iter().collect::<Result<_>>()?;
        // SAFETY: The request takes no argument.
        let ret = unsafe { libc::ioctl(slots.0.as_raw_fd(), PERF_EVENT_IOC_ENABLE, 0) };
        ensure!(ret == 0, "PERF_EVENT_IOC_ENABLE");
        Ok(Topdown {
            _metrics: metrics,
            slots,
        })
    }

    /// Slots so far, and into which parts they divide. perf rounds each part down to a
    /// slot, which is far less than half a step of a metric.
    pub fn read(&self) -> Result<(u64, Metrics)> {
        let [events, slots, counts @ ..] = self.slots.words::<6>()?;
        ensure!(events == 5, "a group of {events} events");
        let part = |count: u64| (count as f64 * f64::from(FULL_SCALE) / slots as f64).round() as u8;
        Ok((slots, Metrics(counts.map(part))))
    }
}

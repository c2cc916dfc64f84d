// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Hardware events of the host, as perf counts them for the calling thread.

use std::fs::File;
use std::io::{self, Read};

use anyhow::Result;
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

/// An event of the calling thread that has counted since it was opened.
pub struct Event(File);

impl Event {
    /// Counts in user space only.
    pub fn of_user_space(kind: Kind) -> Result<Self> {
        Self::open(kind, EXCLUDE_KERNEL | EXCLUDE_GUEST, None)
    }

    /// Counts in the host, but not in guests.
    pub fn of_host(kind: Kind) -> Result<Self> {
        Self::open(kind, EXCLUDE_GUEST, None)
    }

    fn open(Kind(event_type, config): Kind, flags: u64, leader: Option<&Event>) -> Result<Self> {
        let mut attr = Attr::new(event_type, config);
        attr.flags = flags;
        let leader = leader.map(|leader| &leader.0);
        Ok(Event(perf::open(&attr, Scope::ThisThread, leader)?))
    }

    /// How often it happened.
    pub fn read(&self) -> io::Result<u64> {
        let mut value = [0; 8];
        (&self.0).read_exact(&mut value)?;
        Ok(u64::from_le_bytes(value))
    }
}

/// Slots and metrics of the calling thread in the host.
pub struct Topdown {
    slots: Event,
    metrics: Vec<Event>,
}

impl Topdown {
    pub fn of_host() -> Result<Self> {
        let slots = Event::of_host(SLOTS)?;
        let metrics = METRICS.map(|kind| Event::open(kind, EXCLUDE_GUEST, Some(&slots)));
        Ok(Topdown {
            metrics: metrics.into_iter().collect::<Result<_>>()?,
            slots,
        })
    }

    /// Slots so far, and into which parts they divide.
    pub fn read(&self) -> Result<(u64, Metrics)> {
        let mut counts = [0; 4];
        for (count, event) in counts.iter_mut().zip(&self.metrics) {
            *count = event.read()?;
        }
        let slots = self.slots.read()?;
        let part = |count: u64| (count as f64 * f64::from(FULL_SCALE) / slots as f64).round() as u8;
        Ok((slots, Metrics(counts.map(part))))
    }
}

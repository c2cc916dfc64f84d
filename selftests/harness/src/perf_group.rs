// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Groups of perf's events, all of which are read whenever the first one is sampled.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::slice;

use anyhow::{Context, Result, ensure};

use crate::perf::{Attr, Scope, open};

const SAMPLE_IP: u64 = 1 << 0;
const SAMPLE_READ: u64 = 1 << 4;
const FORMAT_GROUP: u64 = 1 << 3;
const DISABLED: u64 = 1 << 0;

/// `_IO('$', 0)` and `_IO('$', 1)`
const PERF_EVENT_IOC_ENABLE: u64 = 0x2400;
const PERF_EVENT_IOC_DISABLE: u64 = 0x2401;

const PAGE: usize = 4096;
const DATA: usize = 128 * PAGE;
/// Where `struct perf_event_mmap_page` has `data_head`.
const DATA_HEAD: usize = 1024;

const RECORD_SAMPLE: u32 = 9;
/// Records begin with a type of 32 bits, where it happened, and their size in bytes.
const RECORD_HEADER: usize = 8;
const MISC_CPUMODE: u16 = 7;
const MISC_GUEST: [u16; 2] = [4, 5];

/// One sample.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Address of the instruction that was interrupted.
    pub ip: u64,
    /// Whether that was a guest's.
    pub in_guest: bool,
    /// What each event of the group had counted, the leader's first.
    pub counts: Vec<u64>,
}

/// A group on one CPU.
pub struct Group {
    leader: File,
    _members: Vec<File>,
    ring: *mut u8,
}

impl Group {
    /// Samples every `period` of `leader`, once it is started.
    pub fn new(mut leader: Attr, period: u64, members: &[Attr], cpu: usize) -> Result<Self> {
        leader.sample_period = period;
        leader.sample_type = SAMPLE_IP | SAMPLE_READ;
        leader.read_format = FORMAT_GROUP;
        leader.flags = DISABLED;
        let leader = open(&leader, Scope::Cpu(cpu), None)?;
        let members = members
            .iter()
            .map(|member| open(member, Scope::Cpu(cpu), Some(&leader)))
            .collect::<Result<_>>()?;
        // SAFETY: A new mapping takes nothing from anybody.
        let ring = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE + DATA,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                leader.as_raw_fd(),
                0,
            )
        };
        ensure!(
            ring != libc::MAP_FAILED,
            "mmap of perf's buffer: {}",
            io::Error::last_os_error()
        );
        Ok(Group {
            leader,
            _members: members,
            ring: ring.cast(),
        })
    }

    pub fn start(&self) -> Result<()> {
        self.control(PERF_EVENT_IOC_ENABLE)
    }

    /// Stops for good. Returns all samples in order.
    pub fn stop(&self) -> Result<Vec<Sample>> {
        self.control(PERF_EVENT_IOC_DISABLE)?;
        // SAFETY: Both pages are mapped, and nobody writes to them any more.
        let (head, data) = unsafe {
            (
                self.ring.add(DATA_HEAD).cast::<u64>().read_volatile() as usize,
                slice::from_raw_parts(self.ring.add(PAGE), DATA),
            )
        };
        ensure!(head <= DATA, "perf's buffer is too small");
        parse(&data[..head])
    }

    fn control(&self, request: u64) -> Result<()> {
        // SAFETY: The requests take no pointer.
        let ret = unsafe { libc::ioctl(self.leader.as_raw_fd(), request, 0) };
        ensure!(ret == 0, "perf's ioctl: {}", io::Error::last_os_error());
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours, and no reference into it is left.
        unsafe { libc::munmap(self.ring.cast(), PAGE + DATA) };
    }
}

fn parse(mut records: &[u8]) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    while !records.is_empty() {
        let word = |at: usize| u64::from_le_bytes(records[at..at + 8].try_into().unwrap());
        let header = word(0);
        let (kind, misc, size) = (
            header as u32,
            (header >> 32) as u16,
            (header >> 48) as usize,
        );
        ensure!(
            kind == RECORD_SAMPLE,
            "perf lost or throttled samples: {kind}"
        );
        let count = word(RECORD_HEADER + 8) as usize;
        samples.push(Sample {
            ip: word(RECORD_HEADER),
            in_guest: MISC_GUEST.contains(&(misc & MISC_CPUMODE)),
            counts: (0..count)
                .map(|n| word(RECORD_HEADER + 16 + 8 * n))
                .collect(),
        });
        records = records.get(size..).context("a record is cut off")?;
    }
    Ok(samples)
}

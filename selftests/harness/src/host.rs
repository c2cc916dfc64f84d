// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The pair as host user space reads it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

use crate::oracle;
use crate::pair::{MSR_IA32_APERF, MSR_IA32_MPERF, Pair};
use crate::perf::{self, Attr, Scope};

/// MSRs of one CPU: /dev/cpu/N/msr. A read executes RDMSR on that CPU, by an
/// IPI if it is another one.
pub struct Msrs {
    cpu: usize,
    file: File,
}

impl Msrs {
    pub fn open(cpu: usize) -> Result<Self> {
        let path = format!("/dev/cpu/{cpu}/msr");
        let file = File::open(&path).with_context(|| format!("open {path}"))?;
        Ok(Msrs { cpu, file })
    }

    fn read(&self, msr: u32) -> io::Result<u64> {
        let mut value = [0; 8];
        self.file.read_exact_at(&mut value, msr.into())?;
        Ok(u64::from_le_bytes(value))
    }

    fn aperf(&self) -> io::Result<u64> {
        self.read(MSR_IA32_APERF)
    }

    fn mperf(&self) -> io::Result<u64> {
        self.read(MSR_IA32_MPERF)
    }

    /// Reads both counters and returns how far each is from the truth, in ticks.
    pub fn errors(&self) -> io::Result<Pair> {
        let truth = || oracle::truth(self.cpu as u64).host;
        let (aperf, true_aperf) = bracket(|| truth().aperf, || self.aperf());
        let (mperf, true_mperf) = bracket(|| truth().mperf, || self.mperf());
        Ok(Pair {
            aperf: outside(aperf?, true_aperf),
            mperf: outside(mperf?, true_mperf),
        })
    }

    /// The larger one of [`Msrs::errors`].
    pub fn error(&self) -> io::Result<u64> {
        let Pair { aperf, mperf } = self.errors()?;
        Ok(aperf.max(mperf))
    }
}

/// What `read` returns, and the true values before and after it.
pub fn bracket<T>(truth: impl Fn() -> u64, read: impl FnOnce() -> T) -> (T, (u64, u64)) {
    let before = truth();
    let value = read();
    (value, (before, truth()))
}

/// How far `value` lies outside of the interval, in ticks; counters wrap.
pub fn outside(value: u64, (low, high): (u64, u64)) -> u64 {
    let below = low.wrapping_sub(value) as i64;
    let above = value.wrapping_sub(high) as i64;
    below.max(above).max(0) as u64
}

/// An event of perf's msr PMU on one CPU or of one thread, counting since it was opened.
pub struct PerfMsr(File);

impl PerfMsr {
    /// Opens `event`, such as "aperf", of the msr PMU on `cpu`.
    pub fn open(event: &str, cpu: usize) -> Result<Self> {
        Ok(PerfMsr(perf::open(
            &Attr::msr(event)?,
            Scope::Cpu(cpu),
            None,
        )?))
    }

    /// Opens `event` for the calling thread, on whatever CPU it runs.
    pub fn of_this_thread(event: &str) -> Result<Self> {
        Ok(PerfMsr(perf::open(
            &Attr::msr(event)?,
            Scope::ThisThread,
            None,
        )?))
    }

    /// Ticks since the event was opened.
    pub fn read(&self) -> io::Result<u64> {
        let mut value = [0; 8];
        (&self.0).read_exact(&mut value)?;
        Ok(u64::from_le_bytes(value))
    }
}

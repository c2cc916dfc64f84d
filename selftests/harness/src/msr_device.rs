// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The host pair by /dev/cpu/N/msr, in all of its ways, and by the kernel's helpers that no
//! device uses, for reading and writing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

use crate::Pair;
use crate::cpu::Alone;
use crate::host::{bracket, outside};
use crate::kernel;
use crate::oracle::{self, Truth};
use crate::pair::{MSR_IA32_APERF, MSR_IA32_MPERF};
use crate::rules;

/// How an MSR is accessed.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// pread(2), pwrite(2): rdmsr_safe_on_cpu(), wrmsr_safe_on_cpu().
    Offset,
    /// X86_IOC_RDMSR_REGS, X86_IOC_WRMSR_REGS: the ones with all registers.
    Registers,
    /// rdmsrq_on_cpu(), wrmsrq_on_cpu(). This way and the next one need
    /// [`Helper::msr_helpers`](crate::module::Helper::msr_helpers).
    OneCpu,
    /// rdmsr_on_cpus(), wrmsr_on_cpus().
    ManyCpus,
}

impl Way {
    pub const ALL: [Way; 4] = [Way::Offset, Way::Registers, Way::OneCpu, Way::ManyCpus];
}

/// `_IOWR('c', number, __u32[8])`
const fn request(number: u64) -> u64 {
    (3 << 30) | (32 << 16) | ((b'c' as u64) << 8) | number
}

const X86_IOC_RDMSR_REGS: u64 = request(0xa0);
const X86_IOC_WRMSR_REGS: u64 = request(0xa1);

/// Positions in what the ioctls take: EAX, ECX, EDX and so on.
const EAX: usize = 0;
const ECX: usize = 1;
const EDX: usize = 2;

/// One of the two counters.
#[derive(Clone, Copy)]
pub struct Counter {
    pub msr: u32,
    pub of: fn(Pair) -> u64,
}

pub const COUNTERS: [Counter; 2] = [
    Counter {
        msr: MSR_IA32_APERF,
        of: |pair| pair.aperf,
    },
    Counter {
        msr: MSR_IA32_MPERF,
        of: |pair| pair.mperf,
    },
];

/// Positions in msr_helpers.ko's file have the helper on top, then the CPU and the MSR.
const HELPERS: &str = "/dev/msr_helpers";
const HELPER_SHIFT: u32 = 48;
const CPU_SHIFT: u32 = 32;
const ONE_CPU: u64 = 0;
const MANY_CPUS: u64 = 1;
const EXPORTED: u64 = 2;

/// What [`make_true`] is content with, in ticks.
const NEARLY: u64 = 20;

/// Writes the true values to the MSRs of `cpu`, and leaves the caller there. What a
/// write leaves stays for good, and so does what is left when the module goes: tests
/// that compare with the truth may want to begin without. Returns how far the MSRs
/// are off, in ticks.
pub fn make_true(cpu: usize) -> Result<u64> {
    let device = MsrDevice::open(cpu)?;
    // A write that came late, or to be found by a tick, would look as if the counters had
    // run backwards.
    let alone = Alone::on(cpu)?;
    kernel::wait_for_tick(&alone);
    let truth = || oracle::truth(cpu as u64);
    for Counter { msr, of } in COUNTERS {
        // How long a write takes is known after it, and much the same next time.
        let mut late = 0u64;
        for _ in 0..20 {
            let value = of(truth().host).wrapping_add(late);
            device.write(Way::Offset, msr, value)?;
            let Truth { host, hardware } = truth();
            let behind = of(host - hardware);
            if behind.wrapping_add(NEARLY) <= 2 * NEARLY {
                break;
            }
            late = late.wrapping_add(behind);
        }
    }
    rules::host_pair_is_true();
    let Truth { host, hardware } = truth();
    Ok(hardware.distance(host))
}

/// The MSRs of one CPU. What is accessed on it from another one is by an IPI.
pub struct MsrDevice {
    cpu: u64,
    file: File,
}

impl MsrDevice {
    pub fn open(cpu: usize) -> Result<Self> {
        let path = format!("/dev/cpu/{cpu}/msr");
        let file = OpenOptions::new().read(true).write(true).open(&path);
        Ok(MsrDevice {
            cpu: cpu as u64,
            file: file.with_context(|| format!("open {path}"))?,
        })
    }

    pub fn read(&self, way: Way, msr: u32) -> io::Result<u64> {
        match way {
            Way::Offset => {
                let mut value = [0; 8];
                self.file.read_exact_at(&mut value, msr.into())?;
                Ok(u64::from_le_bytes(value))
            }
            Way::Registers => {
                let regs = self.ioctl(X86_IOC_RDMSR_REGS, msr, 0)?;
                Ok((u64::from(regs[EDX]) << 32) | u64::from(regs[EAX]))
            }
            Way::OneCpu => self.by_helper(ONE_CPU, msr).map(|[value]| value),
            Way::ManyCpus => self.by_helper(MANY_CPUS, msr).map(|[value]| value),
        }
    }

    pub fn write(&self, way: Way, msr: u32, value: u64) -> io::Result<()> {
        rules::host_pair_is_untrue();
        match way {
            Way::Offset => self.file.write_all_at(&value.to_le_bytes(), msr.into()),
            Way::Registers => self.ioctl(X86_IOC_WRMSR_REGS, msr, value).map(|_| ()),
            Way::OneCpu => self.write_by_helper(ONE_CPU, msr, value),
            Way::ManyCpus => self.write_by_helper(MANY_CPUS, msr, value),
        }
    }

    fn position(&self, helper: u64, msr: u32) -> u64 {
        helper << HELPER_SHIFT | self.cpu << CPU_SHIFT | u64::from(msr)
    }

    /// So many words of what a helper returns.
    fn by_helper<const WORDS: usize>(&self, helper: u64, msr: u32) -> io::Result<[u64; WORDS]> {
        let mut words = [[0; 8]; WORDS];
        File::open(HELPERS)?.read_exact_at(words.as_flattened_mut(), self.position(helper, msr))?;
        Ok(words.map(u64::from_le_bytes))
    }

    fn write_by_helper(&self, helper: u64, msr: u32, value: u64) -> io::Result<()> {
        let helpers = OpenOptions::new().write(true).open(HELPERS)?;
        helpers.write_all_at(&value.to_le_bytes(), self.position(helper, msr))
    }

    /// get_host_aperfmperf(): both counters, and the TSC before them.
    pub fn exported(&self) -> io::Result<(Pair, u64)> {
        let [aperf, mperf, tsc] = self.by_helper(EXPORTED, 0)?;
        Ok((Pair { aperf, mperf }, tsc))
    }

    fn ioctl(&self, request: u64, msr: u32, value: u64) -> io::Result<[u32; 8]> {
        let mut regs = [0; 8];
        (regs[EAX], regs[ECX], regs[EDX]) = (value as u32, msr, (value >> 32) as u32);
        // SAFETY: Both requests read and write eight words.
        let ret = unsafe { libc::ioctl(self.file.as_raw_fd(), request, regs.as_mut_ptr()) };
        if ret == 0 {
            Ok(regs)
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Reads both counters and returns how far they are from the truth, in
    /// ticks.
    pub fn error(&self, way: Way) -> io::Result<u64> {
        let truth = || oracle::truth(self.cpu).host;
        let (aperf, true_aperf) = bracket(|| truth().aperf, || self.read(way, MSR_IA32_APERF));
        let (mperf, true_mperf) = bracket(|| truth().mperf, || self.read(way, MSR_IA32_MPERF));
        Ok(outside(aperf?, true_aperf).max(outside(mperf?, true_mperf)))
    }
}

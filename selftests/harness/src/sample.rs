// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A guest that looks at its pair beside its TSC, once in each KVM_RUN.

use anyhow::{Result, ensure};

use crate::Pair;
use crate::cpu;
use crate::guest::{Guest, Vcpu};
use crate::guest_code;
use crate::nested;

guest_code! {
    /// Counts event RDI.
    sample_on_each_run:
        "2:"
        "sample rdi"
        "exit"
        "jmp 2b"
}

/// A VM with one vCPU that takes samples.
pub struct Sampler {
    pub vcpu: Vcpu,
    pub guest: Guest,
}

/// What the guest found in one KVM_RUN.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub pair: Pair,
    /// The guest's TSC before and after it read MPERF.
    pub tsc: (u64, u64),
    /// The guest's TSC after it read APERF, which it did after MPERF.
    pub end: u64,
    /// VM exits by RDMSR that both reads took, and those of other vCPUs meanwhile.
    pub exits: u64,
}

impl Sampler {
    pub fn new() -> Result<Self> {
        Self::with_vm(|_| Ok(()))
    }

    /// A VM that is prepared before it gets its vCPU.
    pub fn with_vm(prepare: impl FnOnce(&Guest) -> Result<()>) -> Result<Self> {
        let guest = Guest::new(sample_on_each_run())?;
        prepare(&guest)?;
        let vcpu = guest.vcpu(0)?;
        vcpu.set_argument(cpu::exits().rdmsr)?;
        Ok(Sampler { vcpu, guest })
    }

    /// A VM whose vCPU runs a guest of its own, which takes the samples.
    pub fn nested() -> Result<Self> {
        let (guest, vcpu) = nested::sampler(false)?;
        Ok(Sampler { vcpu, guest })
    }

    /// The same, where the guest's guest has a TSC of half the frequency.
    pub fn nested_scaled() -> Result<Self> {
        let (guest, vcpu) = nested::sampler(true)?;
        Ok(Sampler { vcpu, guest })
    }

    /// Lets the guest look once.
    pub fn take(&mut self) -> Result<Sample> {
        Sample::take(&mut self.vcpu)
    }
}

impl Sample {
    /// Lets the guest of a [`Sampler`] look once. Any thread may do that.
    pub fn take(vcpu: &mut Vcpu) -> Result<Self> {
        let regs = vcpu.run()?;
        ensure!(regs.r15 == 0, "{} reads faulted", regs.r15);
        Ok(Sample {
            pair: Pair {
                aperf: regs.r8,
                mperf: regs.r9,
            },
            tsc: (regs.r10, regs.r11),
            end: regs.r14,
            exits: regs.r13 - regs.r12,
        })
    }

    /// The same with the host's TSC, which the guest's is ahead of by `offset`.
    pub fn by_host_tsc(self, offset: u64) -> Self {
        let host = |tsc: u64| tsc.wrapping_sub(offset);
        Sample {
            tsc: (host(self.tsc.0), host(self.tsc.1)),
            end: host(self.end),
            ..self
        }
    }
}

/// Rule guest-mperf, as samples see it: there is one distance between MPERF and
/// the guest's TSC that fits all of them, as each sample's MPERF is from some
/// moment between its two values of the TSC.
#[derive(Clone, Copy, Debug)]
pub struct Distance {
    low: i64,
    high: i64,
}

impl Distance {
    pub fn of(sample: &Sample) -> Self {
        let mperf = sample.pair.mperf;
        Distance {
            low: mperf.wrapping_sub(sample.tsc.1) as i64,
            high: mperf.wrapping_sub(sample.tsc.0) as i64,
        }
    }

    pub fn narrow(&mut self, sample: &Sample) {
        let other = Distance::of(sample);
        self.low = self.low.max(other.low);
        self.high = self.high.min(other.high);
    }

    /// By how many ticks MPERF strayed from the TSC.
    pub fn error(&self) -> u64 {
        self.low.saturating_sub(self.high).max(0) as u64
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The real counters, as the logic of `switch/` knows hardware.

use aperfmperf_hal::{
    Counters,
    Msr, //
};

use crate::{
    observe::{
        self,
        CpuStats,
        VcpuStats, //
    },
    switch::{
        Counter,
        Event,
        Hardware,
        Observer, //
    },
};

/// The counters of the CPU that executes, and the statistics of who uses them.
pub(crate) struct Native<'a> {
    pub(crate) counters: Counters,
    pub(crate) cpu: &'a CpuStats,
    pub(crate) vcpu: Option<&'a VcpuStats>,
}

impl Hardware for Native<'_> {
    #[inline(always)]
    fn tsc(&self) -> u64 {
        self.counters.tsc()
    }

    #[inline(always)]
    fn read(&self, counter: Counter) -> u64 {
        self.counters.read(counter.into())
    }

    #[inline(always)]
    fn write(&self, counter: Counter, value: u64) {
        self.counters.write(counter.into(), value)
    }

    #[inline(always)]
    fn relax(&self) {
        core::hint::spin_loop();
    }
}

/// The same counters, before it is known whether they take writes.
pub(crate) struct Trial<'a>(pub(crate) &'a Native<'a>);

impl Hardware for Trial<'_> {
    fn tsc(&self) -> u64 {
        self.0.tsc()
    }

    fn read(&self, counter: Counter) -> u64 {
        self.0.read(counter)
    }

    fn write(&self, counter: Counter, value: u64) {
        self.0.counters.try_write(counter.into(), value)
    }

    fn relax(&self) {
        self.0.relax();
    }
}

impl Observer for Trial<'_> {
    fn observe(&self, event: Event) {
        self.0.observe(event);
    }
}

impl Observer for Native<'_> {
    #[inline(always)]
    fn observe(&self, event: Event) {
        observe::on_cpu(self.cpu, event);
        if let Some(vcpu) = self.vcpu {
            observe::on_vcpu(vcpu, event);
        }
    }
}

impl From<Counter> for Msr {
    #[inline(always)]
    fn from(counter: Counter) -> Self {
        match counter {
            Counter::Aperf => Self::Aperf,
            Counter::Mperf => Self::Mperf,
        }
    }
}

impl From<Msr> for Counter {
    #[inline(always)]
    fn from(msr: Msr) -> Self {
        match msr {
            Msr::Aperf => Self::Aperf,
            Msr::Mperf => Self::Mperf,
        }
    }
}

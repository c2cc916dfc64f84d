// SPDX-License-Identifier: GPL-2.0

//! What is measured on a CPU that comes online, before guest values may be written there.

use super::atomic::Ordering::Relaxed;

use super::{
    cpu::{
        magnitude,
        Cpu, //
    },
    exchange::{
        Incoming,
        SAMPLES, //
    },
    hardware::{
        Counter,
        Hardware,
        Pair, //
    },
};

/// TSC ticks over which MPERF is compared with the TSC. Less than a millisecond, and far more than
/// the two samples take that compare them.
const SPAN: u64 = 1 << 20;

/// MPERF may be off by one tick in so many. Some CPUs have it tick at a base frequency that is
/// within a fraction of a percent of the TSC's, and is not the TSC's: each switch would take that
/// fraction of its window for granted, always with the same sign.
const STEADY: u64 = 1 << 13;

/// How far a write moves the counters that is to be recognized: hours, so that no interruption
/// looks like it.
const FAR: u64 = 1 << 45;

/// How many writes are measured.
const WRITES: usize = 8;

/// What a CPU is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calibration {
    /// MPERF ticks with the TSC, which everything here relies on when it writes the MSRs.
    Steady,
    /// It does not. Nothing was written.
    Unsteady,
    /// The MSRs can be read only: a hypervisor passes no more through.
    ReadOnly,
}

impl Cpu {
    /// Measures this CPU. `trial` is `hw` but for writes: one that the CPU refuses does nothing.
    ///
    /// Takes 2^20 TSC ticks. The MSRs must hold the host pair.
    pub(crate) fn calibrate(&self, hw: &impl Hardware, trial: &impl Hardware) -> Calibration {
        // An interrupted sample is told by the shortest, which is not known yet.
        self.shortest.store(u64::MAX, Relaxed);
        for _ in 0..SAMPLES {
            self.sample(hw);
        }
        let first = self.sample(hw);
        self.rate.start(self.unwritten(first.pair));
        while hw.tsc().wrapping_sub(first.tsc) < SPAN {
            hw.relax();
        }
        let last = self.sample(hw);
        self.rate.learn(self.unwritten(last.pair));

        let elapsed = last.tsc.wrapping_sub(first.tsc);
        let ticked = last.pair.mperf.wrapping_sub(first.pair.mperf);
        let slack = (elapsed / STEADY)
            .saturating_add(first.took)
            .saturating_add(last.took);
        if ticked.abs_diff(elapsed) > slack {
            return Calibration::Unsteady;
        }
        if !self.takes_writes(trial) {
            return Calibration::ReadOnly;
        }
        self.measure_lead(hw);
        Calibration::Steady
    }

    /// The counters may have been reset: what they advanced since the last measurement says
    /// nothing.
    pub(crate) fn resume(&self, hw: &impl Hardware) {
        self.rate.start(self.unwritten(self.sample(hw).pair));
    }

    /// Whether both counters go where they are written to.
    ///
    /// They are back before IRQs are enabled. When the module is loaded and readers do not add the
    /// offset yet, an NMI in which perf reads them may see the move; no other reader can.
    fn takes_writes(&self, hw: &impl Hardware) -> bool {
        self.exchange(hw, |_, host| Incoming {
            pair: Pair {
                aperf: host.aperf ^ FAR,
                mperf: host.mperf ^ FAR,
            },
            aperf_advances: true,
        });
        let offset = self.offset.load();
        self.write_host(hw);
        [Counter::Aperf, Counter::Mperf]
            .into_iter()
            .all(|counter| magnitude(offset.get(counter)) > FAR / 2)
    }

    /// Measures how late a write is that does not foresee its own delay. The shortest of a few.
    fn measure_lead(&self, hw: &impl Hardware) {
        let mut shortest = i64::MAX;
        self.lead.store(0, Relaxed);
        for _ in 0..WRITES {
            self.write_host(hw);
            shortest = shortest.min(self.offset.load().mperf as i64);
        }
        self.lead.store(shortest as u64, Relaxed);
        self.write_host(hw);
    }
}

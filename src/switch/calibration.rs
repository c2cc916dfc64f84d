// SPDX-License-Identifier: GPL-2.0

//! What is measured on a CPU that comes online, before guest values may be written there.

use super::atomic::Ordering::Relaxed;

use super::{
    cpu::Cpu,
    exchange::{
        Incoming,
        SAMPLES, //
    },
    hardware::Hardware, //
};

/// TSC ticks over which MPERF is compared with the TSC.
const SPAN: u64 = 1 << 16;

/// How many writes are measured.
const WRITES: usize = 8;

impl Cpu {
    /// Measures this CPU. Returns whether MPERF ticks with the TSC, which everything here relies
    /// on when it writes the MSRs.
    ///
    /// Takes 2^16 TSC ticks. The MSRs must hold the host pair.
    pub(crate) fn calibrate(&self, hw: &impl Hardware) -> bool {
        // An interrupted sample is told by the shortest, which is not known yet.
        self.shortest.store(u64::MAX, Relaxed);
        for _ in 0..SAMPLES {
            self.sample(hw);
        }
        let first = self.sample(hw);
        self.rate.start(self.unwritten(first.pair));
        let (last, elapsed) = loop {
            let last = self.sample(hw);
            let elapsed = last.tsc.wrapping_sub(first.tsc);
            if elapsed >= SPAN {
                break (last, elapsed);
            }
        };
        self.rate.learn(self.unwritten(last.pair));

        let ticked = last.pair.mperf.wrapping_sub(first.pair.mperf);
        let slack = (elapsed >> 8)
            .saturating_add(first.took)
            .saturating_add(last.took);
        let steady = ticked.abs_diff(elapsed) <= slack;
        if steady {
            self.measure_lead(hw);
        }
        steady
    }

    /// The counters may have been reset: what they advanced since the last measurement says
    /// nothing.
    pub(crate) fn resume(&self, hw: &impl Hardware) {
        self.rate.start(self.unwritten(self.sample(hw).pair));
    }

    /// Measures how late a write is that does not foresee its own delay. The shortest of a few.
    fn measure_lead(&self, hw: &impl Hardware) {
        let host = |_, pair| Incoming {
            pair,
            aperf_advances: true,
        };
        let mut shortest = i64::MAX;
        self.lead.store(0, Relaxed);
        for _ in 0..WRITES {
            self.exchange(hw, host);
            shortest = shortest.min(self.offset.load().mperf as i64);
        }
        self.lead.store(shortest as u64, Relaxed);
        self.exchange(hw, host);
    }
}

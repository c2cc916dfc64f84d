// SPDX-License-Identifier: GPL-2.0

//! What the rules say about the host pair of a CPU.

use super::super::hardware::{
    Counter,
    Pair, //
};

/// MPERF ticks over which the code learns a frequency, two periods of it: after a change, so long
/// may the known one be wrong.
const LEARNING: u64 = 2 << 12;

/// More ticks than a switch takes.
pub(super) const WINDOW: u64 = 200;

/// More ticks than pass between a host write and its end, and the few that a restore leaves.
const WRITE: u64 = 64;

/// The host pair beside counters that nobody writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    /// Host pair less the true counters: what host writes and resets have moved it by.
    moved: Pair,
    /// How far either may be off. Grows with what the code cannot measure: changes of frequency
    /// for APERF, interruptions too short to tell, host writes and resets.
    slack: Pair,
    /// The lowest and the highest frequency ever.
    ratios: (u64, u64),
    ratio: u64,
    switches: u64,
}

impl Host {
    pub(super) fn new(ratio: u64) -> Self {
        Self {
            moved: Pair::ZERO,
            slack: Pair::ZERO,
            ratios: (ratio, ratio),
            ratio,
            switches: 0,
        }
    }

    /// What may write the MSRs happens.
    pub(super) fn switched(&mut self) {
        self.switches += 1;
    }

    /// An SMI of `ticks` happens during a switch.
    pub(super) fn interrupted(&mut self, ticks: u64) {
        // As short as a few accesses: a sample that holds it looks like any other.
        if ticks < WINDOW {
            self.slack.mperf += ticks;
            self.slack.aperf += ticks * self.ratios.1 / 1024;
        }
        // A window that is so long shows how well the frequency is known.
        let spread = self.ratios.1 - self.ratios.0 + 1;
        self.slack.aperf += ticks * spread / 1024 + 1;
    }

    pub(super) fn set_frequency(&mut self, ratio: u64) {
        let change = self.ratio.abs_diff(ratio);
        self.slack.aperf += change * (LEARNING + 2 * WINDOW) / 1024 + 1;
        self.ratios = (self.ratios.0.min(ratio), self.ratios.1.max(ratio));
        self.ratio = ratio;
    }

    /// The counters are reset. What is learned from them next is wrong, if it does not look so.
    pub(super) fn reset(&mut self, truth: Pair) {
        self.write(truth, Counter::Aperf, 0);
        self.write(truth, Counter::Mperf, 0);
        let ratio = self.ratio;
        self.set_frequency(0);
        self.set_frequency(ratio);
    }

    /// `counter` was set to `value` when the true counters were `truth`, or somewhat earlier.
    pub(super) fn write(&mut self, truth: Pair, counter: Counter, value: u64) {
        let moved = value.wrapping_sub(truth.get(counter));
        self.moved = self.moved.with(counter, moved);
        let slack = self.slack.get(counter) + WRITE;
        self.slack = self.slack.with(counter, slack);
    }

    /// **host-continuity**: `value` was read when the true counters were `truth`.
    pub(super) fn check(
        &self,
        truth: Pair,
        counter: Counter,
        value: u64,
        slack: u64,
    ) -> Result<(), String> {
        let expected = truth.plus(self.moved).get(counter);
        let error = (value.wrapping_sub(expected) as i64).unsigned_abs();
        // The frequency is known to 2 in 4096, and a switch takes less than 200 ticks.
        let rounding = match counter {
            Counter::Aperf => 2 + self.switches * WINDOW * self.ratios.1 / 1024 * 2 / 4096,
            Counter::Mperf => 0,
        };
        let allowed = self.slack.get(counter) + rounding + slack;
        if error > allowed {
            return Err(format!(
                "host {counter:?} is {value}, {error} from {expected}, with {allowed} allowed"
            ));
        }
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! How far APERF goes for each tick of MPERF, learned from the recent past.
//!
//! Needed where the counters themselves cannot tell: for the ticks between reading an old value
//! and writing a new one. MPERF advances with the TSC there, so that its loss is measured; the
//! loss of APERF follows from this rate. The error is the change of frequency since the last few
//! thousand ticks, times the length of the window.

use super::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};

use super::hardware::{
    Pair,
    SharedPair, //
};

/// MPERF ticks that a measurement spans at least: its quantisation is then below 2^-12.
const SPAN: u64 = 1 << 12;

/// Counter ticks per TSC tick in C0, 32.32 fixed point.
#[derive(Clone, Copy)]
pub(super) struct Rate(u64);

impl Rate {
    /// A counter that stands still.
    pub(super) const ZERO: Self = Self(0);

    /// MPERF, and APERF at the base frequency.
    pub(super) const ONE: Self = Self(1 << 32);

    /// The rate of a counter that advanced by `ticks` while another did by `span`. None if it
    /// was so much faster that `span` is lost in the precision, or if `span` is zero.
    pub(super) fn of(ticks: u64, span: u64) -> Option<Self> {
        let highest = 64 - (ticks | span).leading_zeros();
        let shift = highest.saturating_sub(32);
        ((ticks >> shift) << 32)
            .checked_div(span >> shift)
            .map(Self)
    }

    /// The counter's advance in `elapsed` TSC ticks.
    pub(super) fn ticks(self, elapsed: u64) -> u64 {
        self.ticks_from(0, elapsed).0
    }

    /// The same with the fraction of a tick that is left over from last time, and the next one.
    fn ticks_from(self, carry: u64, elapsed: u64) -> (u64, u64) {
        let ticks = u128::from(elapsed)
            .wrapping_mul(u128::from(self.0))
            .wrapping_add(u128::from(carry));
        ((ticks >> 32) as u64, ticks as u64 & (Self::ONE.0 - 1))
    }
}

/// The rate of one CPU's APERF.
pub(super) struct AperfRate {
    rate: AtomicU64,
    reference: SharedPair,
    /// The fraction of a tick that [`AperfRate::advance`] has rounded off, so that rounding does
    /// not accumulate over the switches.
    carry: AtomicU64,
}

impl AperfRate {
    pub(super) const fn new() -> Self {
        Self {
            rate: AtomicU64::new(Rate::ONE.0),
            reference: SharedPair::new(),
            carry: AtomicU64::new(0),
        }
    }

    /// The rate as it was last seen.
    pub(super) fn get(&self) -> Rate {
        Rate(self.rate.load(Relaxed))
    }

    /// Measures from `now` on.
    pub(super) fn start(&self, now: Pair) {
        self.reference.store(now);
    }

    /// Learns from `now`, the counters without any writes.
    pub(super) fn learn(&self, now: Pair) {
        let went = now.minus(self.reference.load());
        if went.mperf < SPAN {
            return;
        }
        self.reference.store(now);

        // Backwards: an overflow has reset the counters. That tells nothing, and neither does
        // None, which no frequency explains. The rate that was known is kept.
        if (went.aperf | went.mperf) >> 63 != 0 {
            return;
        }
        if let Some(Rate(rate)) = Rate::of(went.aperf, went.mperf) {
            self.rate.store(rate, Relaxed);
        }
    }

    /// Both counters' advance in `elapsed` TSC ticks of C0, for a reader that changes nothing.
    pub(super) fn extrapolate(&self, elapsed: u64) -> Pair {
        Pair {
            aperf: self.get().ticks(elapsed),
            mperf: elapsed,
        }
    }

    /// Both counters' advance in `elapsed` TSC ticks of C0, exact on average over many calls.
    pub(super) fn advance(&self, elapsed: u64) -> Pair {
        let (aperf, carry) = self.get().ticks_from(self.carry.load(Relaxed), elapsed);
        self.carry.store(carry, Relaxed);
        Pair {
            aperf,
            mperf: elapsed,
        }
    }
}

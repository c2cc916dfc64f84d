// SPDX-License-Identifier: GPL-2.0

//! How far APERF goes for each tick of MPERF, learned from the recent past.
//!
//! Needed where the counters themselves cannot tell: for the ticks between reading an old value
//! and writing a new one. MPERF advances with the TSC there, so that its loss is measured; the
//! loss of APERF follows from this rate. The error is the change of frequency since the last few
//! thousand ticks, times the length of the window.

use core::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};

use super::hardware::{
    Pair,
    SharedPair, //
};

/// MPERF ticks that a measurement spans at least: its quantisation is then below 2^-12.
const SPAN: u64 = 1 << 12;

/// APERF ticks per MPERF tick, 32.32 fixed point.
const ONE: u64 = 1 << 32;

/// The rate of one CPU.
pub(super) struct Rate {
    rate: AtomicU64,
    reference: SharedPair,
    /// The fraction of an APERF tick that [`Rate::advance`] has rounded off, so that rounding
    /// does not accumulate over the switches.
    carry: AtomicU64,
}

impl Rate {
    pub(super) const fn new() -> Self {
        Self {
            rate: AtomicU64::new(ONE),
            reference: SharedPair::new(),
            carry: AtomicU64::new(0),
        }
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

        let highest = 64 - (went.aperf | went.mperf).leading_zeros();
        let shift = highest.saturating_sub(32);
        // Zero if the MPERF part is lost in the shift: then APERF went more than 2^18 times as
        // far, which no frequency explains, and the rate that was known is kept.
        if let Some(rate) = ((went.aperf >> shift) << 32).checked_div(went.mperf >> shift) {
            self.rate.store(rate, Relaxed);
        }
    }

    /// Both counters' advance in `elapsed` TSC ticks of C0, for a reader that changes nothing.
    pub(super) fn extrapolate(&self, elapsed: u64) -> Pair {
        self.advance_from(0, elapsed).0
    }

    /// Both counters' advance in `elapsed` TSC ticks of C0, exact on average over many calls.
    pub(super) fn advance(&self, elapsed: u64) -> Pair {
        let (pair, carry) = self.advance_from(self.carry.load(Relaxed), elapsed);
        self.carry.store(carry, Relaxed);
        pair
    }

    fn advance_from(&self, carry: u64, elapsed: u64) -> (Pair, u64) {
        let aperf = u128::from(elapsed)
            .wrapping_mul(u128::from(self.rate.load(Relaxed)))
            .wrapping_add(u128::from(carry));
        let pair = Pair {
            aperf: (aperf >> 32) as u64,
            mperf: elapsed,
        };
        (pair, aperf as u64 & (ONE - 1))
    }
}

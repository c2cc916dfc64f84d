// SPDX-License-Identifier: GPL-2.0

//! What an overflow does to a pair.

use super::{
    hardware::Pair,
    rate::Rate, //
};

impl Pair {
    /// The pair after both counters have advanced by `by`, each evenly.
    ///
    /// When either overflows, the CPU resets both to zero, and they count on from there (SDM,
    /// "Hardware Coordination Feedback").
    pub(super) fn advanced(self, by: Self) -> Self {
        // Of a counter that has overflowed: its ticks since.
        let sum = self.plus(by);
        let aperf_first = match (sum.aperf < self.aperf, sum.mperf < self.mperf) {
            (false, false) => return sum,
            (true, false) => true,
            (false, true) => false,
            // After the first there is no second. More of the time is left after the first.
            (true, true) => {
                let aperf_left = u128::from(sum.aperf).wrapping_mul(u128::from(by.mperf));
                let mperf_left = u128::from(sum.mperf).wrapping_mul(u128::from(by.aperf));
                aperf_left > mperf_left
            }
        };
        if aperf_first {
            Self {
                mperf: share(by.mperf, by.aperf, sum.aperf),
                ..sum
            }
        } else {
            Self {
                aperf: share(by.aperf, by.mperf, sum.mperf),
                ..sum
            }
        }
    }
}

/// How far a counter went that advanced by `whole` in the time that another took for `span`, in
/// the time that the other took for `part` of it.
fn share(whole: u64, span: u64, part: u64) -> u64 {
    Rate::of(whole, span).map_or(0, |rate| rate.ticks(part))
}

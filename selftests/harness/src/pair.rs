// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The pair: APERF and MPERF, always handled together.

use std::fmt;
use std::ops::Sub;

/// IA32_MPERF (SDM, "Architectural MSRs"): ticks at the TSC's rate in C0.
pub const MSR_IA32_MPERF: u32 = 0xe7;
/// IA32_APERF: ticks at the rate at which the CPU really runs in C0.
pub const MSR_IA32_APERF: u32 = 0xe8;

/// What a switch may leave unaccounted until the next one, in ticks.
///
/// A counter runs on between the last look at it and the WRMSR that takes
/// effect. How long that took is known only afterwards, and mending it would
/// take another WRMSR; so the last one's ticks stay. They never add up: the
/// next switch mends them. There are fewer than 200 instructions in between.
pub const ONE_SWITCH: u64 = 1000;

/// What of that can be in the MSRs, in ticks: by so much the module's lead does not
/// foresee when a WRMSR takes effect, with all roundings. For sums over more switches
/// than this, in which not a tick of each may be lost.
pub const UNFORESEEN: u64 = 32;

/// By how much APERF of the host strays over so many switches, in ticks, at a frequency
/// that is not the TSC's: nobody knows how far it was on its way to the next tick when it
/// was written, so that each switch is off by 0.4 ticks, in either direction. Of a million
/// that makes some 400; this is five times as much, as timers give it a little direction.
pub fn roundings(switches: u64) -> u64 {
    2 * switches.isqrt()
}

/// Values of both counters, or what both advanced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    pub aperf: u64,
    pub mperf: u64,
}

impl Pair {
    /// Frequency as a fraction of the TSC's, if `self` is an advance.
    pub fn ratio(self) -> f64 {
        self.aperf as f64 / self.mperf as f64
    }

    /// How large an advance is, forwards or backwards.
    pub fn magnitude(self) -> Pair {
        Pair {
            aperf: (self.aperf as i64).unsigned_abs(),
            mperf: (self.mperf as i64).unsigned_abs(),
        }
    }

    /// Largest distance of a counter in `self` from the same in `other`.
    pub fn distance(self, other: Pair) -> u64 {
        let Pair { aperf, mperf } = (self - other).magnitude();
        aperf.max(mperf)
    }
}

/// The advance since `earlier`; counters wrap.
impl Sub for Pair {
    type Output = Pair;

    fn sub(self, earlier: Pair) -> Pair {
        Pair {
            aperf: self.aperf.wrapping_sub(earlier.aperf),
            mperf: self.mperf.wrapping_sub(earlier.mperf),
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "APERF {} MPERF {}", self.aperf, self.mperf)
    }
}

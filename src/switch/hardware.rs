// SPDX-License-Identifier: GPL-2.0

//! The counters as the CPU offers them.

use super::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};

use super::event::Observer;

/// One of the two counters (SDM, "Hardware Coordination Feedback").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counter {
    /// IA32_APERF: advances at the actual frequency.
    Aperf,
    /// IA32_MPERF: advances at the TSC frequency. Both stand still outside C0.
    Mperf,
}

/// The CPU that executes the call, and who watches it.
pub(crate) trait Hardware: Observer {
    /// RDTSC, in ticks.
    fn tsc(&self) -> u64;

    /// RDMSR of `counter`, in ticks.
    fn read(&self, counter: Counter) -> u64;

    /// WRMSR of `counter`, in ticks.
    fn write(&self, counter: Counter, value: u64);

    /// Lets some time pass, in C0.
    fn relax(&self);
}

/// One value of each counter, always handled together. Ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) aperf: u64,
    pub(crate) mperf: u64,
}

impl Pair {
    /// Both counters at zero, as after RESET.
    pub(crate) const ZERO: Self = Self { aperf: 0, mperf: 0 };

    /// `self + other`, each counter modulo 2^64.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            aperf: self.aperf.wrapping_add(other.aperf),
            mperf: self.mperf.wrapping_add(other.mperf),
        }
    }

    /// `self - other`, each counter modulo 2^64.
    pub(crate) fn minus(self, other: Self) -> Self {
        Self {
            aperf: self.aperf.wrapping_sub(other.aperf),
            mperf: self.mperf.wrapping_sub(other.mperf),
        }
    }

    /// The value of one counter.
    pub(crate) fn get(self, counter: Counter) -> u64 {
        match counter {
            Counter::Aperf => self.aperf,
            Counter::Mperf => self.mperf,
        }
    }

    /// The same pair with `counter` replaced.
    pub(crate) fn with(self, counter: Counter, value: u64) -> Self {
        match counter {
            Counter::Aperf => Self {
                aperf: value,
                ..self
            },
            Counter::Mperf => Self {
                mperf: value,
                ..self
            },
        }
    }
}

/// A [`Pair`] that an NMI may read while the code that it interrupted updates it.
///
/// Only the CPU that owns it writes it and relies on it, so no ordering is needed between the two
/// halves: the busy mark of [`super::Cpu`] keeps a reader away from a half-updated pair.
pub(super) struct SharedPair {
    aperf: AtomicU64,
    mperf: AtomicU64,
}

impl SharedPair {
    pub(super) const fn new() -> Self {
        Self {
            aperf: AtomicU64::new(0),
            mperf: AtomicU64::new(0),
        }
    }

    pub(super) fn load(&self) -> Pair {
        Pair {
            aperf: self.aperf.load(Relaxed),
            mperf: self.mperf.load(Relaxed),
        }
    }

    pub(super) fn store(&self, pair: Pair) {
        self.aperf.store(pair.aperf, Relaxed);
        self.mperf.store(pair.mperf, Relaxed);
    }
}

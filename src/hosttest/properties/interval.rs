// SPDX-License-Identifier: GPL-2.0

//! What a counter may be, in exact arithmetic that does not wrap.

/// Parts of a tick, so that each TSC ratio of the hardware gives a whole number of them.
const PARTS: u32 = 48;

/// One past the largest value of a counter.
const END: i128 = 1 << (64 + PARTS);

/// So close to the overflow, in ticks, nobody can tell whether it has happened.
const CLOSE: u64 = 1 << 14;

/// All values from `low` to `high`, in parts of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    low: i128,
    high: i128,
}

impl Interval {
    pub(super) const ZERO: Self = Self { low: 0, high: 0 };

    /// Any value of a counter.
    pub(super) const ANY: Self = Self {
        low: 0,
        high: END - 1,
    };

    /// Just `ticks`.
    pub(super) fn exactly(ticks: u64) -> Self {
        Self::scaled(ticks, 1, 0)
    }

    /// `ticks` times `multiplier` / 2^`fraction_bits`.
    pub(super) fn scaled(ticks: u64, multiplier: u64, fraction_bits: u8) -> Self {
        let parts = i128::from(ticks) * i128::from(multiplier);
        let low = parts << (PARTS - u32::from(fraction_bits));
        Self { low, high: low }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            low: self.low + other.low,
            high: self.high + other.high,
        }
    }

    /// Up to `ticks` less, or more.
    pub(super) fn widened(self, ticks: u64) -> Self {
        let parts = i128::from(ticks) << PARTS;
        Self {
            low: self.low - parts,
            high: self.high + parts,
        }
    }

    /// What is in either, and all between.
    pub(super) fn hull(self, other: Self) -> Self {
        Self {
            low: self.low.min(other.low),
            high: self.high.max(other.high),
        }
    }

    /// Nothing is known.
    pub(super) fn vague(self) -> bool {
        self.high - self.low >= END / 2
    }

    /// A counter that shows whole ticks shows `value`.
    pub(super) fn contains(self, value: u64) -> bool {
        let value = i128::from(value);
        (self.low >> PARTS..=self.high >> PARTS).contains(&value)
    }

    /// Whether a counter has overflowed that started within its range. None: maybe.
    pub(super) fn overflowed(self) -> Option<bool> {
        let doubtful = self.widened(CLOSE);
        match (doubtful.low >= END, doubtful.high >= END) {
            (false, false) => Some(false),
            (true, true) => Some(true),
            _ => None,
        }
    }

    /// What is left after the overflow.
    pub(super) fn wrapped(self) -> Self {
        Self {
            low: self.low - END,
            high: self.high - END,
        }
    }

    /// Whether all values are below `ticks`, or none. None: some.
    pub(super) fn below(self, ticks: u64) -> Option<bool> {
        let limit = i128::from(ticks) << PARTS;
        match (self.low < limit, self.high < limit) {
            (true, true) => Some(true),
            (false, false) => Some(false),
            _ => None,
        }
    }
}

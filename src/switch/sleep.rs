// SPDX-License-Identifier: GPL-2.0

//! Sleeps of the host: each is a pause of all guests.
//!
//! In suspend-to-idle the TSC goes on. **guest-mperf** alone would have a guest find that it got
//! no CPU for hours, and a Linux guest disables its frequency invariance for good.

use core::sync::atomic::{
    AtomicU32,
    Ordering::Relaxed, //
};

/// Counts sleeps. Odd from before tasks are frozen until after they are thawed: some run at both
/// ends, and a vCPU's may be among them.
pub(crate) struct Sleeps(AtomicU32);

/// The sleeps that a vCPU knows of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen(u32);

impl Seen {
    /// Those of a vCPU that has not run yet.
    pub(super) const NONE: Self = Self(0);
}

impl Sleeps {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// The host is about to freeze its tasks. Nobody else may call this or [`Sleeps::end`].
    pub(crate) fn begin(&self) {
        self.0.store(self.0.load(Relaxed) | 1, Relaxed);
    }

    /// It has thawed them. Its beginning may have been before this object's.
    pub(crate) fn end(&self) {
        self.0
            .store(self.0.load(Relaxed).wrapping_add(1) & !1, Relaxed);
    }

    /// Whether the host may have slept since this was asked for the same `seen`.
    pub(super) fn update(&self, seen: &mut Seen) -> bool {
        let now = self.0.load(Relaxed);
        let changed = *seen != Seen(now);
        *seen = Seen(now);
        // Before and after the tasks are frozen, the count is the same.
        changed || now & 1 != 0
    }
}

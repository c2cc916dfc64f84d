// SPDX-License-Identifier: GPL-2.0

//! What the rules say about a vCPU, told once more: by intervals of exact numbers, without MSRs,
//! offsets and modes.

use super::{
    super::hardware::{
        Counter,
        Pair, //
    },
    interval::Interval, //
};

/// The time between two looks at the machine.
#[derive(Clone, Debug)]
pub(super) struct Passed {
    /// TSC ticks.
    pub(super) ticks: u64,
    /// APERF ticks of each CPU.
    pub(super) aperf: Vec<u64>,
}

/// What a vCPU's guest may read.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    aperf: Interval,
    /// MPERF without `away`.
    mperf: Interval,
    /// What MPERF advanced since the guest could last look at it.
    away: Interval,
    pub(super) c0: bool,
    /// The CPU on which its task runs, in KVM_RUN.
    pub(super) cpu: Option<usize>,
    /// TSC ratio: multiplier and fraction bits.
    ratio: (u64, u8),
    intercept: bool,
    /// Userspace set MPERF, and the vCPU neither ran since nor was its C0 reported.
    restored: bool,
    /// The last value read, which may not be undercut.
    seen: Pair,
}

impl Guest {
    pub(super) fn new() -> Self {
        Self {
            aperf: Interval::ZERO,
            mperf: Interval::ZERO,
            away: Interval::ZERO,
            c0: false,
            cpu: None,
            ratio: (1, 0),
            intercept: false,
            restored: false,
            seen: Pair::ZERO,
        }
    }

    /// The CPU whose APERF is the guest's.
    pub(super) fn live(&self) -> Option<usize> {
        self.cpu.filter(|_| self.c0)
    }

    /// **guest-aperf**, **guest-mperf**: what both do while nothing happens.
    pub(super) fn advance(&mut self, passed: &Passed) {
        if self.c0 {
            let (multiplier, bits) = self.ratio;
            let ticks = Interval::scaled(passed.ticks, multiplier, bits);
            if let Some(cpu) = self.live() {
                self.mperf = self.mperf.plus(ticks);
                self.aperf = self.aperf.plus(Interval::exactly(passed.aperf[cpu]));
            } else {
                self.away = self.away.plus(ticks);
            }
        }
        self.overflow();
    }

    /// `how` happens at some moment of the time that `passed`, as one of several TSCs tells it that
    /// differ by up to `skew`. The vCPU may not be live for the time that it takes.
    pub(super) fn change(&mut self, passed: &Passed, skew: u64, how: impl Fn(&mut Self)) {
        let mut late = self.clone();
        how(self);
        let stopped = self.aperf;
        let matters = self.c0 != late.c0
            || self.ratio != late.ratio
            || self.total_mperf() != late.total_mperf();
        self.advance(passed);
        late.advance(passed);
        how(&mut late);
        self.aperf = self.aperf.hull(late.aperf).hull(stopped);
        self.mperf = self.mperf.hull(late.mperf);
        self.away = self.away.hull(late.away);
        if matters {
            self.mperf = self.mperf.widened(skew);
        }
    }

    /// When either overflows, both are reset.
    fn overflow(&mut self) {
        let mperf = self.total_mperf();
        let (aperf, mperf) = match (self.aperf.overflowed(), mperf.overflowed()) {
            (Some(false), Some(false)) => return,
            (Some(false), Some(true)) if self.live().is_none() => (Interval::ZERO, mperf.wrapped()),
            (Some(false), Some(true)) => (Interval::ANY, mperf.wrapped()),
            (Some(true), Some(false)) => (self.aperf.wrapped(), Interval::ANY),
            _ => (Interval::ANY, Interval::ANY),
        };
        self.aperf = aperf;
        (self.mperf, self.away) = match self.live() {
            Some(_) => (mperf, Interval::ZERO),
            None => (Interval::ZERO, mperf),
        };
        self.seen = Pair::ZERO;
    }

    pub(super) fn load(&mut self, cpu: usize) {
        self.cpu = Some(cpu);
        self.restored = false;
        self.look();
    }

    pub(super) fn put(&mut self) {
        self.cpu = None;
    }

    pub(super) fn set_c0(&mut self, c0: bool) {
        if self.c0 == c0 {
            return;
        }
        if self.restored {
            self.forget_pause();
        }
        self.restored = false;
        self.c0 = c0;
        self.look();
    }

    /// From here on the guest runs, and can look.
    fn look(&mut self) {
        if self.live().is_some() {
            self.mperf = self.total_mperf();
            self.away = Interval::ZERO;
        }
    }

    pub(super) fn configured(&self) -> ((u64, u8), bool) {
        (self.ratio, self.intercept)
    }

    pub(super) fn configure(&mut self, ratio: (u64, u8), intercept: bool) {
        (self.ratio, self.intercept) = (ratio, intercept);
    }

    pub(super) fn write(&mut self, counter: Counter, value: u64) {
        match counter {
            Counter::Aperf => self.aperf = Interval::exactly(value),
            Counter::Mperf => {
                self.mperf = Interval::exactly(value);
                self.away = Interval::ZERO;
                self.restored = self.cpu.is_none();
            }
        }
        self.seen = self.seen.with(counter, 0);
    }

    /// Userspace says that it had stopped the guest.
    pub(super) fn forget_pause(&mut self) {
        self.away = Interval::ZERO;
        self.seen = self.seen.with(Counter::Mperf, 0);
    }

    fn total_mperf(&self) -> Interval {
        self.mperf.plus(self.away)
    }

    fn interval(&self, counter: Counter) -> Interval {
        match counter {
            Counter::Aperf => self.aperf,
            Counter::Mperf => self.total_mperf(),
        }
    }

    /// Whether reads might be passed through in the last `ticks`, as values from `limit` on may
    /// not be. None: who knows.
    pub(super) fn may_pass_through(&self, limit: u64, ticks: u64) -> Option<bool> {
        if self.intercept || self.ratio.0 != 1 << self.ratio.1 {
            return Some(false);
        }
        let below = |interval: Interval| interval.widened(ticks).below(limit);
        match (below(self.aperf), below(self.total_mperf())) {
            (Some(aperf), Some(mperf)) => Some(aperf && mperf),
            (Some(false), None) | (None, Some(false)) => Some(false),
            _ => None,
        }
    }

    /// The guest, or userspace for it, read `value` in the time since `earlier`.
    pub(super) fn check(
        &mut self,
        earlier: &Self,
        counter: Counter,
        value: u64,
        slack: u64,
    ) -> Result<(), String> {
        let allowed = earlier
            .interval(counter)
            .hull(self.interval(counter))
            .widened(slack);
        if !allowed.contains(value) {
            return Err(format!("guest {counter:?} is {value}, not in {allowed:?}"));
        }
        if value < self.seen.get(counter) {
            return Err(format!(
                "guest {counter:?} runs back from {} to {value}",
                self.seen.get(counter)
            ));
        }
        self.seen = self.seen.with(counter, value);
        // Known again after an overflow.
        if self.interval(counter).vague() {
            let known = Interval::exactly(value).widened(slack);
            match counter {
                Counter::Aperf => self.aperf = known,
                Counter::Mperf => self.mperf = known,
            }
        }
        Ok(())
    }
}

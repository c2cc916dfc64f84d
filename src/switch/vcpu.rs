// SPDX-License-Identifier: GPL-2.0

//! One vCPU: the pair that its guest reads.

use super::{
    exchange::Sample,
    hardware::{
        Counter,
        Pair, //
    },
    mode::{
        Mode,
        TscRatio, //
    },
    permit::Permit,
    sleep::Seen, //
};

/// TSC ticks that one CPU's TSC may be behind another's. Linux uses the TSC only if it never saw
/// one CPU's behind another's (check_tsc_warp()), so that it takes less than a cache line takes
/// from CPU to CPU to be behind: some hundred ticks. This is far more, and still no time for a
/// guest.
const MAX_SKEW: u64 = 1 << 16;

/// Where a vCPU's counters advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: only MPERF goes on, with the TSC, in C0.
    Away,
    /// In this CPU's MSRs. MPERF there is behind by `lag` ticks, modulo 2^64: the time of its write
    /// was not foreseen exactly, or the CPU's TSC is behind the one before. They are made good at
    /// the checkpoint.
    Msrs { lag: u64 },
    /// Metered: they advance with the host's, which were `from`, less all writes.
    Metered { from: Sample },
}

/// The state of one vCPU. Only the task that runs the vCPU touches it, with IRQs disabled.
///
/// # Invariants
///
/// - Unless `place` is [`Place::Msrs`], `pair` was the guest pair when the TSC was `since`.
/// - `place` is not [`Place::Away`] only if the vCPU is in C0 and its task runs, in KVM_RUN.
pub(crate) struct Vcpu {
    pub(super) pair: Pair,
    pub(super) since: u64,
    pub(super) place: Place,
    pub(super) running: bool,
    pub(super) c0: bool,
    pub(super) mode: Mode,
    /// The mode that was last told an observer.
    told: Mode,
    pub(super) ratio: TscRatio,
    /// By how much MPERF has advanced since the vCPU was last somewhere.
    away: u64,
    pub(super) seen: Seen,
    /// Userspace set MPERF, and nothing told since whether the vCPU is in C0.
    restored: bool,
    /// The fraction of a guest tick that scaling has left over.
    carry: u64,
    /// KVM asked for interception.
    pub(super) asked: bool,
    permit: Option<Permit<'static>>,
}

impl Vcpu {
    /// A vCPU after RESET: both counters zero, not in C0, TSC ratio 1.
    ///
    /// Without a `permit`, its reads are never passed through.
    pub(crate) fn new(permit: Option<Permit<'static>>) -> Self {
        let mode = Mode::choose(permit.is_some(), false, TscRatio::ONE, Pair::ZERO);
        Self {
            pair: Pair::ZERO,
            since: 0,
            place: Place::Away,
            running: false,
            c0: false,
            mode,
            told: mode,
            ratio: TscRatio::ONE,
            away: 0,
            seen: Seen::NONE,
            restored: false,
            carry: 0,
            asked: false,
            permit,
        }
    }

    /// How guest reads are served.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// The mode, if it is another one than at the last call.
    pub(super) fn new_mode(&mut self) -> Option<Mode> {
        let changed = self.mode != self.told;
        self.told = self.mode;
        changed.then_some(self.mode)
    }

    /// Whether guest reads need not exit.
    pub(crate) fn passthrough(&self) -> bool {
        self.mode == Mode::Passthrough
    }

    /// **guest-mperf**: in C0 it goes on at the guest's TSC frequency, wherever the vCPU is.
    ///
    /// Brings `pair` to TSC `now`, and APERF forward by `aperf` ticks.
    pub(super) fn accrue(&mut self, now: u64, aperf: u64) {
        let elapsed = now.wrapping_sub(self.since);
        let behind = self.since.wrapping_sub(now);
        let forward = elapsed >> 63 == 0;
        let mperf = if self.c0 && forward {
            self.ratio.scale(elapsed, &mut self.carry)
        } else {
            0
        };
        // Another CPU's TSC may be behind by a few ticks, or the last write have foreseen a few
        // too many. MPERF then waits for the TSC. It does not wait for one that was reset, as in
        // a suspend of the host: the time since then is not known and is left out.
        if forward || behind > MAX_SKEW {
            self.since = now;
        }

        let before = self.pair;
        self.pair = before.advanced(Pair { aperf, mperf });
        if self.pair.aperf < before.aperf || self.pair.mperf < before.mperf {
            // An overflow: what was too high is no longer.
            self.choose_mode();
        }
        self.away = self.away.wrapping_add(mperf).min(self.pair.mperf);
    }

    /// The vCPU was not in C0 for `ticks` of the TSC since the last accrual.
    pub(super) fn sit_out(&mut self, ticks: u64) {
        self.since = self.since.wrapping_add(ticks);
    }

    /// Whether the MPERF of each CPU that it may be on ticks with the TSC.
    pub(super) fn has_permit(&self) -> bool {
        self.permit.is_some()
    }

    /// MPERF at TSC `now`, not yet accrued. For ratio 1 only.
    pub(super) fn mperf_at(&self, now: u64) -> u64 {
        let elapsed = now.wrapping_sub(self.since);
        if elapsed >> 63 == 0 {
            self.mperf_due(now)
        } else {
            self.pair.mperf
        }
    }

    /// The same where MPERF does not wait for a TSC that is behind.
    pub(super) fn mperf_due(&self, now: u64) -> u64 {
        self.pair.mperf.wrapping_add(now.wrapping_sub(self.since))
    }

    /// The vCPU leaves where it was: from here on, MPERF goes on without it.
    pub(super) fn leave(&mut self) {
        if self.place != Place::Away {
            self.away = 0;
        }
        self.place = Place::Away;
    }

    /// Userspace stopped the guest, which must not look as if it had been short of a CPU.
    pub(super) fn forget_pause(&mut self) {
        self.pair.mperf = self.pair.mperf.wrapping_sub(self.away);
        self.away = 0;
    }

    /// KVM_RUN begins, or sched-in.
    pub(super) fn start(&mut self) {
        self.running = true;
        self.restored = false;
    }

    /// A vCPU that was not in C0 when it was saved is RUNNABLE while it is restored, as MP_STATE
    /// comes after the MSRs. Its MPERF must not advance in between.
    pub(super) fn set_c0(&mut self, c0: bool) {
        if self.restored {
            self.forget_pause();
        }
        self.restored = false;
        self.c0 = c0;
    }

    pub(super) fn set(&mut self, counter: Counter, value: u64) {
        self.pair = self.pair.with(counter, value);
        if counter == Counter::Mperf {
            self.away = 0;
            self.restored = !self.running;
        }
        self.choose_mode();
    }

    pub(super) fn set_ratio(&mut self, ratio: TscRatio, intercept: bool) {
        // A carry in units of the old fraction means nothing in the new one.
        self.carry = 0;
        self.ratio = ratio;
        self.asked = intercept;
        self.choose_mode();
    }

    fn choose_mode(&mut self) {
        self.mode = Mode::choose(self.has_permit(), self.asked, self.ratio, self.pair);
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The rules that the machine itself watches while tests run, see [`oracle::watch`].
//! A run ends where one is broken.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::oracle::{self, rule};
use crate::pair::ONE_SWITCH;

/// Rules that this process wants.
static WANTED: AtomicU64 = AtomicU64::new(0);

/// The MSRs of the host do not hold what the CPUs did.
static UNTRUE: AtomicBool = AtomicBool::new(false);

/// Ticks that a pair may be off by.
static TOLERANCE: AtomicU64 = AtomicU64::new(ONE_SWITCH);

fn want(rules: u64) {
    WANTED.store(rules, Relaxed);
    if oracle::machine().is_some() {
        let possible = if UNTRUE.load(Relaxed) {
            rules & !rule::USER
        } else {
            rules
        };
        oracle::watch(possible, TOLERANCE.load(Relaxed));
    }
}

/// Has the machine watch all rules.
pub fn watch_all() {
    UNTRUE.store(false, Relaxed);
    TOLERANCE.store(ONE_SWITCH, Relaxed);
    want(rule::ALL);
}

/// Has the machine watch nothing.
pub fn watch_none() {
    want(0);
}

/// To be called when somebody but a guest has set its pair.
pub fn forget_guests() {
    want(WANTED.load(Relaxed));
}

/// The MSRs of the host were written: they do not hold any more what the CPU did.
pub fn host_pair_is_untrue() {
    UNTRUE.store(true, Relaxed);
    want(WANTED.load(Relaxed));
}

/// They do again, on each CPU.
pub fn host_pair_is_true() {
    UNTRUE.store(false, Relaxed);
    want(WANTED.load(Relaxed));
}

/// For tests in which what is not exact in APERF of the host adds up.
pub fn host_pair_may_be_off(ticks: u64) {
    TOLERANCE.store(ticks, Relaxed);
    want(WANTED.load(Relaxed));
}

/// For tests that change guests' pairs in ways of which they keep no account.
pub fn guests_are_not_followed() {
    want(WANTED.load(Relaxed) & rule::USER);
}

/// For tests with a guest that reads the host pair because its VMM wants that.
pub fn guests_may_read_host_pair() {
    want(WANTED.load(Relaxed) & !rule::GUEST_IS_NOT_HOST);
}

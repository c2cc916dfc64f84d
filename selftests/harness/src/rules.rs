// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The rules that the machine itself watches while tests run, see [`oracle::watch`].
//! A run ends where one is broken.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::oracle::{self, rule};
use crate::pair::ONE_SWITCH;

/// Rules that this process wants.
static WANTED: AtomicU64 = AtomicU64::new(0);

fn want(rules: u64) {
    WANTED.store(rules, Relaxed);
    if oracle::machine().is_some() {
        oracle::watch(rules, ONE_SWITCH);
    }
}

/// Has the machine watch all rules.
pub fn watch_all() {
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
    want(WANTED.load(Relaxed) & !rule::USER);
}

/// They do again, on each CPU.
pub fn host_pair_is_true() {
    if WANTED.load(Relaxed) != 0 {
        want(WANTED.load(Relaxed) | rule::USER);
    }
}

/// For tests that change guests' pairs in ways of which they keep no account.
pub fn guests_are_not_followed() {
    want(WANTED.load(Relaxed) & rule::USER);
}

/// For tests with a guest that reads the host pair because its VMM wants that.
pub fn guests_may_read_host_pair() {
    want(WANTED.load(Relaxed) & !rule::GUEST_IS_NOT_HOST);
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Results as kselftest wants them: KTAP on standard output
//! (Documentation/dev-tools/ktap.rst) and its exit statuses.

use std::fmt;
use std::process::ExitCode;

use anyhow::Result;

use crate::{kernel, rules};

const KSFT_PASS: u8 = 0;
const KSFT_FAIL: u8 = 1;
const KSFT_SKIP: u8 = 4;

/// A guest that never comes back would stop the whole run: give up after this
/// many seconds, in a usual kernel. The tests together need less, but for those that say
/// that they are [`alive`].
const ALARM_SECONDS: u64 = 20;

/// A test that takes longer than others says that it goes on.
pub fn alive() {
    // SAFETY: alarm() has no memory effects.
    unsafe { libc::alarm(kernel::cost(ALARM_SECONDS) as u32) };
}

/// An error that says that a test cannot run here, and why.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// One test case: its name and what it does.
pub type Test = (&'static str, fn() -> Result<()>);

/// Runs `tests` in order and prints their results.
pub fn run(tests: &[Test]) -> ExitCode {
    let (mut failed, mut skipped) = (0, 0);

    println!("TAP version 13\n1..{}", tests.len());
    rules::watch_all();
    for (number, (name, test)) in (1..).zip(tests) {
        alive();
        match test() {
            Ok(()) => println!("ok {number} {name}"),
            Err(error) => match error.downcast_ref::<Skip>() {
                Some(reason) => {
                    skipped += 1;
                    println!("ok {number} {name} # SKIP {reason}");
                }
                None => {
                    failed += 1;
                    println!("# {error:#}");
                    println!("not ok {number} {name}");
                }
            },
        }
    }

    rules::watch_none();
    let passed = tests.len() - failed - skipped;
    println!("# Totals: pass:{passed} fail:{failed} xfail:0 xpass:0 skip:{skipped} error:0");
    ExitCode::from(match (failed, passed) {
        (0, 0) => KSFT_SKIP,
        (0, _) => KSFT_PASS,
        _ => KSFT_FAIL,
    })
}

/// Prints a measured figure as a KTAP diagnostic line.
#[macro_export]
macro_rules! note {
    ($($argument:tt)*) => { println!("# {}", format_args!($($argument)*)) };
}

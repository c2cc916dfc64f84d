// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Where Linux knows that the TSC is unstable, MPERF has nothing to follow: the module does
//! not load and says why.
//!
//! The kernel is told so when it boots (tsc=unstable), on a machine of its own.

use std::fs;
use std::process::ExitCode;

use anyhow::{Result, bail};
use harness::ktap::{self, Skip};
use harness::module;

const CLOCKS: &str = "/sys/devices/system/clocksource/clocksource0/available_clocksource";

fn module_does_not_load() -> Result<()> {
    let clocks = fs::read_to_string(CLOCKS)?;
    if clocks.split_whitespace().any(|clock| clock == "tsc") {
        bail!(Skip("the TSC of this machine is stable".into()));
    }
    module::expect_refusal("the host lacks a stable TSC")
}

pub fn main() -> ExitCode {
    ktap::run(&[("the module does not load", module_does_not_load)])
}

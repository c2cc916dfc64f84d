// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule guest-aperf: guest APERF advances at the hardware's rate while the vCPU
//! is live, so that APERF/MPERF is the frequency at which the CPU really runs.
//!
//! The guest changes that frequency itself, through the oracle, and measures
//! over 400,000 instructions. No other task preempts it, and interrupts for the
//! host are time of a live vCPU. Bound: one switch.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::cpu::Alone;
use harness::guest::Guest;
use harness::module::Module;
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::{ONE_SWITCH, Pair, guest_code, ktap, note, oracle};

guest_code! {
    /// Sets ratio RDI, then reads to R8 and R9, and later to R10 and R11.
    set_and_measure:
        "mov rbx, -1"
        "mov rdx, rdi"
        "oracle 3"
        "rdpair r8, r9"
        "burn 400000"
        "rdpair r10, r11"
        "exit"
}

fn follows(ratio: u64) -> Result<()> {
    oracle::require()?;
    let _alone = Alone::on(0)?;
    let _module = Module::loaded()?;
    let _ratio = Ratio::set(THIS_CPU, RATIO_ONE);

    let guest = Guest::new(set_and_measure())?;
    let mut vcpu = guest.vcpu(0)?;
    vcpu.set_argument(ratio)?;
    let regs = vcpu.run()?;

    let advance = Pair {
        aperf: regs.r10,
        mperf: regs.r11,
    } - Pair {
        aperf: regs.r8,
        mperf: regs.r9,
    };
    let expected = advance.mperf * ratio / RATIO_ONE;
    let error = advance.aperf.wrapping_sub(expected) as i64;
    note!(
        "set {:.4}, guest sees {:.4}: {advance}, error {error} ticks",
        ratio as f64 / RATIO_ONE as f64,
        advance.ratio(),
    );
    ensure!(regs.r15 == 0, "{} reads faulted", regs.r15);
    ensure!(advance.mperf >= 400_000, "MPERF does not count each tick");
    ensure!(
        error.unsigned_abs() <= ONE_SWITCH,
        "APERF is off by {error} ticks"
    );
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("base frequency", || follows(RATIO_ONE)),
        ("turbo: one and a half of the base frequency", || {
            follows(RATIO_ONE * 3 / 2)
        }),
        ("throttled to three fifths", || follows(RATIO_ONE * 3 / 5)),
        ("throttled to an eighth", || follows(RATIO_ONE / 8)),
    ])
}

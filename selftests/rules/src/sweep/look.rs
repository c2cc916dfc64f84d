// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! How a guest sees its pair.

use anyhow::{Result, ensure};
use harness::guest::Vcpu;
use harness::oracle::{self, RATIO_ONE, THIS_CPU};
use harness::{Pair, guest_code};

use super::RATIO;

/// What a guest takes before it looks, in ticks.
pub const BURN: u64 = 2000;
/// The same where some of the host's ticks come meanwhile.
pub const WORK: u64 = 2_000_000;

guest_code! {
    /// Looks at TSC and pair as [`Look`] wants it.
    pub look:
        "2:"
        "burn 2000"
        "look"
        "exit"
        "jmp 2b"
}

guest_code! {
    /// The same, after it has set APERF to what it is.
    pub write_and_look:
        "2:"
        "rdmsr64 0xe8, r8"
        "wrmsr64 0xe8, r8"
        "burn 2000"
        "look"
        "exit"
        "jmp 2b"
}

guest_code! {
    /// The same, after some of the host's ticks.
    pub work_and_look:
        "2:"
        "burn 2000000"
        "look"
        "exit"
        "jmp 2b"
}

guest_code! {
    /// The same, after a HLT of 100 us.
    pub halt_and_look:
        "cli"
        "timer_one_shot"
        "mov r14, 100000"
        "2:"
        "sleep r14"
        "burn 2000"
        "look"
        "exit"
        "jmp 2b"
}

/// One look of the guest at its pair.
pub struct Look {
    pair: Pair,
    /// The guest's TSC before and after it read MPERF.
    tsc: (u64, u64),
    /// What APERF of the CPU really did so far.
    aperf: u64,
}

impl Look {
    pub fn take(vcpu: &mut Vcpu) -> Result<Self> {
        let regs = vcpu.run()?;
        ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);
        Ok(Look {
            pair: Pair {
                aperf: regs.r8,
                mperf: regs.r9,
            },
            tsc: (regs.r10, regs.r11),
            aperf: oracle::truth(THIS_CPU).host.aperf,
        })
    }

    /// How far this look's MPERF is from where it would be had it gone on with the TSC
    /// since `before`, or somewhat slower where `c0` is false, in ticks.
    pub fn mperf_error(&self, before: &Look, c0: bool) -> u64 {
        let advance = self.pair.mperf.wrapping_sub(before.pair.mperf) as i64;
        let least = self.tsc.0.wrapping_sub(before.tsc.1) as i64;
        let most = self.tsc.1.wrapping_sub(before.tsc.0) as i64;
        let least = if c0 { least } else { 0 };
        (least - advance).max(advance - most).max(0) as u64
    }

    /// How far this look's APERF is from where it can be, if the guest took `least` ticks
    /// since `before`: the CPU has other things to do, too.
    pub fn aperf_error(&self, before: &Look, least: u64) -> u64 {
        let advance = self.pair.aperf.wrapping_sub(before.pair.aperf) as i64;
        let least = (least * RATIO / RATIO_ONE) as i64;
        let most = self.aperf.wrapping_sub(before.aperf) as i64;
        (least - advance).max(advance - most).max(0) as u64
    }
}

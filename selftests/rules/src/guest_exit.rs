// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rules guest-aperf and guest-mperf at exits to user space: MPERF goes on
//! there, APERF does not.
//!
//! Bounds, at ratio 1: MPERF keeps to the guest's TSC within one switch, however
//! often KVM_RUN returned. APERF gets nothing of what user space used.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::guest::{Guest, Vcpu};
use harness::module::Module;
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::{ONE_SWITCH, Pair, cpu, guest_code, ktap, note, oracle};

const SPIN_TICKS: u64 = 500_000;
const EXITS: u64 = 1000;

guest_code! {
    read_on_each_run:
        "2:"
        "rdtsc64 r10"
        "rdpair r8, r9"
        "exit"
        "jmp 2b"
}

struct Sample {
    tsc: u64,
    pair: Pair,
}

fn sample(vcpu: &mut Vcpu) -> Result<Sample> {
    let regs = vcpu.run()?;
    ensure!(regs.r15 == 0, "{} reads faulted", regs.r15);
    Ok(Sample {
        tsc: regs.r10,
        pair: Pair {
            aperf: regs.r8,
            mperf: regs.r9,
        },
    })
}

/// Runs the guest `exits` times, with `ticks` in user space in between.
fn run_with_pauses(exits: u64, ticks: u64) -> Result<()> {
    oracle::require()?;
    cpu::pin(0)?;
    let _module = Module::loaded()?;
    let _ratio = Ratio::set(THIS_CPU, RATIO_ONE);

    let guest = Guest::new(read_on_each_run())?;
    let mut vcpu = guest.vcpu(0)?;
    let first = sample(&mut vcpu)?;
    let mut last = sample(&mut vcpu)?;
    for _ in 1..exits {
        cpu::spin(ticks);
        let next = sample(&mut vcpu)?;
        ensure!(next.pair.aperf > last.pair.aperf, "APERF ran backwards");
        last = next;
    }

    let tsc = last.tsc - first.tsc;
    let advance = last.pair - first.pair;
    let paused = ticks * (exits - 1);
    let error = advance.mperf.wrapping_sub(tsc) as i64;
    note!("over {exits} exits: {advance}, TSC {tsc}, of these in user space at least {paused}");
    note!("MPERF is off by {error} ticks");
    ensure!(
        error.unsigned_abs() <= ONE_SWITCH,
        "MPERF does not keep to the TSC"
    );
    ensure!(
        advance.aperf <= tsc - paused,
        "APERF counts what user space used"
    );
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("user space's time is in MPERF and not in APERF", || {
            run_with_pauses(4, SPIN_TICKS)
        }),
        ("MPERF does not drift", || run_with_pauses(EXITS, 0)),
    ])
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rules guest-mperf and no-exit of a nested guest, L2, that runs in a guest, L1.
//! There is only one pair, L1's. If L1 lets L2 read it, KVM does too.
//!
//! L2 halts, which L1 does not intercept. An interrupt ends that by a VM exit to
//! L1, which nobody woke up: L1 must be in C0 all the same, with a live pair.
//!
//! Bounds: what is C0 of a HLT is the way out of L2 and back into L1, fewer than
//! 30,000 instructions at up to 4 ticks; measured are 4,000 to 9,300 ticks. A live
//! pair keeps to 100,000 instructions within one switch.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::cpu::Alone;
use harness::module::Module;
use harness::nested::{self, Nested, Report};
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::watch::watch;
use harness::{ONE_SWITCH, cpu, kernel, ktap, note, oracle};

const C0_BOUND: u64 = 120_000;

struct Setup {
    nested: Nested,
    _ratio: Ratio,
    _module: Module,
    _alone: Alone,
}

fn prepare(intercept: bool) -> Result<Setup> {
    oracle::require()?;
    let alone = Alone::on(0)?;
    let module = Module::loaded()?;
    Ok(Setup {
        nested: Nested::new(intercept)?,
        _ratio: Ratio::set(THIS_CPU, RATIO_ONE),
        _module: module,
        _alone: alone,
    })
}

fn hlt() -> Result<()> {
    let Setup { nested, .. } = &mut prepare(false)?;
    let machine = oracle::require()?;
    let Report {
        l2,
        halted,
        after,
        later,
        reason,
        ..
    } = nested.run()?;
    let end = nested.vcpu().pair()?;
    ensure!(
        reason == nested::reasons().interrupt,
        "L2 exited for reason {reason:#x}"
    );

    let asleep = after - l2;
    note!("L1 sees {asleep} over L2's HLT, TSC {halted}");
    ensure!(
        kernel::cost(halted) >= machine.tsc_hz / 1000 * nested::HALT_MS / 2,
        "L2 did not halt"
    );
    for counter in [asleep.mperf, asleep.aperf] {
        ensure!(
            (1..=kernel::cost(C0_BOUND)).contains(&counter),
            "the pair advanced in HLT, or ran backwards"
        );
    }

    let awake = later - after;
    note!("then L1 sees {awake}, and user space {} more", end - later);
    ensure!(
        awake.mperf >= 100_000 && awake.mperf.abs_diff(awake.aperf) <= ONE_SWITCH,
        "the pair is not live in L1"
    );
    ensure!(
        ((end - later).mperf as i64) > 0 && ((end - later).aperf as i64) > 0,
        "what L1 read was not its pair"
    );
    watch("L1 after L2's HLT", nested.vcpu())?.expect_c0()
}

fn reads_passed_through() -> Result<()> {
    let Setup { nested, .. } = &mut prepare(false)?;
    let start = cpu::tsc();
    let Report {
        before, l2, exits, ..
    } = nested.run()?;
    let elapsed = cpu::tsc() - start;

    let advance = l2 - before;
    note!("L2 reads {advance} more than L1 before, with {exits} exits by RDMSR");
    ensure!(exits == 0, "L2's reads exit");
    ensure!(
        (1..=elapsed).contains(&advance.mperf)
            && advance.mperf.abs_diff(advance.aperf) <= ONE_SWITCH,
        "L2 does not read L1's pair"
    );
    Ok(())
}

fn reads_intercepted_by_l1() -> Result<()> {
    let Setup { nested, .. } = &mut prepare(true)?;
    let Report { reason, .. } = nested.run()?;
    note!("L2's first read exited to L1 for reason {reason:#x}");
    ensure!(
        reason == nested::reasons().rdmsr,
        "L1 does not get L2's reads"
    );
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("an interrupt in L2's HLT leads to C0 in L1", hlt),
        ("L2 reads L1's pair without exits", reads_passed_through),
        (
            "L2's reads exit to an L1 that wants it",
            reads_intercepted_by_l1,
        ),
    ])
}

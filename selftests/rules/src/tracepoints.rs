// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The module's trace events tell what happened: the steps of a KVM_RUN in their
//! order, with the values that guest and host had, and changes of the mode.
//!
//! Bounds: the guest's own reads lie between load and put, exactly. The host pair
//! that a restore shows is from between the oracle's truth before and after.

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use harness::cpu::Alone;
use harness::debugfs::{self, Snapshot};
use harness::guest::Guest;
use harness::module::{self, Module};
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::pair::MSR_IA32_APERF;
use harness::tracefs::{self, Event, Tracing};
use harness::{ONE_SWITCH, Pair, guest_code, host, ktap, note, oracle};

const RUNS: usize = 20;

guest_code! {
    read_on_each_run:
        "2:"
        "rdpair r8, r9"
        "exit"
        "jmp 2b"
}

/// What one KVM_RUN is, from load to restore.
const STEPS: [&str; 5] = [
    "aperfmperf_exchange",
    "aperfmperf_load",
    "aperfmperf_put",
    "aperfmperf_exchange",
    "aperfmperf_restore",
];

fn expect_between(what: &str, value: u64, low: u64, high: u64) -> Result<()> {
    let off = host::outside(value, (low, high));
    ensure!(off == 0, "{what} {value} is not in {low}..={high}");
    Ok(())
}

/// The values of one KVM_RUN, in which the guest read `read`.
fn expect_values(steps: &[Event], vcpu: u64, read: Pair, truth: (Pair, Pair)) -> Result<()> {
    let [before, load, put, after, restore] = steps else {
        bail!("{} steps", steps.len());
    };
    for exchange in [before, after] {
        let lost = exchange.number("lost_mperf")?;
        ensure!((1..ONE_SWITCH).contains(&lost), "{lost} ticks lost");
        ensure!(
            exchange.number("lost_aperf")?.abs_diff(lost / 2) <= 1,
            "APERF lost at another frequency: {exchange:?}"
        );
        ensure!(exchange.number("interrupted")? == 0, "{exchange:?}");
    }
    for step in [load, put] {
        ensure!(step.number("vcpu")? == vcpu, "{step:?} is not of {vcpu}");
    }
    for step in steps {
        ensure!(step.number("cpu")? == 0, "{step:?} on another CPU");
    }
    let (load, put, restore) = (load.pair()?, put.pair()?, restore.pair()?);
    expect_between("guest APERF", read.aperf, load.aperf, put.aperf)?;
    expect_between("guest MPERF", read.mperf, load.mperf, put.mperf)?;
    expect_between("host APERF", restore.aperf, truth.0.aperf, truth.1.aperf)?;
    expect_between("host MPERF", restore.mperf, truth.0.mperf, truth.1.mperf)
}

fn switches() -> Result<()> {
    oracle::require()?;
    let _module = Module::loaded()?;
    let _alone = Alone::on(0)?;
    let _ratio = Ratio::set(THIS_CPU, RATIO_ONE / 2);
    let guest = Guest::new(read_on_each_run())?;
    let (mut vcpu, name) = debugfs::vcpu_with_name(&guest, 0)?;
    let number = name.trim_start_matches("vcpu").parse()?;
    // The module learns the frequency.
    for _ in 0..4 {
        vcpu.resume()?;
    }

    let truth = || oracle::truth(THIS_CPU).host;
    let mut runs = Vec::new();
    let tracing = Tracing::start()?;
    for _ in 0..RUNS {
        let before = truth();
        let regs = vcpu.run()?;
        let read = Pair {
            aperf: regs.r8,
            mperf: regs.r9,
        };
        runs.push((read, (before, truth())));
    }
    let events = tracing.stop()?;

    let names = events.iter().map(|event| event.name.as_str());
    ensure!(
        names.eq(STEPS.into_iter().cycle().take(RUNS * STEPS.len())),
        "other steps: {events:?}"
    );
    for (steps, (read, truth)) in events.chunks(STEPS.len()).zip(runs) {
        expect_values(steps, number, read, truth)?;
    }
    let last = &events[events.len() - 3];
    note!("the last put: {last:?}");
    Snapshot::of(&name)?.expect("aperf_at_put", last.text("aperf")?)
}

fn modes() -> Result<()> {
    let _module = Module::loaded()?;
    let _alone = Alone::on(0)?;
    let guest = Guest::new(read_on_each_run())?;
    let (vcpu, name) = debugfs::vcpu_with_name(&guest, 0)?;
    let number = name.trim_start_matches("vcpu");

    let tracing = Tracing::start()?;
    vcpu.set_msr(MSR_IA32_APERF, 1 << 62)?;
    vcpu.set_msr(MSR_IA32_APERF, 1)?;
    let events = tracing.stop()?;
    note!("{events:?}");
    ensure!(events.len() == 2, "{} events", events.len());
    for (event, mode) in events.iter().zip(["intercepted:high_value", "passthrough"]) {
        ensure!(event.name == "aperfmperf_mode", "{event:?}");
        ensure!(event.text("vcpu")? == number, "{event:?}");
        ensure!(event.text("mode")? == mode, "{event:?} is not {mode}");
    }
    Ok(())
}

fn only_while_on() -> Result<()> {
    let _module = Module::unloaded()?;
    module::insert()?;
    let _alone = Alone::on(0)?;
    let guest = Guest::new(read_on_each_run())?;
    let mut vcpu = guest.vcpu(0)?;
    let tracing = Tracing::start()?;
    vcpu.resume()?;
    let traced = tracing.stop()?.len();
    ensure!(traced >= STEPS.len(), "{traced} events");

    // What happens afterwards does not show.
    vcpu.resume()?;
    ensure!(tracefs::buffer()?.len() == traced, "events while off");
    drop((vcpu, guest));
    module::remove().context("unload")?;
    ensure!(!tracefs::events().exists(), "the events stayed");
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("the steps of KVM_RUN, and their values", switches),
        ("changes of the mode", modes),
        ("only while on, and gone with the module", only_while_on),
    ])
}

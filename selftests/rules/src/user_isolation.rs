// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule user-isolation: a CPU in host user space holds the host pair, whoever
//! ran on it before.
//!
//! The oracle compares the MSRs with the true counters, at the same tick.
//! Bound: one switch, after however many.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::guest::Guest;
use harness::module::Module;
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::{ONE_SWITCH, cpu, foreign, ktap, note, oracle};

const RETURNS: u64 = 1000;
const WAKEUPS: u64 = 200;

/// Distance of the MSRs of this CPU from the host pair, now.
fn error() -> u64 {
    let truth = oracle::truth(THIS_CPU);
    truth.hardware.distance(truth.host)
}

fn after_kvm_run(ratio: u64) -> Result<()> {
    oracle::require()?;
    cpu::pin(0)?;
    let _module = Module::loaded()?;
    let _ratio = Ratio::set(THIS_CPU, ratio);

    let guest = Guest::new(foreign::exits())?;
    let mut vcpu = guest.vcpu(0)?;
    let mut errors = Vec::new();
    for _ in 0..RETURNS {
        vcpu.resume()?;
        errors.push(error());
    }

    let (first, last) = (errors[0], errors[errors.len() - 1]);
    let worst = errors.into_iter().max().unwrap();
    note!("{RETURNS} returns, error of the first {first}, last {last}, worst {worst} ticks");
    ensure!(
        worst <= ONE_SWITCH,
        "user space sees a pair that is off by {worst} ticks"
    );
    Ok(())
}

fn in_another_task() -> Result<()> {
    oracle::require()?;
    let _module = Module::loaded()?;
    let worst = foreign::worst_in_another_task(WAKEUPS, error)?;
    let switches = cpu::thread_switches();
    note!("{WAKEUPS} wake-ups, {switches} switches, worst error {worst} ticks");
    ensure!(
        worst <= ONE_SWITCH,
        "another task sees a pair that is off by {worst} ticks"
    );
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("when KVM_RUN returns, at base frequency", || {
            after_kvm_run(RATIO_ONE)
        }),
        ("when KVM_RUN returns, throttled", || {
            after_kvm_run(RATIO_ONE * 3 / 5)
        }),
        ("in another task that preempts the vCPU", in_another_task),
    ])
}

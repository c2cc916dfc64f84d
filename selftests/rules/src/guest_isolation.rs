// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule guest-isolation: two guests with different values on one CPU never see
//! each other's, nor the host's.
//!
//! Their values lie 2^48 and more apart.

use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;

use anyhow::{Result, ensure};
use harness::guest::Guest;
use harness::module::Module;
use harness::own::{self, ROUNDS};
use harness::{cpu, ktap, note, oracle};

const BASES: [u64; 2] = [1 << 48, 1 << 50];

fn never_see_each_other() -> Result<()> {
    oracle::require()?;
    cpu::pin(0)?;
    let _module = Module::loaded()?;

    let start = Barrier::new(BASES.len());
    let switches = thread::scope(|scope| {
        let threads = BASES.map(|base| {
            let start = &start;
            scope.spawn(move || -> Result<u64> {
                cpu::pin(0)?;
                let guest = Guest::with_irqchip(own::reads_and_halts())?;
                let mut vcpu = guest.vcpu(0)?;
                vcpu.set_argument(base)?;
                start.wait();

                let regs = vcpu.run()?;
                let switches = cpu::thread_switches();
                note!("guest at {base:#x}: {ROUNDS} rounds, {switches} switches of its thread");
                own::expect_own(&regs)?;
                Ok(switches)
            })
        });
        threads
            .map(|thread| thread.join().unwrap())
            .into_iter()
            .sum::<Result<u64>>()
    })?;
    ensure!(switches >= ROUNDS, "the guests did not take turns");
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[(
        "two guests on one CPU read their own values",
        never_see_each_other,
    )])
}

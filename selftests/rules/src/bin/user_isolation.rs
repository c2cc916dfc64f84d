// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule user-isolation: a CPU in host user space holds the host pair, whoever
//! ran on it before.
//!
//! The oracle compares the MSRs with the true counters, at the same tick.
//! Bound: one switch, after however many.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::guest::Guest;
use harness::module::Module;
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::{ONE_SWITCH, cpu, guest_code, ktap, note, oracle};

const RETURNS: u64 = 1000;
const WAKEUPS: u64 = 200;

guest_code! {
    /// Makes its values as different from the host's as can be.
    write_and_exit:
        "mov rdi, 1 << 60"
        "wrmsr64 0xe8, rdi"
        "wrmsr64 0xe7, rdi"
        "2:"
        "burn 5000"
        "exit"
        "jmp 2b"
}

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

    let guest = Guest::new(write_and_exit())?;
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

/// A thread that preempts the vCPU's whenever it wakes up.
fn in_another_task() -> Result<()> {
    oracle::require()?;
    cpu::pin(0)?;
    let _module = Module::loaded()?;

    let guest = Guest::new(write_and_exit())?;
    let mut vcpu = guest.vcpu(0)?;
    let stop = AtomicBool::new(false);
    let worst = thread::scope(|scope| -> Result<u64> {
        let runner = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                vcpu.resume()?;
            }
            Ok(())
        });

        let mut worst = 0;
        for _ in 0..WAKEUPS {
            thread::sleep(Duration::from_micros(50));
            worst = worst.max(error());
        }
        stop.store(true, Ordering::Relaxed);
        runner.join().unwrap()?;
        Ok(worst)
    })?;

    note!(
        "{WAKEUPS} wake-ups, {} switches, worst error {worst} ticks",
        cpu::thread_switches()
    );
    ensure!(
        worst <= ONE_SWITCH,
        "another task sees a pair that is off by {worst} ticks"
    );
    Ok(())
}

fn main() -> ExitCode {
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

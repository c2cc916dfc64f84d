// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule clean-exit: the module cannot be unloaded while a VM uses it, and
//! leaves the host pair in the MSRs of every CPU.
//!
//! Bound: one switch between the MSRs and the true counters.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use harness::child::Child;
use harness::guest::Guest;
use harness::host::Msrs;
use harness::module::{self, Module};
use harness::{ONE_SWITCH, cpu, guest_code, ktap, note, oracle};

guest_code! {
    write_and_exit:
        "far"
        "exit"
}

guest_code! {
    write_and_spin:
        "far"
        "2:"
        "jmp 2b"
}

/// Distance of the MSRs of a CPU from the host pair.
fn error(cpu: u64) -> u64 {
    let truth = oracle::truth(cpu);
    truth.hardware.distance(truth.host)
}

/// All CPUs must hold the host pair.
fn expect_host_pair() -> Result<()> {
    for cpu in 0..cpu::online() as u64 {
        let error = error(cpu);
        note!("CPU {cpu}: error {error} ticks");
        ensure!(error <= ONE_SWITCH, "CPU {cpu} does not hold the host pair");
    }
    Ok(())
}

fn loads_and_unloads() -> Result<()> {
    let _module = Module::unloaded()?;
    for _ in 0..3 {
        module::insert()?;
        ensure!(module::is_loaded(), "not loaded");
        module::remove()?;
        ensure!(!module::is_loaded(), "still loaded");
    }
    Ok(())
}

fn refuses_while_in_use() -> Result<()> {
    oracle::require()?;
    let _module = Module::unloaded()?;
    module::insert()?;

    for cpu in 0..cpu::online() {
        cpu::pin(cpu)?;
        let guest = Guest::new(write_and_exit())?;
        let mut vcpu = guest.vcpu(0)?;
        vcpu.resume()?;

        match module::remove() {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(error) => bail!("refused for another reason: {error}"),
            Ok(()) => bail!("unloaded with a VM in use"),
        }
    }

    module::remove()?;
    expect_host_pair()
}

/// How often something of a killed guest may be gone before it is looked at.
const ATTEMPTS: usize = 20;

/// A vCPU thread that is killed never returns to user space, and an idle CPU
/// has no reason to: the guest's values stay in its MSRs until somebody cares, or any
/// task returns to user space there.
fn cleans_up_after_killed_guest() -> Result<()> {
    oracle::require()?;
    cpu::require_two()?;
    cpu::pin(0)?;
    let _module = Module::unloaded()?;
    module::insert()?;

    for _ in 0..ATTEMPTS {
        kill_guest(1)?;
        if remove_while_read(1)? {
            expect_host_pair()?;
            // It returns to user space: nothing of the module's is called any more.
            cpu::pin(1)?;
            return Ok(cpu::pin(0)?);
        }
    }
    bail!("nothing is left of any of {ATTEMPTS} guests")
}

fn kill_guest(cpu: usize) -> Result<()> {
    let child = Child::start(|| spin_for_ever(cpu))?;
    while module::users()? == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(10));
    child.kill()
}

/// Rule host-continuity: readers use the offset for as long as there is one. False, with
/// the module still there, if nothing of the guest is left on `cpu`.
///
/// Says nothing before the end: who reads it runs on that CPU and returns to user space.
fn remove_while_read(cpu: usize) -> Result<bool> {
    let msrs = Msrs::open(cpu)?;
    let gone = AtomicBool::new(false);
    let (left, reads, worst) = thread::scope(|scope| -> Result<(u64, u64, u64)> {
        let reader = scope.spawn(|| -> Result<(u64, u64)> {
            // Reads whenever it has the last answer, and removal goes on while it waits.
            let _priority = cpu::Alone::on(0)?;
            let (mut reads, mut worst) = (0, 0);
            while !gone.load(Ordering::Relaxed) {
                worst = worst.max(msrs.error()?);
                reads += 1;
            }
            Ok((reads, worst))
        });
        // It has begun to read.
        thread::sleep(Duration::from_millis(5));
        let left = error(cpu as u64);
        let removed = if left > ONE_SWITCH {
            module::remove()
        } else {
            Ok(())
        };
        gone.store(true, Ordering::Relaxed);
        let (reads, worst) = reader.join().unwrap()?;
        removed?;
        Ok((left, reads, worst))
    })?;
    note!("CPU {cpu} after the kill: error {left} ticks");
    note!("{reads} reads of CPU {cpu} in the meantime, worst error {worst} ticks");
    ensure!(
        worst <= ONE_SWITCH,
        "the host pair of CPU {cpu} was off by {worst} ticks"
    );
    Ok(left > ONE_SWITCH)
}

fn spin_for_ever(cpu: usize) -> Result<()> {
    cpu::pin(cpu)?;
    Guest::new(write_and_spin())?.vcpu(0)?.resume()
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("loads and unloads", loads_and_unloads),
        (
            "refuses to unload with a VM in use, then leaves cleanly",
            refuses_while_in_use,
        ),
        (
            "leaves cleanly after a killed guest",
            cleans_up_after_killed_guest,
        ),
    ])
}

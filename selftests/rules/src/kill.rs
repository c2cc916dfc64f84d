// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule clean-exit when a VM ends without a word: its thread is killed wherever it
//! happens to be, or another process drops the last descriptor.
//!
//! Afterwards the module must have no user left, and each CPU the host pair, but for
//! one switch.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::child::Child;
use harness::guest::Guest;
use harness::module::{self, Module};
use harness::{ONE_SWITCH, cpu, guest_code, kernel, ktap, msr_device, note, oracle};

/// How long a VM needs to be where it is to be killed.
const SETTLE: Duration = Duration::from_millis(20);

guest_code! {
    write_and_spin:
        "far"
        "exit"
        "2:"
        "jmp 2b"
}

guest_code! {
    write_and_halt:
        "far"
        "exit"
        "2:"
        "hlt"
        "jmp 2b"
}

/// Runs a guest with `code`, after its first exit, forever.
fn run(cpu: usize, code: &[u8]) -> Result<()> {
    cpu::pin(cpu)?;
    let guest = Guest::with_irqchip(code)?;
    let mut vcpu = guest.vcpu(0)?;
    vcpu.resume()?;
    vcpu.resume()
}

/// Runs a guest to its first exit, and never again.
fn pause(cpu: usize) -> Result<()> {
    cpu::pin(cpu)?;
    let guest = Guest::new(write_and_spin())?;
    let mut vcpu = guest.vcpu(0)?;
    vcpu.resume()?;
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

fn prepare() -> Result<Module> {
    oracle::require()?;
    let module = Module::unloaded()?;
    for cpu in (0..cpu::online()).rev() {
        msr_device::make_true(cpu)?;
    }
    module::insert()?;
    Ok(module)
}

/// No vCPU is left, and no trace of one.
fn expect_clean() -> Result<()> {
    let error = |cpu| {
        let truth = oracle::truth(cpu);
        truth.hardware.distance(truth.host)
    };
    let cpus = 0..cpu::online() as u64;
    let before: Vec<_> = cpus.clone().map(error).collect();
    module::remove().context("somebody still uses the module")?;
    let after: Vec<_> = cpus.map(error).collect();
    note!("CPUs off by {before:?} ticks with the module, {after:?} without");
    ensure!(
        after.iter().all(|&error| error <= ONE_SWITCH),
        "a CPU has no host pair"
    );
    kernel::expect_no_warning()
}

/// Starts `vcpus` processes that do `work` on the last CPU, and kills them.
fn kill(vcpus: u64, work: fn(usize) -> Result<()>) -> Result<()> {
    let _module = prepare()?;
    for _ in 0..3 {
        let children = (0..vcpus)
            .map(|_| Child::start(|| work(cpu::online() - 1)))
            .collect::<Result<Vec<_>>>()?;
        while module::users()? < vcpus {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(SETTLE);
        for child in children {
            child.kill()?;
        }
    }
    expect_clean()
}

/// Another process has the descriptors, too, and drops them last.
fn closed_by_another_process() -> Result<()> {
    let _module = prepare()?;
    let guest = Guest::new(write_and_spin())?;
    let mut vcpu = guest.vcpu(0)?;
    vcpu.resume()?;
    let child = Child::start(|| {
        cpu::pin(cpu::online() - 1)?;
        thread::sleep(3 * SETTLE);
        Ok(())
    })?;
    drop((vcpu, guest));
    match module::remove() {
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
        Err(error) => bail!("refused for another reason: {error}"),
        Ok(()) => bail!("unloaded while another process has the vCPU"),
    }
    let status = child.wait()?;
    ensure!(status == 0, "the other process failed: {status:#x}");
    expect_clean()
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("killed in guest mode", || {
            kill(1, |cpu| run(cpu, write_and_spin()))
        }),
        ("killed while halted", || {
            kill(1, |cpu| run(cpu, write_and_halt()))
        }),
        ("killed between two runs", || kill(1, pause)),
        ("killed while it waits for its CPU", || {
            kill(2, |cpu| run(cpu, write_and_spin()))
        }),
        ("closed by another process", closed_by_another_process),
    ])
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rules opt-in and clean-exit as the module comes and goes beside VMs: it counts
//! who uses it, stays while anyone does, and is not forced on a vCPU that began
//! without it. The counts are exact.

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use harness::guest::{Guest, Vcpu, cpuid};
use harness::module::{self, Module};
use harness::{cpu, guest_code, ktap, note};

guest_code! {
    read_on_each_run:
        "2:"
        "rdpair r8, r9"
        "exit"
        "jmp 2b"
}

fn expect_users(expected: u64) -> Result<()> {
    let users = module::users()?;
    note!("{users} users");
    ensure!(users == expected, "{users} users instead of {expected}");
    if expected == 0 {
        return Ok(());
    }
    match module::remove() {
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(()),
        Err(error) => bail!("refused for another reason: {error}"),
        Ok(()) => bail!("unloaded with {users} users"),
    }
}

fn prepare() -> Result<Module> {
    cpu::pin(0)?;
    Module::unloaded()
}

fn each_vcpu_counts() -> Result<()> {
    let _module = prepare()?;
    module::insert()?;

    expect_users(0)?;
    let guest = Guest::new(read_on_each_run())?;
    expect_users(0)?;
    let mut first = guest.vcpu(0)?;
    expect_users(1)?;
    first.resume()?;
    expect_users(1)?;
    let second = guest.vcpu(1)?;
    expect_users(2)?;
    let without = guest.vcpu_with(2, &cpuid::without_pair(guest.kvm())?)?;
    expect_users(2)?;

    // A vCPU lives as long as its VM.
    drop((first, second, without));
    expect_users(2)?;
    drop(guest);
    expect_users(0)?;
    module::remove().context("nobody uses it any more")
}

/// Until its first run, a vCPU's CPUID may change.
fn clearing_the_bit_lets_go() -> Result<()> {
    let _module = prepare()?;
    module::insert()?;

    let guest = Guest::new(read_on_each_run())?;
    let vcpu = guest.vcpu(0)?;
    expect_users(1)?;
    vcpu.fd().set_cpuid2(&cpuid::without_pair(guest.kvm())?)?;
    expect_users(0)?;
    vcpu.fd().set_cpuid2(&cpuid::with_pair(guest.kvm())?)?;
    expect_users(1)
}

/// Runs the guest, and returns how many of its two reads fault.
fn faults(vcpu: &mut Vcpu) -> Result<u64> {
    let before = vcpu.regs()?.r15;
    Ok(vcpu.run()?.r15 - before)
}

fn loaded_beside_a_vm() -> Result<()> {
    let _module = prepare()?;
    let old = Guest::new(read_on_each_run())?;
    let mut old_vcpu = old.vcpu(0)?;
    ensure!(faults(&mut old_vcpu)? == 2, "a pair without the module");

    module::insert()?;
    let new = Guest::new(read_on_each_run())?;
    let mut new_vcpu = new.vcpu(0)?;
    for _ in 0..3 {
        ensure!(faults(&mut old_vcpu)? == 2, "the old vCPU has a pair");
        ensure!(faults(&mut new_vcpu)? == 0, "the new vCPU has no pair");
    }

    // The same CPUID once more, as VMMs may set it.
    old_vcpu.fd().set_cpuid2(&cpuid::with_pair(old.kvm())?)?;
    ensure!(faults(&mut old_vcpu)? == 2, "the old vCPU has a pair now");
    expect_users(1)?;

    // The old one holds nothing, and lives on without the module.
    drop((new_vcpu, new));
    expect_users(0)?;
    module::remove().context("nobody uses it any more")?;
    ensure!(faults(&mut old_vcpu)? == 2, "a pair without the module");
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("each vCPU counts, and keeps the module", each_vcpu_counts),
        ("clearing the CPUID bit lets go", clearing_the_bit_lets_go),
        ("loaded beside a running VM", loaded_beside_a_vm),
    ])
}

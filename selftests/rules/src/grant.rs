// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule opt-in, for VMMs that do not know the counters: a VM has a pair although
//! its VMM leaves the CPUID bit clear, if its process has the module's device open
//! when it sets CPUID. Only root may open it. A VM that was promised the host pair
//! (KVM_X86_DISABLE_EXITS_APERFMPERF) keeps that, and the CPUID that its VMM sets.
//!
//! All bounds are exact, but for the host pair: one switch outside of what the true
//! counters are before and after.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::process::{Command, ExitCode};
use std::{env, io};

use anyhow::{Context, Result, ensure};
use harness::guest::{Guest, cpuid};
use harness::host::outside;
use harness::module::{self, Module};
use harness::{ONE_SWITCH, cpu, guest_code, ktap, msr_device, note, oracle};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;

const DEVICE: &str = "/dev/kvm_aperfmperf";

guest_code! {
    read_on_each_run:
        "2:"
        "rdpair r8, r9"
        "exit"
        "jmp 2b"
}

fn grant() -> Result<File> {
    File::open(DEVICE).with_context(|| format!("open {DEVICE}"))
}

/// Whether a vCPU without the bit in its CPUID gets a pair; its CPUID must say the same.
fn gets_pair() -> Result<bool> {
    let guest = Guest::new(read_on_each_run())?;
    let mut vcpu = guest.vcpu_with(0, &cpuid::without_pair(guest.kvm())?)?;
    let reads = 2 - vcpu.run()?.r15;
    let cpuid = vcpu.fd().get_cpuid2(KVM_MAX_CPUID_ENTRIES)?;
    let has_bit = cpuid::has_pair(&cpuid);
    note!("the guest's CPUID has the bit: {has_bit}; reads that did not fault: {reads}");
    ensure!(
        reads == if has_bit { 2 } else { 0 },
        "CPUID and MSRs do not agree"
    );
    Ok(has_bit)
}

fn while_open() -> Result<()> {
    let _module = Module::loaded()?;
    ensure!(!gets_pair()?, "a pair without a grant");
    let file = grant()?;
    ensure!(gets_pair()?, "no pair with a grant");
    drop(file);
    ensure!(!gets_pair()?, "a pair after the grant");
    Ok(())
}

/// As a shell does it for QEMU: open, fork, execute.
fn inherited() -> Result<()> {
    let _module = Module::loaded()?;
    let status = Command::new("/bin/sh")
        .args(["-c", "exec \"$0\" child 9<\"$1\""])
        .arg(env::args().next().context("no name")?)
        .arg(DEVICE)
        .status()?;
    ensure!(
        status.success(),
        "a process with an inherited file: {status}"
    );
    Ok(())
}

/// The process that [`inherited`] starts.
fn child() -> ExitCode {
    match gets_pair() {
        Ok(true) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// A VMM that hotplugs vCPUs sets the same CPUID again.
fn set_again() -> Result<()> {
    let _module = Module::loaded()?;
    let _file = grant()?;
    let guest = Guest::new(read_on_each_run())?;
    let cpuid = cpuid::without_pair(guest.kvm())?;
    let mut vcpu = guest.vcpu_with(0, &cpuid)?;
    vcpu.run()?;
    let set = vcpu.fd().set_cpuid2(&cpuid);
    ensure!(set.is_ok(), "KVM_SET_CPUID2 after KVM_RUN: {set:?}");
    ensure!(vcpu.run()?.r15 == 0, "the pair is gone");
    Ok(())
}

/// A VM with raw reads, and with `cpuid`, in a process with a grant.
fn expect_raw(cpuid: fn(&Kvm) -> Result<CpuId>, bit: bool) -> Result<()> {
    let guest = Guest::new(read_on_each_run())?;
    guest.disable_exits_on_pair()?;
    let users = module::users()?;
    let mut vcpu = guest.vcpu_with(0, &cpuid(guest.kvm())?)?;
    ensure!(module::users()? == users, "the vCPU pins the module");
    let has_bit = cpuid::has_pair(&vcpu.fd().get_cpuid2(KVM_MAX_CPUID_ENTRIES)?);
    ensure!(has_bit == bit, "the CPUID bit was {bit}, and is {has_bit}");

    let before = oracle::truth(0).host;
    let regs = vcpu.run()?;
    let after = oracle::truth(0).host;
    ensure!(regs.r15 == 0, "{} raw reads faulted", regs.r15);
    let error = outside(regs.r8, (before.aperf, after.aperf))
        .max(outside(regs.r9, (before.mperf, after.mperf)));
    note!("with the bit {bit}, raw reads are off by {error} ticks");
    ensure!(error <= ONE_SWITCH, "raw reads are not the host's");
    Ok(())
}

fn not_for_raw_readers() -> Result<()> {
    oracle::require()?;
    cpu::pin(0)?;
    msr_device::make_true(0)?;
    let _module = Module::loaded()?;
    let _file = grant()?;
    expect_raw(cpuid::without_pair, false)?;
    expect_raw(cpuid::with_pair, true)
}

fn of_root_only() -> Result<()> {
    let _module = Module::loaded()?;
    let device = fs::metadata(DEVICE)?;
    ensure!(device.file_type().is_char_device(), "no device");
    let mode = device.permissions().mode() & 0o777;
    ensure!(
        mode == 0o600 && device.uid() == 0,
        "mode {mode:o}, user {}",
        device.uid()
    );
    Ok(())
}

fn pins_the_module() -> Result<()> {
    let _module = Module::loaded()?;
    let file = grant()?;
    let error = module::remove().err().map(|error| error.kind());
    ensure!(
        error == Some(io::ErrorKind::WouldBlock),
        "unloading beside an open file: {error:?}"
    );
    drop(file);
    module::remove().context("unload")?;
    ensure!(fs::metadata(DEVICE).is_err(), "the device is still there");
    module::insert().context("load")
}

pub fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some("child") {
        return child();
    }
    ktap::run(&[
        (
            "a VM has a pair while its process has the file open",
            while_open,
        ),
        ("the file is inherited over fork and exec", inherited),
        ("CPUID can be set again", set_again),
        (
            "a VM that reads the host pair goes on to do so",
            not_for_raw_readers,
        ),
        ("only root may open it", of_root_only),
        ("the file pins the module", pins_the_module),
    ])
}

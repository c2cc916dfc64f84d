// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule opt-in: KVM offers CPUID.06H:ECX\[0\] only while the module is loaded,
//! and a guest has a pair only if its CPUID says so.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::guest::{Guest, cpuid};
use harness::ktap;
use harness::module::Module;
use harness::pair::{MSR_IA32_APERF, MSR_IA32_MPERF};
use harness::{guest_code, note};
use kvm_bindings::CpuId;
use kvm_ioctls::Kvm;

guest_code! {
    read_and_write:
        "rdpair r8, r9"
        "mov r14, 1000"
        "wrmsr64 0xe8, r14"
        "wrmsr64 0xe7, r14"
        "exit"
}

fn offered_while_loaded() -> Result<()> {
    let kvm = Kvm::new()?;
    let offered = || anyhow::Ok(cpuid::has_pair(&cpuid::supported(&kvm)?));

    let module = Module::unloaded()?;
    ensure!(!offered()?, "offered without the module");
    {
        let _module = Module::loaded()?;
        ensure!(offered()?, "not offered with the module");
    }
    ensure!(!offered()?, "still offered after unloading");
    drop(module);
    Ok(())
}

/// All four accesses of a guest with `cpuid` must fault, and user space finds
/// no pair either.
fn expect_no_pair(cpuid: fn(&Kvm) -> Result<CpuId>) -> Result<()> {
    let guest = Guest::new(read_and_write())?;
    let mut vcpu = guest.vcpu_with(0, &cpuid(guest.kvm())?)?;

    let faults = vcpu.run()?.r15;
    note!("#GPs of two RDMSRs and two WRMSRs: {faults}");
    ensure!(faults == 4, "{} accesses did not fault", 4 - faults);
    for msr in [MSR_IA32_APERF, MSR_IA32_MPERF] {
        let value = vcpu.msr(msr)?;
        ensure!(
            value.is_none_or(|value| value == 0),
            "KVM_GET_MSRS of {msr:#x} found {value:?}"
        );
    }
    Ok(())
}

fn faults_without_bit() -> Result<()> {
    let _module = Module::loaded()?;
    expect_no_pair(cpuid::without_pair)
}

fn faults_without_module() -> Result<()> {
    let _module = Module::unloaded()?;
    expect_no_pair(cpuid::with_pair)
}

fn works_with_both() -> Result<()> {
    let _module = Module::loaded()?;
    let guest = Guest::new(read_and_write())?;
    let faults = guest.vcpu(0)?.run()?.r15;
    ensure!(faults == 0, "{faults} of four accesses faulted");
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        (
            "CPUID bit offered only while the module is loaded",
            offered_while_loaded,
        ),
        ("#GP without the CPUID bit", faults_without_bit),
        (
            "#GP with the CPUID bit but no module",
            faults_without_module,
        ),
        ("no #GP with the CPUID bit and the module", works_with_both),
    ])
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule opt-in on a CPU without the counters, as far as its kernel is told: the module does
//! not load and says why, and KVM has the MSRs for nobody. All bounds are exact.
//!
//! The kernel is told so when it boots (clearcpuid=aperfmperf), on a machine of its own.

use std::fs;
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use harness::guest::{Guest, cpuid};
use harness::ktap::Skip;
use harness::pair::{MSR_IA32_APERF, MSR_IA32_MPERF};
use harness::{guest_code, ktap, module};
use kvm_ioctls::Kvm;

/// Skips a test where the kernel knows the counters.
fn require_no_counters() -> Result<()> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    if cpus.split_whitespace().any(|flag| flag == "aperfmperf") {
        bail!(Skip("this machine has the counters".into()));
    }
    Ok(())
}

fn module_does_not_load() -> Result<()> {
    require_no_counters()?;
    module::expect_refusal("the host lacks aperfmperf")
}

fn kvm_has_no_msrs() -> Result<()> {
    require_no_counters()?;
    let kvm = Kvm::new()?;
    ensure!(
        !cpuid::has_pair(&cpuid::supported(&kvm)?),
        "KVM offers the feature"
    );
    let list = kvm.get_msr_index_list()?;
    for msr in [MSR_IA32_APERF, MSR_IA32_MPERF] {
        ensure!(!list.as_slice().contains(&msr), "KVM lists MSR {msr:#x}");
    }
    Ok(())
}

guest_code! {
    read_and_write:
        "rdpair r8, r9"
        "wrmsr64 0xe8, r14"
        "wrmsr64 0xe7, r14"
        "exit"
}

fn guest_faults() -> Result<()> {
    require_no_counters()?;
    let guest = Guest::new(read_and_write())?;
    let faults = guest.vcpu(0)?.run()?.r15;
    ensure!(faults == 4, "{} accesses did not fault", 4 - faults);
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("the module does not load", module_does_not_load),
        ("KVM offers and lists nothing", kvm_has_no_msrs),
        ("#GP with the CPUID bit", guest_faults),
    ])
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A vCPU whose pair cannot be made for want of memory: the kernel is made to fail each
//! allocation of KVM_SET_CPUID2 in turn (failslab). Either the call says ENOMEM, and all is
//! as it was before: the vCPU has no pair, nor does it pin the module, nor is there a file
//! of it. Or the allocation was not needed, and the vCPU has its pair. Afterwards the same
//! call on the same vCPU succeeds. All bounds are exact.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use harness::failslab::FailNth;
use harness::guest::{Guest, Vcpu, cpuid};
use harness::module::{self, Module};
use harness::{cpu, debugfs, guest_code, kernel, ktap, note};
use kvm_bindings::CpuId;

guest_code! {
    read:
        "rdpair r8, r9"
        "exit"
}

/// More allocations than KVM_SET_CPUID2 has.
const MOST: u64 = 200;

/// What a pair cannot do without: its state, its statistics, and the name of their file.
const NEEDED: usize = 3;

/// What is there for vCPUs: the pins of the module, and the files.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    users: u64,
    files: BTreeSet<String>,
}

impl Traces {
    fn now() -> Result<Self> {
        Ok(Traces {
            users: module::users()?,
            files: debugfs::names("vcpu")?,
        })
    }
}

/// Sets the CPUID bit without allocation `nth`, and clears it. Returns nothing if there are
/// not so many, or else whether the call failed for want of what a pair needs.
fn set_without(
    fail_nth: &FailNth,
    nth: u64,
    vcpu: &Vcpu,
    cpuids: &[CpuId; 2],
) -> Result<Option<bool>> {
    let [without, with] = cpuids;
    let before = Traces::now()?;
    let (set, log) = fail_nth.during(nth, || vcpu.fd().set_cpuid2(with))?;
    let error = set.err().map(|error| error.errno());
    let after = Traces::now()?;
    match error {
        None => ensure!(after.users == before.users + 1, "it has no pair: {after:?}"),
        Some(libc::ENOMEM) => ensure!(after == before, "{before:?} became {after:?}"),
        Some(_) => bail!("KVM_SET_CPUID2: {error:?}"),
    }
    vcpu.fd().set_cpuid2(without).context("clear the bit")?;
    ensure!(Traces::now()? == before, "the pair has not gone");
    kernel::expect_no_warning()?;
    Ok((!log.is_empty()).then_some(error.is_some() && log.names("[kvm_aperfmperf]")))
}

fn each_step() -> Result<()> {
    cpu::pin(0)?;
    let _module = Module::loaded()?;
    let guest = Guest::new(read())?;
    let cpuids = [
        cpuid::without_pair(guest.kvm())?,
        cpuid::with_pair(guest.kvm())?,
    ];
    let mut vcpu = guest.vcpu_with(0, &cpuids[0])?;
    let fail_nth = FailNth::open()?;
    let (mut tried, mut fatal) = (0, 0);
    for nth in 1..=MOST {
        let Some(failed) = set_without(&fail_nth, nth, &vcpu, &cpuids)? else {
            break;
        };
        tried = nth;
        fatal += usize::from(failed);
    }
    drop(fail_nth);
    note!("{tried} allocations, of which a pair cannot do without {fatal}");
    ensure!(tried < MOST, "there are always more allocations");
    ensure!(fatal >= NEEDED, "only {fatal} steps were seen to fail");

    vcpu.fd().set_cpuid2(&cpuids[1]).context("KVM_SET_CPUID2")?;
    let faults = vcpu.run()?.r15;
    ensure!(faults == 0, "{faults} reads faulted");
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[("each allocation of KVM_SET_CPUID2 fails", each_step)])
}

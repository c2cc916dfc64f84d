// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! vCPUs with some or all of a PMU.

use anyhow::{Context, Result, ensure};
use harness::guest::{Guest, Vcpu, cpuid};
use kvm_bindings::{CpuId, Msrs, kvm_msr_entry};
use kvm_ioctls::Kvm;

use crate::msr;

const LEAF_PMU: u32 = 0xa;

/// What KVM offers in IA32_PERF_CAPABILITIES: KVM_GET_MSRS of the system.
pub fn offered_capabilities(kvm: &Kvm) -> Result<u64> {
    let mut msrs = Msrs::from_entries(&[kvm_msr_entry {
        index: msr::PERF_CAPABILITIES,
        ..Default::default()
    }])?;
    let found = kvm.get_msrs(&mut msrs).context("KVM_GET_MSRS")?;
    ensure!(found == 1, "KVM offers no IA32_PERF_CAPABILITIES");
    Ok(msrs.as_slice()[0].data)
}

/// Number of fixed counters that KVM offers.
pub fn offered_fixed_counters(kvm: &Kvm) -> Result<u32> {
    let cpuid = cpuid::supported(kvm)?;
    let leaf = cpuid
        .as_slice()
        .iter()
        .find(|leaf| leaf.function == LEAF_PMU);
    Ok(leaf.map_or(0, |leaf| leaf.edx & 0x1f))
}

/// A vCPU with all that KVM offers.
pub fn vcpu(guest: &Guest) -> Result<Vcpu> {
    vcpu_number(guest, 0)
}

/// vCPU `id` with all that KVM offers.
pub fn vcpu_number(guest: &Guest, id: u8) -> Result<Vcpu> {
    let vcpu = guest.vcpu(id)?;
    vcpu.set_msr(msr::PERF_CAPABILITIES, offered_capabilities(guest.kvm())?)?;
    Ok(vcpu)
}

/// An OUT is complete, in RIP, only at the next KVM_RUN (KVM's API, "KVM_RUN").
pub fn complete_io(vcpu: &mut Vcpu) -> Result<()> {
    vcpu.fd_mut().set_kvm_immediate_exit(1);
    let error = vcpu.fd_mut().run().err().map(|error| error.errno());
    vcpu.fd_mut().set_kvm_immediate_exit(0);
    ensure!(error == Some(libc::EINTR), "KVM_RUN: {error:?}, not EINTR");
    Ok(())
}

/// A vCPU with all but IA32_PERF_METRICS.
pub fn vcpu_without_metrics(guest: &Guest) -> Result<Vcpu> {
    let vcpu = guest.vcpu(0)?;
    let offered = offered_capabilities(guest.kvm())?;
    vcpu.set_msr(msr::PERF_CAPABILITIES, offered & !msr::CAP_PERF_METRICS)?;
    Ok(vcpu)
}

/// A vCPU with so many general and fixed counters.
pub fn vcpu_with_counters(guest: &Guest, general: u32, fixed: u32) -> Result<Vcpu> {
    guest.vcpu_with(0, &with_counters(guest.kvm(), general, fixed)?)
}

fn with_counters(kvm: &Kvm, general: u32, fixed: u32) -> Result<CpuId> {
    let mut cpuid = cpuid::with_pair(kvm)?;
    let pmu = cpuid.as_mut_slice().iter_mut();
    let pmu = pmu.into_iter().find(|leaf| leaf.function == LEAF_PMU);
    let pmu = pmu.context("KVM offers no PMU")?;
    pmu.eax = pmu.eax & !0xff00 | (general << 8);
    pmu.edx = pmu.edx & !0x1f | fixed;
    Ok(cpuid)
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! CPUID.06H:ECX\[0\], which says that a CPU has APERF and MPERF.

use anyhow::{Context, Result};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;

const LEAF_POWER: u32 = 6;
const ECX_APERFMPERF: u32 = 1 << 0;

/// What KVM offers to guests.
pub fn supported(kvm: &Kvm) -> Result<CpuId> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .context("KVM_GET_SUPPORTED_CPUID")
}

/// What KVM offers, but with the pair in any case.
pub fn with_pair(kvm: &Kvm) -> Result<CpuId> {
    supported_but(kvm, |ecx| ecx | ECX_APERFMPERF)
}

/// What KVM offers, but without the pair in any case.
pub fn without_pair(kvm: &Kvm) -> Result<CpuId> {
    supported_but(kvm, |ecx| ecx & !ECX_APERFMPERF)
}

/// Whether `cpuid` says that there is a pair.
pub fn has_pair(cpuid: &CpuId) -> bool {
    cpuid
        .as_slice()
        .iter()
        .any(|entry| entry.function == LEAF_POWER && entry.ecx & ECX_APERFMPERF != 0)
}

fn supported_but(kvm: &Kvm, change: fn(u32) -> u32) -> Result<CpuId> {
    let mut cpuid = supported(kvm)?;
    let power = cpuid
        .as_mut_slice()
        .iter_mut()
        .find(|entry| entry.function == LEAF_POWER);
    let power = power.context("KVM offers no CPUID leaf 6")?;
    power.ecx = change(power.ecx);
    Ok(cpuid)
}

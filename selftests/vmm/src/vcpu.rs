// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The vCPU: what KVM offers, and the state of the 64-bit boot protocol.

use anyhow::{Context, Result};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_dtable, kvm_regs, kvm_segment};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use crate::boot;

/// A vCPU in the state after power-on.
pub fn create(kvm: &Kvm, vm: &VmFd) -> Result<VcpuFd> {
    let vcpu = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
    vcpu.set_cpuid2(&cpuid(kvm)?).context("KVM_SET_CPUID2")?;
    Ok(vcpu)
}

/// Has it start at `entry`.
pub fn start(vcpu: &VcpuFd, entry: u64) -> Result<()> {
    enter_long_mode(vcpu)?;
    vcpu.set_regs(&kvm_regs {
        rip: entry,
        rsi: boot::ZERO_PAGE,
        rflags: 1 << 1,
        ..Default::default()
    })
    .context("KVM_SET_REGS")
}

/// All that KVM offers, and what depends on the monitor.
fn cpuid(kvm: &Kvm) -> Result<CpuId> {
    const ECX_TSC_DEADLINE: u32 = 1 << 24;
    const ECX_HYPERVISOR: u32 = 1 << 31;
    const EBX_NOT_APIC_ID: u32 = 0x00ff_ffff;

    let mut cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .context("KVM_GET_SUPPORTED_CPUID")?;
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                entry.ecx |= ECX_TSC_DEADLINE | ECX_HYPERVISOR;
                entry.ebx &= EBX_NOT_APIC_ID;
            }
            // The x2APIC ID of the host's CPU becomes that of vCPU 0.
            0xb | 0x1f => entry.edx = 0,
            _ => {}
        }
    }
    Ok(cpuid)
}

fn enter_long_mode(vcpu: &VcpuFd) -> Result<()> {
    const CR0_PE_PG: u64 = (1 << 0) | (1 << 31);
    const CR4_PAE: u64 = 1 << 5;
    const EFER_LME_LMA: u64 = (1 << 8) | (1 << 10);

    let code = kvm_segment {
        selector: boot::CODE_SELECTOR,
        type_: 0xb,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        limit: u32::MAX,
        ..Default::default()
    };
    let data = kvm_segment {
        selector: boot::DATA_SELECTOR,
        type_: 3,
        l: 0,
        db: 1,
        ..code
    };

    let mut sregs = vcpu.get_sregs().context("KVM_GET_SREGS")?;
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.gdt = kvm_dtable {
        base: boot::GDT,
        limit: boot::GDT_LIMIT,
        ..Default::default()
    };
    sregs.cr3 = boot::PML4;
    sregs.cr0 |= CR0_PE_PG;
    sregs.cr4 |= CR4_PAE;
    sregs.efer |= EFER_LME_LMA;
    vcpu.set_sregs(&sregs).context("KVM_SET_SREGS")
}

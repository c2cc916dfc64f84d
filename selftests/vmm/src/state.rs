// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! All state of a VM with one vCPU but its memory, as KVM hands it out.

use anyhow::{Context, Result, ensure};
use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, kvm_clock_data,
    kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

/// What [`State::of`] saved.
pub struct State {
    sregs: kvm_sregs,
    regs: kvm_regs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    debug_regs: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
    mp_state: kvm_mp_state,
    irqchips: Vec<kvm_irqchip>,
    pit: kvm_pit_state2,
    clock: kvm_clock_data,
}

impl State {
    /// Of a vCPU whose last KVM_RUN left nothing to be completed.
    pub fn of(kvm: &Kvm, vm: &VmFd, vcpu: &VcpuFd) -> Result<Self> {
        Ok(State {
            sregs: vcpu.get_sregs().context("KVM_GET_SREGS")?,
            regs: vcpu.get_regs().context("KVM_GET_REGS")?,
            xsave: vcpu.get_xsave().context("KVM_GET_XSAVE")?,
            xcrs: vcpu.get_xcrs().context("KVM_GET_XCRS")?,
            debug_regs: vcpu.get_debug_regs().context("KVM_GET_DEBUGREGS")?,
            lapic: vcpu.get_lapic().context("KVM_GET_LAPIC")?,
            msrs: msrs(kvm, vcpu)?,
            events: vcpu.get_vcpu_events().context("KVM_GET_VCPU_EVENTS")?,
            mp_state: vcpu.get_mp_state().context("KVM_GET_MP_STATE")?,
            irqchips: irqchips(vm)?,
            pit: vm.get_pit2().context("KVM_GET_PIT2")?,
            clock: vm.get_clock().context("KVM_GET_CLOCK")?,
        })
    }

    /// Into a new vCPU that has the same CPUID. The timer's MSR wants its mode, which the
    /// local APIC has, and MP_STATE comes last (Documentation/why.rst, "Migration").
    pub fn restore(&self, vm: &VmFd, vcpu: &VcpuFd) -> Result<()> {
        vcpu.set_sregs(&self.sregs).context("KVM_SET_SREGS")?;
        vcpu.set_regs(&self.regs).context("KVM_SET_REGS")?;
        // SAFETY: Nobody has asked for features of XSAVE that take more than this.
        unsafe { vcpu.set_xsave(&self.xsave) }.context("KVM_SET_XSAVE")?;
        vcpu.set_xcrs(&self.xcrs).context("KVM_SET_XCRS")?;
        vcpu.set_debug_regs(&self.debug_regs)
            .context("KVM_SET_DEBUGREGS")?;
        vcpu.set_lapic(&self.lapic).context("KVM_SET_LAPIC")?;
        set_msrs(vcpu, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events)
            .context("KVM_SET_VCPU_EVENTS")?;
        for irqchip in &self.irqchips {
            vm.set_irqchip(irqchip).context("KVM_SET_IRQCHIP")?;
        }
        vm.set_pit2(&self.pit).context("KVM_SET_PIT2")?;
        let clock = kvm_clock_data {
            clock: self.clock.clock,
            ..Default::default()
        };
        vm.set_clock(&clock).context("KVM_SET_CLOCK")?;
        vcpu.set_mp_state(self.mp_state).context("KVM_SET_MP_STATE")
    }
}

fn irqchips(vm: &VmFd) -> Result<Vec<kvm_irqchip>> {
    let get = |chip_id| {
        let mut irqchip = kvm_irqchip {
            chip_id,
            ..Default::default()
        };
        vm.get_irqchip(&mut irqchip).context("KVM_GET_IRQCHIP")?;
        Ok(irqchip)
    };
    [
        KVM_IRQCHIP_PIC_MASTER,
        KVM_IRQCHIP_PIC_SLAVE,
        KVM_IRQCHIP_IOAPIC,
    ]
    .map(get)
    .into_iter()
    .collect()
}

/// All MSRs that KVM names and this vCPU has.
fn msrs(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Vec<kvm_msr_entry>> {
    let list = kvm.get_msr_index_list().context("KVM_GET_MSR_INDEX_LIST")?;
    let mut found = Vec::new();
    for &index in list.as_slice() {
        let mut msr = Msrs::from_entries(&[kvm_msr_entry {
            index,
            ..Default::default()
        }])?;
        if vcpu.get_msrs(&mut msr).context("KVM_GET_MSRS")? == 1 {
            found.extend_from_slice(msr.as_slice());
        }
    }
    Ok(found)
}

fn set_msrs(vcpu: &VcpuFd, msrs: &[kvm_msr_entry]) -> Result<()> {
    for msr in msrs {
        let set = vcpu
            .set_msrs(&Msrs::from_entries(&[*msr])?)
            .context("KVM_SET_MSRS")?;
        ensure!(set == 1, "KVM_SET_MSRS: {:#x}", msr.index);
    }
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! One vCPU of a tiny guest.

use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail, ensure};
use kvm_bindings::{
    CpuId, KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET,
    Msrs, kvm_device_attr, kvm_dtable, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment,
};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use super::memory;
use crate::Pair;
use crate::pair::{MSR_IA32_APERF, MSR_IA32_MPERF};
use crate::rules;

/// Where the guest's word `exit` writes.
const EXIT_PORT: u16 = 0xf0;

/// A vCPU that stops at each `exit` of its code.
pub struct Vcpu(VcpuFd);

const RFLAGS_FIXED: u64 = 1 << 1;
const RFLAGS_IF: u64 = 1 << 9;

impl Vcpu {
    pub(super) fn create(vm: &VmFd, id: u8, cpuid: &CpuId, irqchip: bool) -> Result<Self> {
        let vcpu = Vcpu(vm.create_vcpu(id.into()).context("KVM_CREATE_VCPU")?);
        vcpu.0.set_cpuid2(cpuid).context("KVM_SET_CPUID2")?;
        vcpu.enter_long_mode(irqchip)?;
        vcpu.0
            .set_regs(&kvm_regs {
                rip: memory::CODE,
                rsp: memory::stack_top(id),
                rflags: RFLAGS_IF | RFLAGS_FIXED,
                ..Default::default()
            })
            .context("KVM_SET_REGS")?;
        if irqchip && id != 0 {
            // Application processors of a real machine wait for SIPI.
            vcpu.set_halted(false)?;
        }
        Ok(vcpu)
    }

    fn enter_long_mode(&self, irqchip: bool) -> Result<()> {
        const CR0_PE_NE_PG: u64 = (1 << 0) | (1 << 5) | (1 << 31);
        const CR4_PAE: u64 = 1 << 5;
        const EFER_LME_LMA: u64 = (1 << 8) | (1 << 10);
        const APIC_X2APIC: u64 = (1 << 10) | (1 << 11);

        let code = kvm_segment {
            selector: memory::CODE_SELECTOR,
            type_: 0xb,
            present: 1,
            s: 1,
            l: 1,
            g: 1,
            limit: u32::MAX,
            ..Default::default()
        };
        let data = kvm_segment {
            selector: memory::DATA_SELECTOR,
            type_: 3,
            l: 0,
            db: 1,
            ..code
        };

        let mut sregs = self.0.get_sregs().context("KVM_GET_SREGS")?;
        sregs.cs = code;
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        sregs.gdt = kvm_dtable {
            base: memory::GDT,
            limit: memory::GDT_LIMIT,
            ..Default::default()
        };
        sregs.idt = kvm_dtable {
            base: memory::IDT,
            limit: memory::IDT_LIMIT,
            ..Default::default()
        };
        sregs.cr3 = memory::PML4;
        sregs.cr0 = CR0_PE_NE_PG;
        sregs.cr4 = CR4_PAE;
        sregs.efer = EFER_LME_LMA;
        if irqchip {
            sregs.apic_base |= APIC_X2APIC;
        }
        self.0.set_sregs(&sregs).context("KVM_SET_SREGS")
    }

    /// The vCPU's descriptor, for what only some tests ask of KVM.
    pub fn fd(&self) -> &VcpuFd {
        &self.0
    }

    /// The same, for KVM_RUN.
    pub fn fd_mut(&mut self) -> &mut VcpuFd {
        &mut self.0
    }

    /// Sets what the guest finds in RDI.
    pub fn set_argument(&self, argument: u64) -> Result<()> {
        let mut regs = self.regs()?;
        regs.rdi = argument;
        self.0.set_regs(&regs).context("KVM_SET_REGS")
    }

    /// Runs the guest to its next `exit`, and nothing else: the CPU does not
    /// enter the kernel again before this returns.
    pub fn resume(&mut self) -> Result<()> {
        loop {
            match self.0.run() {
                Ok(VcpuExit::IoOut(EXIT_PORT, _)) => return Ok(()),
                Ok(exit) => bail!("guest stopped with {exit:?}"),
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) => return Err(error).context("KVM_RUN"),
            }
        }
    }

    /// General-purpose registers.
    pub fn regs(&self) -> Result<kvm_regs> {
        self.0.get_regs().context("KVM_GET_REGS")
    }

    /// Runs the guest to its next `exit` and returns its registers.
    pub fn run(&mut self) -> Result<kvm_regs> {
        self.resume()?;
        self.regs()
    }

    /// Value of `msr`, if KVM has it: KVM_GET_MSRS.
    pub fn msr(&self, msr: u32) -> Result<Option<u64>> {
        let mut msrs = Msrs::from_entries(&[kvm_msr_entry {
            index: msr,
            ..Default::default()
        }])?;
        let found = self.0.get_msrs(&mut msrs).context("KVM_GET_MSRS")?;
        Ok((found == 1).then(|| msrs.as_slice()[0].data))
    }

    /// Sets `msr`: KVM_SET_MSRS.
    ///
    /// # Errors
    ///
    /// If KVM does not have the MSR.
    pub fn set_msr(&self, msr: u32, data: u64) -> Result<()> {
        let msrs = Msrs::from_entries(&[kvm_msr_entry {
            index: msr,
            data,
            ..Default::default()
        }])?;
        let set = self.0.set_msrs(&msrs).context("KVM_SET_MSRS")?;
        ensure!(set == 1, "KVM_SET_MSRS does not know MSR {msr:#x}");
        rules::forget_guests();
        Ok(())
    }

    /// The guest pair, read in one system call: KVM_GET_MSRS.
    pub fn pair(&self) -> Result<Pair> {
        let entry = |index| kvm_msr_entry {
            index,
            ..Default::default()
        };
        let mut msrs = Msrs::from_entries(&[entry(MSR_IA32_APERF), entry(MSR_IA32_MPERF)])?;
        let found = self.0.get_msrs(&mut msrs).context("KVM_GET_MSRS")?;
        ensure!(found == 2, "KVM_GET_MSRS found {found} of both counters");
        let [aperf, mperf] = msrs.as_slice() else {
            unreachable!()
        };
        Ok(Pair {
            aperf: aperf.data,
            mperf: mperf.data,
        })
    }

    /// Sets the guest pair: KVM_SET_MSRS.
    pub fn set_pair(&self, pair: Pair) -> Result<()> {
        self.set_msr(MSR_IA32_APERF, pair.aperf)?;
        self.set_msr(MSR_IA32_MPERF, pair.mperf)
    }

    /// Guest TSC minus host TSC, if they tick alike: KVM_GET_DEVICE_ATTR.
    pub fn tsc_offset(&self) -> Result<u64> {
        /// `_IOW(KVMIO, 0xe2, struct kvm_device_attr)`
        const KVM_GET_DEVICE_ATTR: u64 = 0x4018_aee2;

        let mut offset = 0u64;
        let attr = kvm_device_attr {
            group: KVM_VCPU_TSC_CTRL,
            attr: KVM_VCPU_TSC_OFFSET.into(),
            addr: &raw mut offset as u64,
            ..Default::default()
        };
        // SAFETY: The kernel reads `attr`, and writes 8 bytes to where `addr` points.
        let ret = unsafe { libc::ioctl(self.0.as_raw_fd(), KVM_GET_DEVICE_ATTR, &attr) };
        ensure!(
            ret == 0,
            "KVM_GET_DEVICE_ATTR: {}",
            io::Error::last_os_error()
        );
        Ok(offset)
    }

    /// KVM_GET_MP_STATE.
    pub fn mp_state(&self) -> Result<u32> {
        let state = self.0.get_mp_state().context("KVM_GET_MP_STATE")?;
        Ok(state.mp_state)
    }

    /// KVM_SET_MP_STATE.
    pub fn set_mp_state(&self, mp_state: u32) -> Result<()> {
        self.0
            .set_mp_state(kvm_mp_state { mp_state })
            .with_context(|| format!("KVM_SET_MP_STATE to {mp_state}"))
    }

    /// Puts the vCPU into or out of the halted state: KVM_SET_MP_STATE.
    pub fn set_halted(&self, halted: bool) -> Result<()> {
        self.set_mp_state(if halted {
            KVM_MP_STATE_HALTED
        } else {
            KVM_MP_STATE_RUNNABLE
        })
    }
}

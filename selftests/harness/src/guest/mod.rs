// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Guests of a few instructions: a VM whose vCPUs start in 64-bit mode at the
//! first instruction of a test's own code, and exit with results in registers.

mod code;
pub mod cpuid;
mod memory;
mod msi;
mod raw;
mod vcpu;

use anyhow::{Context, Result};
use kvm_bindings::{CpuId, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};

use memory::Memory;
pub use memory::TIMER_VECTOR;
pub use msi::{MSI_ADDRESS, MSI_NMI};
pub use raw::KVM_X86_DISABLE_EXITS_APERFMPERF;
pub use vcpu::Vcpu;

/// A VM that runs the same code on all of its vCPUs.
pub struct Guest {
    // Declared before `memory`, so that the VM goes first.
    vm: VmFd,
    irqchip: bool,
    kvm: Kvm,
    _memory: Memory,
}

impl Guest {
    /// A VM without interrupt controllers: HLT exits to user space.
    pub fn new(code: &[u8]) -> Result<Self> {
        Self::create(code, false)
    }

    /// A VM with KVM's own interrupt controllers: HLT halts in the kernel, and
    /// the guest's local APIC, in x2APIC mode, can wake it.
    pub fn with_irqchip(code: &[u8]) -> Result<Self> {
        Self::create(code, true)
    }

    fn create(code: &[u8], irqchip: bool) -> Result<Self> {
        let kvm = Kvm::new().context("open /dev/kvm")?;
        let vm = kvm.create_vm().context("KVM_CREATE_VM")?;
        if irqchip {
            vm.create_irq_chip().context("KVM_CREATE_IRQCHIP")?;
        }

        let memory = Memory::new(code)?;
        let region = kvm_userspace_memory_region {
            memory_size: memory::SIZE as u64,
            userspace_addr: memory.address(),
            ..Default::default()
        };
        // SAFETY: The region is mapped for as long as the VM exists, and this
        // process does not touch it after the VM's first instruction.
        unsafe { vm.set_user_memory_region(region) }.context("KVM_SET_USER_MEMORY_REGION")?;

        Ok(Guest {
            vm,
            irqchip,
            kvm,
            _memory: memory,
        })
    }

    /// A vCPU with a pair of its own.
    pub fn vcpu(&self, id: u8) -> Result<Vcpu> {
        self.vcpu_with(id, &cpuid::with_pair(&self.kvm)?)
    }

    /// A vCPU with the features that `cpuid` says.
    pub fn vcpu_with(&self, id: u8, cpuid: &CpuId) -> Result<Vcpu> {
        Vcpu::create(&self.vm, id, cpuid, self.irqchip)
    }

    /// The VM's descriptor, for what only some tests ask of KVM.
    pub fn vm(&self) -> &VmFd {
        &self.vm
    }

    /// The system descriptor, to ask what KVM supports.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }
}

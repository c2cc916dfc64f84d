// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A VM with its memory, its vCPU and its devices.

use std::ops::ControlFlow;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use kvm_bindings::{kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap};

use crate::console::Ports;
use crate::state::State;
use crate::turbo::Turbo;
use crate::vcpu;

/// Where Intel's virtualization may keep 4 pages of its own.
const TSS_ADDRESS: usize = 0xfffb_d000;

pub struct Machine<'a> {
    kvm: &'a Kvm,
    memory: &'a GuestMemoryMmap,
    vcpu: VcpuFd,
    turbo: Turbo,
    ports: Ports,
    vm: Rc<VmFd>,
}

impl<'a> Machine<'a> {
    pub fn new(kvm: &'a Kvm, memory: &'a GuestMemoryMmap) -> Result<Self> {
        let vm = Rc::new(create_vm(kvm, memory)?);
        let vcpu = vcpu::create(kvm, &vm)?;
        Ok(Machine {
            kvm,
            memory,
            turbo: Turbo::offer(&vm, &vcpu)?,
            vcpu,
            ports: Ports::new(vm.clone()),
            vm,
        })
    }

    pub fn vcpu(&self) -> &VcpuFd {
        &self.vcpu
    }

    /// Executes the guest up to its next exit; breaks if it asks for a reset.
    pub fn run(&mut self) -> Result<ControlFlow<()>> {
        match self.vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => return self.ports.write(port, data),
            Ok(VcpuExit::IoIn(port, data)) => self.ports.read(port, data),
            Ok(VcpuExit::MmioRead(_, data)) => data.fill(0xff),
            Ok(VcpuExit::MmioWrite(..)) => {}
            Ok(VcpuExit::X86Rdmsr(access)) => self.turbo.read(access),
            Ok(VcpuExit::X86Wrmsr(access)) => *access.error = 1,
            Ok(exit) => bail!("guest stopped with {exit:?}"),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(error).context("KVM_RUN"),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The same guest in another VM, on the same memory.
    pub fn migrate(mut self) -> Result<Self> {
        self.complete_io()?;
        let state = State::of(self.kvm, &self.vm, &self.vcpu)?;
        let serial = self.ports.state();
        let (kvm, memory) = (self.kvm, self.memory);
        drop(self);

        let mut machine = Machine::new(kvm, memory)?;
        state.restore(&machine.vm, &machine.vcpu)?;
        machine.ports = Ports::restore(machine.vm.clone(), &serial)?;
        Ok(machine)
    }

    /// An access to a port is complete only at the next KVM_RUN (KVM's API, "KVM_RUN").
    fn complete_io(&mut self) -> Result<()> {
        self.vcpu.set_kvm_immediate_exit(1);
        let error = self.vcpu.run().err().map(|error| error.errno());
        self.vcpu.set_kvm_immediate_exit(0);
        ensure!(error == Some(libc::EINTR), "KVM_RUN: {error:?}, not EINTR");
        Ok(())
    }
}

fn create_vm(kvm: &Kvm, memory: &GuestMemoryMmap) -> Result<VmFd> {
    let vm = kvm.create_vm().context("KVM_CREATE_VM")?;
    vm.set_tss_address(TSS_ADDRESS)
        .context("KVM_SET_TSS_ADDR")?;
    vm.create_irq_chip().context("KVM_CREATE_IRQCHIP")?;
    vm.create_pit2(kvm_pit_config::default())
        .context("KVM_CREATE_PIT2")?;

    let region = kvm_userspace_memory_region {
        memory_size: memory.last_addr().0 + 1,
        userspace_addr: memory.get_host_address(GuestAddress(0))? as u64,
        ..Default::default()
    };
    // SAFETY: `memory` outlives the VM, and is accessed as guest memory only.
    unsafe { vm.set_user_memory_region(region) }.context("KVM_SET_USER_MEMORY_REGION")?;
    Ok(vm)
}

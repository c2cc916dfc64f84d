// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The smallest monitor that boots a stock Linux: one vCPU with all that KVM
//! offers, KVM's interrupt controllers and timer, a serial console on standard
//! output. It ends when the guest resets. If it is stopped and continued, it says so
//! to the guest.

mod boot;
mod console;
mod pause;
mod turbo;
mod vcpu;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;
use kvm_bindings::{kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VmFd};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap};

use console::Ports;
use turbo::Turbo;

/// Boot a Linux kernel in a VM with a serial console on standard output
#[derive(Parser)]
struct Arguments {
    /// Kernel: a bzImage
    #[arg(long)]
    kernel: PathBuf,
    /// Initial RAM file system
    #[arg(long)]
    initrd: PathBuf,
    /// Memory in MiB
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(32..=3072))]
    memory: u64,
    /// What to append to the kernel's command line
    #[arg(long, default_value = "")]
    cmdline: String,
}

/// A console, and a reset by the keyboard controller instead of by ACPI.
const CMDLINE: &str = "console=ttyS0 reboot=k panic=-1";

/// Where Intel's virtualization may keep 4 pages of its own.
const TSS_ADDRESS: usize = 0xfffb_d000;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let memory_size = arguments.memory << 20;
    let memory: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), memory_size as usize)])?;
    let cmdline = format!("{CMDLINE} {}", arguments.cmdline);
    let entry = boot::load(&memory, &arguments.kernel, &arguments.initrd, &cmdline)?;

    let kvm = Kvm::new().context("open /dev/kvm")?;
    let vm = create_vm(&kvm, &memory)?;
    let mut vcpu = vcpu::create(&kvm, &vm, entry)?;
    let turbo = Turbo::offer(&vm, &vcpu)?;
    let mut ports = Ports::new(&vm);

    pause::watch()?;
    loop {
        pause::tell(&vcpu);
        match vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                if ports.write(port, data)?.is_break() {
                    return Ok(());
                }
            }
            Ok(VcpuExit::IoIn(port, data)) => ports.read(port, data),
            Ok(VcpuExit::MmioRead(_, data)) => data.fill(0xff),
            Ok(VcpuExit::MmioWrite(..)) => {}
            Ok(VcpuExit::X86Rdmsr(access)) => turbo.read(access),
            Ok(VcpuExit::X86Wrmsr(access)) => *access.error = 1,
            Ok(exit) => bail!("guest stopped with {exit:?}"),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(error).context("KVM_RUN"),
        }
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

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The smallest monitor that boots a stock Linux: one vCPU with all that KVM
//! offers, KVM's interrupt controllers and timer, a serial console on standard
//! output. It ends when the guest resets. If it is stopped and continued, it says so
//! to the guest. At SIGUSR1 the guest moves to another VM.

mod boot;
mod console;
mod machine;
mod signals;
mod state;
mod turbo;
mod vcpu;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use kvm_ioctls::Kvm;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use machine::Machine;

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

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let memory_size = arguments.memory << 20;
    let memory: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), memory_size as usize)])?;
    let cmdline = format!("{CMDLINE} {}", arguments.cmdline);
    let entry = boot::load(&memory, &arguments.kernel, &arguments.initrd, &cmdline)?;

    let kvm = Kvm::new().context("open /dev/kvm")?;
    let mut machine = Machine::new(&kvm, &memory)?;
    vcpu::start(machine.vcpu(), entry)?;

    signals::watch()?;
    loop {
        if signals::was_continued() {
            // A guest that has not come to its kvmclock yet need not know.
            let _ = machine.vcpu().kvmclock_ctrl();
        }
        if signals::is_to_migrate() {
            machine = machine.migrate()?;
        }
        if machine.run()?.is_break() {
            return Ok(());
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The stock Linux guest and the monitor that boots it.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::oracle;

pub(crate) const KERNEL: &str = "/guest/bzImage";
pub(crate) const INITRD: &str = "/guest/initramfs";

/// Present if the build was given `KVMTOOL=`.
const KVMTOOL: &str = "/guest/lkvm";

/// Memory in MiB that the guest takes.
const MEMORY: u32 = 128;

/// Whether [`monitor`] is this project's, which gives its guest what it wants before
/// its scheduler trusts the counters.
pub fn monitor_is_own() -> bool {
    !Path::new(KVMTOOL).exists()
}

/// A command that boots the guest with its console on standard output. The guest
/// shows its frequency `samples` times and resets, which ends the command.
pub fn monitor(samples: usize) -> Result<Command> {
    monitor_of(INITRD, MEMORY, &format!("quiet samples={samples}"))
}

/// The same for a guest with another initramfs and so many MiB of memory.
pub fn monitor_of(initrd: &str, memory: u32, cmdline: &str) -> Result<Command> {
    // The kernel's own KUnit tests are no part of a guest's boot.
    let cmdline = format!("kunit.enable=0 {cmdline}");
    let mut command;
    if !monitor_is_own() {
        let memory = (memory + 64).to_string();
        command = Command::new(KVMTOOL);
        command
            .args(["run", "-k", KERNEL, "-i", initrd, "-m", &memory, "-c", "1"])
            .args(["--console", "serial", "--network", "mode=none"])
            .args(["-p", &format!("{} {cmdline}", kvmtool_cmdline()?)]);
    } else {
        command = Command::new(env::current_exe()?.with_file_name("vmm"));
        command
            .args(["--kernel", KERNEL, "--initrd", initrd])
            .args(["--memory", &memory.to_string(), "--cmdline", &cmdline]);
    }
    Ok(command)
}

/// The TSC's frequency and the delay loop are given, as to find them out takes
/// the guest longer than all the rest.
fn kvmtool_cmdline() -> Result<String> {
    let tsc_khz = oracle::machine().context("no oracle")?.tsc_hz / 1000;
    Ok(format!(
        "console=ttyS0,115200 panic=-1 lpj=2000000 tsc_early_khz={tsc_khz}"
    ))
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Guest memory as the 64-bit boot protocol wants it
//! (Documentation/arch/x86/boot.rst).

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::bzimage::BzImage;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

pub const GDT: u64 = 0x1000;
pub const PML4: u64 = 0x2000;
const PDPT: u64 = 0x3000;
const PD: u64 = 0x4000;
pub const ZERO_PAGE: u64 = 0x7000;
const CMDLINE: u64 = 0x2_0000;

const LOW_RAM_END: u64 = 0x9_fc00;
const HIGH_RAM: u64 = 0x10_0000;

/// The protocol's __BOOT_CS and __BOOT_DS.
pub const CODE_SELECTOR: u16 = 2 << 3;
pub const DATA_SELECTOR: u16 = 3 << 3;
pub const GDT_LIMIT: u16 = 4 * 8 - 1;

/// Puts everything in `memory` and returns the address of the first instruction.
pub fn load(memory: &GuestMemoryMmap, kernel: &Path, initrd: &Path, cmdline: &str) -> Result<u64> {
    /// Distance of the 64-bit entry point from the protected-mode kernel.
    const STARTUP_64: u64 = 0x200;
    const E820_RAM: u32 = 1;
    const LOADER_OTHER: u8 = 0xff;

    let mut image = File::open(kernel).with_context(|| format!("open {}", kernel.display()))?;
    let loaded = BzImage::load(memory, None, &mut image, Some(GuestAddress(HIGH_RAM)))
        .with_context(|| format!("load {}", kernel.display()))?;
    let initrd = fs::read(initrd).with_context(|| format!("read {}", initrd.display()))?;

    let end = memory.last_addr().0 + 1;
    let initrd_address = end.saturating_sub(initrd.len() as u64) & !0xfff;
    ensure!(
        initrd_address > loaded.kernel_end,
        "not enough memory for the initrd"
    );
    memory.write_slice(&initrd, GuestAddress(initrd_address))?;

    let cmdline = [cmdline.as_bytes(), b"\0"].concat();
    memory.write_slice(&cmdline, GuestAddress(CMDLINE))?;

    let mut params = boot_params {
        hdr: loaded.setup_header.context("no setup header")?,
        ..Default::default()
    };
    params.hdr.type_of_loader = LOADER_OTHER;
    params.hdr.cmd_line_ptr = CMDLINE as u32;
    params.hdr.cmdline_size = cmdline.len() as u32;
    params.hdr.ramdisk_image = initrd_address as u32;
    params.hdr.ramdisk_size = initrd.len() as u32;
    let ram = |addr, end| boot_e820_entry {
        addr,
        size: end - addr,
        type_: E820_RAM,
    };
    params.e820_table[0] = ram(0, LOW_RAM_END);
    params.e820_table[1] = ram(HIGH_RAM, end);
    params.e820_entries = 2;
    LinuxBootConfigurator::write_bootparams(
        &BootParams::new(&params, GuestAddress(ZERO_PAGE)),
        memory,
    )?;

    write_tables(memory)?;
    Ok(loaded.kernel_load.0 + STARTUP_64)
}

/// Flat segments, and the first GiB mapped to itself.
fn write_tables(memory: &GuestMemoryMmap) -> Result<()> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;

    let write = |address, entry: u64| memory.write_obj(entry, GuestAddress(address));
    write(GDT + u64::from(CODE_SELECTOR), 0x00af_9b00_0000_ffff)?;
    write(GDT + u64::from(DATA_SELECTOR), 0x00cf_9300_0000_ffff)?;
    write(PML4, PDPT | PRESENT_WRITABLE)?;
    write(PDPT, PD | PRESENT_WRITABLE)?;
    for page in 0..512 {
        write(PD + page * 8, (page << 21) | LARGE | PRESENT_WRITABLE)?;
    }
    Ok(())
}

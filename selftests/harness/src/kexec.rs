// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Another kernel instead of the one that runs: kexec_load(2), by the 64-bit boot
//! protocol (Documentation/arch/x86/boot.rst).

use std::fs;
use std::io;

use anyhow::{Context, Result};

/// The kernel that guests boot, which is the host's.
const KERNEL: &str = "/guest/bzImage";

const PAGE: usize = 0x1000;
const BOOT_PARAMS: u64 = 0x1_0000;
const START: u64 = 0x1_1000;
const CMDLINE: u64 = 0x1_2000;
const INITRD: u64 = 0x800_0000;

const KEXEC_ARCH_X86_64: u64 = 62 << 16;

/// A segment of the image: `struct kexec_segment` when it is passed to the kernel.
struct Segment {
    address: u64,
    bytes: Vec<u8>,
    /// The size in memory, if larger.
    size: usize,
}

impl Segment {
    fn new(address: u64, bytes: Vec<u8>) -> Self {
        Segment {
            address,
            bytes,
            size: 0,
        }
    }

    fn raw(&self) -> [u64; 4] {
        let size = self.size.max(self.bytes.len()).next_multiple_of(PAGE);
        let Segment { address, bytes, .. } = self;
        [
            bytes.as_ptr() as u64,
            bytes.len() as u64,
            *address,
            size as u64,
        ]
    }
}

fn put(page: &mut [u8], offset: usize, bytes: &[u8]) {
    page[offset..][..bytes.len()].copy_from_slice(bytes);
}

fn number(image: &[u8], offset: usize, size: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(&image[offset..][..size]);
    u64::from_le_bytes(bytes)
}

/// The firmware's map of the memory, as far as the kernel shows it.
fn memory_map() -> Result<Vec<u8>> {
    let mut map = Vec::new();
    for line in fs::read_to_string("/proc/iomem")?.lines() {
        let Some((range, what)) = line.split_once(" : ") else {
            continue;
        };
        let kind: u32 = match what {
            "System RAM" => 1,
            "Reserved" => 2,
            "ACPI Tables" => 3,
            _ => continue,
        };
        let (first, last) = range.trim().split_once('-').context("/proc/iomem")?;
        let first = u64::from_str_radix(first, 16)?;
        let last = u64::from_str_radix(last, 16)?;
        map.extend(first.to_le_bytes());
        map.extend((last + 1 - first).to_le_bytes());
        map.extend(kind.to_le_bytes());
    }
    Ok(map)
}

/// An initramfs with a single file.
fn initramfs(name: &str, program: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, contents) in [(name, 0o100_755, program), ("TRAILER!!!", 0, &[][..])] {
        let (size, name_size) = (contents.len(), name.len() + 1);
        let fields = [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        archive.extend(b"070701");
        for field in fields {
            archive.extend(format!("{field:08x}").bytes());
        }
        archive.extend(name.bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(contents);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

/// Loads the host's kernel once more, to run this program as its first process, which is
/// called `name`.
pub fn load(name: &str) -> Result<()> {
    let image = fs::read(KERNEL).context(KERNEL)?;
    let init = format!(" rdinit=/{name}\0");
    let cmdline = [fs::read("/proc/cmdline")?.trim_ascii(), init.as_bytes()].concat();
    let initrd = initramfs(name, &fs::read("/proc/self/exe")?);

    let setup_size = (number(&image, 0x1f1, 1) as usize + 1) * 512;
    let header_end = 0x202 + number(&image, 0x201, 1) as usize;
    let kernel = number(&image, 0x258, 8);
    let init_size = number(&image, 0x260, 4) as usize;

    let map = memory_map()?;
    let mut params = vec![0; PAGE];
    put(&mut params, 0x1f1, &image[0x1f1..header_end]);
    params[0x210] = 0xff; // type_of_loader
    put(&mut params, 0x218, &(INITRD as u32).to_le_bytes());
    put(&mut params, 0x21c, &(initrd.len() as u32).to_le_bytes());
    put(&mut params, 0x228, &(CMDLINE as u32).to_le_bytes());
    params[0x1e8] = (map.len() / 20) as u8; // e820_entries
    put(&mut params, 0x2d0, &map);

    // mov rsi, BOOT_PARAMS; mov rax, the 64-bit entry point; jmp rax
    let start = [
        &[0x48, 0xbe][..],
        &BOOT_PARAMS.to_le_bytes(),
        &[0x48, 0xb8],
        &(kernel + 0x200).to_le_bytes(),
        &[0xff, 0xe0],
    ]
    .concat();

    let segments = [
        Segment::new(BOOT_PARAMS, params),
        Segment::new(START, start),
        Segment::new(CMDLINE, cmdline),
        Segment {
            size: init_size,
            ..Segment::new(kernel, image[setup_size..].to_vec())
        },
        Segment::new(INITRD, initrd),
    ];
    let raw: Vec<_> = segments.iter().map(Segment::raw).collect();
    // SAFETY: The kernel copies the segments, which are as long as they say.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_kexec_load,
            START,
            raw.len(),
            raw.as_ptr(),
            KEXEC_ARCH_X86_64,
        )
    };
    if ret != 0 {
        return Err(io::Error::last_os_error()).context("kexec_load");
    }
    Ok(())
}

/// Starts what was loaded. Returns only if that fails.
pub fn start() -> io::Error {
    // SAFETY: reboot() has no memory effects that anybody could see.
    unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_KEXEC) };
    io::Error::last_os_error()
}

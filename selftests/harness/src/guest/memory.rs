// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Memory of a guest: its tables, its handlers, the test's code, and stacks.

use std::io;
use std::ptr;
use std::slice;

use anyhow::{Context, Result, ensure};

use crate::guest_code;

/// Size of the memory, which starts at guest physical and virtual address 0.
pub const SIZE: usize = 2 << 20;

pub const GDT: u64 = 0x1000;
pub const IDT: u64 = 0x2000;
pub const PML4: u64 = 0x3000;
const PDPT: u64 = 0x4000;
const PD: u64 = 0x5000;
const GP_HANDLER: u64 = 0x6000;
const TIMER_HANDLER: u64 = 0x7000;
const NMI_HANDLER: u64 = 0x7800;
pub const CODE: u64 = 0x8000;
const STACKS: u64 = 0x10000;
const STACK_SIZE: u64 = 0x1000;

pub const GDT_LIMIT: u16 = 3 * 8 - 1;
pub const IDT_LIMIT: u16 = 256 * 16 - 1;
pub const CODE_SELECTOR: u16 = 1 << 3;
pub const DATA_SELECTOR: u16 = 2 << 3;

const NMI_VECTOR: u64 = 2;
const GP_VECTOR: u64 = 13;
/// The interrupt that a guest may get from its local APIC; it only ends HLT.
pub const TIMER_VECTOR: u64 = 0x20;

guest_code! {
    /// Drops the error code and skips the instruction.
    gp_handler:
        "inc r15"
        "add rsp, 8"
        "add qword ptr [rsp], 2"
        "iretq"
}

guest_code! {
    /// An NMI only ends HLT.
    nmi_handler:
        "iretq"
}

guest_code! {
    /// Writes x2APIC EOI.
    timer_handler:
        "push rax"
        "push rcx"
        "push rdx"
        "mov ecx, 0x80b"
        "xor eax, eax"
        "xor edx, edx"
        "wrmsr"
        "pop rdx"
        "pop rcx"
        "pop rax"
        "iretq"
}

/// First stack pointer of vCPU `id`.
pub fn stack_top(id: u8) -> u64 {
    STACKS + (u64::from(id) + 1) * STACK_SIZE
}

/// The mapping in this process.
pub struct Memory(*mut u8);

// SAFETY: The mapping belongs to the process, and to this object alone in it.
unsafe impl Send for Memory {}

impl Memory {
    /// Maps the memory and puts everything in it.
    pub fn new(code: &[u8]) -> Result<Self> {
        ensure!(
            code.len() <= (STACKS - CODE) as usize,
            "guest code too long"
        );

        // SAFETY: A new anonymous mapping takes nothing from anybody.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("mmap of guest memory");
        }

        let mut memory = Memory(address.cast());
        memory.fill(code);
        Ok(memory)
    }

    pub fn address(&self) -> u64 {
        self.0 as u64
    }

    fn fill(&mut self, code: &[u8]) {
        const PRESENT_WRITABLE: u64 = 0b11;
        const LARGE: u64 = 1 << 7;

        // One 2 MiB page, mapped to itself.
        self.write(PML4, &(PDPT | PRESENT_WRITABLE).to_le_bytes());
        self.write(PDPT, &(PD | PRESENT_WRITABLE).to_le_bytes());
        self.write(PD, &(LARGE | PRESENT_WRITABLE).to_le_bytes());

        // Flat 64-bit code and data segments, already accessed.
        self.write(
            GDT + u64::from(CODE_SELECTOR),
            &0x00af_9b00_0000_ffffu64.to_le_bytes(),
        );
        self.write(
            GDT + u64::from(DATA_SELECTOR),
            &0x00cf_9300_0000_ffffu64.to_le_bytes(),
        );

        for (vector, handler, code) in [
            (NMI_VECTOR, NMI_HANDLER, nmi_handler()),
            (GP_VECTOR, GP_HANDLER, gp_handler()),
            (TIMER_VECTOR, TIMER_HANDLER, timer_handler()),
        ] {
            const PRESENT_INTERRUPT_GATE: u64 = 0x8e << 40;
            let gate = handler | (u64::from(CODE_SELECTOR) << 16) | PRESENT_INTERRUPT_GATE;
            self.write(IDT + vector * 16, &gate.to_le_bytes());
            self.write(handler, code);
        }

        self.write(CODE, code);
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        // SAFETY: The mapping is `SIZE` bytes long, writable and only ours
        // while `self` is borrowed: no VM has it yet.
        let memory = unsafe { slice::from_raw_parts_mut(self.0, SIZE) };
        memory[address as usize..][..bytes.len()].copy_from_slice(bytes);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `new` mapped this, and nothing refers to it any more.
        unsafe { libc::munmap(self.0.cast(), SIZE) };
    }
}

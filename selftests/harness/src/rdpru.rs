// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! AMD's RDPRU, by which user space reads the counters without the kernel (APM,
//! "RDPRU").

use std::arch::asm;

use crate::cpu::cpuid;

/// What RDPRU finds in ECX.
const MPERF: u32 = 0;
const APERF: u32 = 1;

/// Whether this CPU has the instruction.
pub fn exists() -> bool {
    const EBX_RDPRU: u32 = 1 << 4;
    cpuid(0x8000_0000).eax >= 0x8000_0008 && cpuid(0x8000_0008).ebx & EBX_RDPRU != 0
}

/// APERF of this CPU, which must have the instruction.
pub fn aperf() -> u64 {
    rdpru(APERF)
}

/// The same for MPERF.
pub fn mperf() -> u64 {
    rdpru(MPERF)
}

fn rdpru(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: The CPU has the instruction, and Linux leaves CR4.TSD clear.
    unsafe {
        asm!(
            ".byte 0x0f, 0x01, 0xfd",
            in("ecx") register,
            out("eax") low,
            out("edx") high,
            options(nostack, nomem),
        );
    }
    (u64::from(high) << 32) | u64::from(low)
}

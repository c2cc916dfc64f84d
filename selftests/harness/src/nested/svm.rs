// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! L1 with SVM enabled (APM, "Layout of VMCB").

use anyhow::{Context, Result};

use super::{Reasons, nested_code};
use crate::guest::Vcpu;

/// APM, "SVM Intercept Codes".
pub(super) const REASONS: Reasons = Reasons {
    interrupt: 0x60,
    rdmsr: 0x7c,
};

/// L1's L2 has half of its TSC.
pub(super) fn halve_tsc(vcpu: &Vcpu) -> Result<()> {
    /// APM, "TSC Ratio MSR": what an L1 scales the TSC of its guest by.
    const MSR_AMD64_TSC_RATIO: u32 = 0xc000_0104;
    const HALF: u64 = 1 << 31;
    vcpu.set_msr(MSR_AMD64_TSC_RATIO, HALF)
        .context("L1 cannot scale the TSC")
}

pub(super) fn code() -> &'static [u8] {
    l1_and_l2()
}

nested_code! {
    in crate::guest_code:
    /// The host save area is at 0x100000, the VMCB at 0x101000, the MSR
    /// permission map at 0x102000, and L2's stack below 0x105000.
    l1_and_l2:
        "l1_begin"
        "mov ecx, 0xc0000080"       // EFER
        "rdmsr"
        "or eax, 1 << 12"           // SVME
        "wrmsr"
        "mov rbx, 0x100000"
        "wrmsr64 0xc0010117, rbx"   // VM_HSAVE_PA
        "add rbx, 0x1000"

        "test edi, 1"               // INTERCEPT
        "jz 2f"
        "mov word ptr [rbx + 0x1000 + 0xe7 / 4], 0x0140" // reads of 0xe7 and 0xe8
        "2:"

        "mov rax, cr0"
        "mov [rbx + 0x558], rax"
        "mov rax, cr3"
        "mov [rbx + 0x550], rax"
        "mov rax, cr4"
        "mov [rbx + 0x548], rax"
        "lea rax, [rip + 4f]"
        "mov [rbx + 0x578], rax"

        "lea rsi, [rip + 5f]"
        "3:"
        "mov rcx, [rsi]"
        "mov rax, [rsi + 8]"
        "mov [rbx + rcx], rax"
        "add rsi, 16"
        "lea rax, [rip + 6f]"
        "cmp rsi, rax"
        "jb 3b"

        "mov rax, rbx"
        "vmrun rax"
        "mov ebp, 0x101000"
        "mov rbp, [rbp + 0x70]"     // EXITCODE
        "l1_end rbp"

        "4:"
        "l2 0x107c"                 // #VMEXITs by RDMSR and WRMSR

        // Fields with values that are known.
        ".p2align 3"
        "5:"
        ".quad 0x008, 0x1000000100000000"   // intercept INTR and, by the map, MSRs
        ".quad 0x010, 0x1"                  // intercept VMRUN
        ".quad 0x048, 0x102000"             // MSR permission map
        ".quad 0x058, 0x1"                  // ASID
        ".quad 0x410, 0xffffffff0a9b0008"   // CS
        ".quad 0x420, 0xffffffff0c930010"   // SS
        ".quad 0x460, 0x0000001700000000"   // GDTR
        ".quad 0x468, 0x1000"
        ".quad 0x480, 0x00000fff00000000"   // IDTR
        ".quad 0x488, 0x2000"
        ".quad 0x4d0, 0x1500"               // EFER: SVME, LMA, LME
        ".quad 0x560, 0x400"                // DR7
        ".quad 0x568, 0xffff0ff0"           // DR6
        ".quad 0x570, 0x2"                  // RFLAGS
        ".quad 0x5d8, 0x105000"             // RSP
        "6:"
}

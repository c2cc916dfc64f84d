// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! L1 in VMX operation (SDM, "Virtual Machine Control Structures").

use anyhow::Result;

use super::{Reasons, nested_code};
use crate::guest::Vcpu;

/// SDM, "VMX Basic Exit Reasons".
pub(super) const REASONS: Reasons = Reasons {
    interrupt: 1,
    rdmsr: 31,
};

/// IA32_FEATURE_CONTROL, as firmware leaves it: VMXON outside of SMX is allowed.
pub fn allow(vcpu: &Vcpu) -> Result<()> {
    const IA32_FEATURE_CONTROL: u32 = 0x3a;
    const LOCK_AND_VMXON: u64 = (1 << 0) | (1 << 2);
    vcpu.set_msr(IA32_FEATURE_CONTROL, LOCK_AND_VMXON)
}

pub(super) fn code() -> &'static [u8] {
    l1_and_l2()
}

/// Machine code of an L1 and its L2, see [`guest_code`](crate::guest_code), with
/// these words more:
///
/// - `vmx_begin`: enters VMX operation with a current VMCS. RBX is 0x100000, where
///   the VMXON region is; the VMCS is at RBX + 0x1000, and the MSR bitmap, which
///   intercepts nothing, at RBX + 0x2000. L2's stack is below 0x104000.
/// - `vmx_launch L2, L1`: runs L2 at the one label, and L1 at the other when L2
///   exits. It exits on interrupts, on what the MSR bitmap says, and on what a third
///   argument has of processor-based controls. A VMLAUNCH that fails exits with the
///   error, negated, in RBP.
#[macro_export]
macro_rules! vmx_code {
    ($(#[$attribute:meta])* $name:ident: $($line:literal)+) => {
        $crate::guest_code! {
            $(#[$attribute])*
            $name:
                // Controls are what is wanted, within what is allowed.
                ".macro control msr, wanted, field"
                "  mov ecx, \\msr"
                "  rdmsr"
                "  or eax, \\wanted"
                "  and eax, edx"
                "  mov ecx, \\field"
                "  vmwrite rcx, rax"
                ".endm"
                ".macro field encoding, register"
                "  mov ecx, \\encoding"
                "  vmwrite rcx, \\register"
                ".endm"

                ".macro vmx_begin"
                "  mov rax, cr4"
                "  or eax, 1 << 13"         // VMXE
                "  mov cr4, rax"
                "  mov ecx, 0x480"          // IA32_VMX_BASIC: revision
                "  rdmsr"
                "  mov ebx, 0x100000"
                "  mov dword ptr [rbx], eax"
                "  mov dword ptr [rbx + 0x1000], eax"
                "  push rbx"
                "  vmxon qword ptr [rsp]"
                "  add qword ptr [rsp], 0x1000"
                "  vmclear qword ptr [rsp]"
                "  vmptrld qword ptr [rsp]"
                ".endm"

                ".macro vmx_launch l2, l1, processor_based=0"
                "  control 0x481, 1, 0x4000"        // pin-based: external-interrupt exiting
                "  control 0x482, (1 << 28) | \\processor_based, 0x4002" // use MSR bitmaps
                "  control 0x483, 1 << 9, 0x400c"   // exit: host address-space size
                "  control 0x484, 1 << 9, 0x4012"   // entry: IA-32e mode guest

                "  mov rax, cr0"
                "  field 0x6800, rax"
                "  field 0x6c00, rax"
                "  mov rax, cr3"
                "  field 0x6802, rax"
                "  field 0x6c02, rax"
                "  mov rax, cr4"
                "  field 0x6804, rax"
                "  field 0x6c04, rax"
                "  field 0x6c14, rsp"
                "  lea rax, [rip + \\l1]"
                "  field 0x6c16, rax"
                "  lea rax, [rip + \\l2]"
                "  field 0x681e, rax"

                "  lea rbx, [rip + 56f]"
                "53:"
                "  mov rcx, [rbx]"
                "  vmwrite rcx, [rbx + 8]"
                "  add rbx, 16"
                "  lea rax, [rip + 57f]"
                "  cmp rbx, rax"
                "  jb 53b"

                "  vmlaunch"
                "  mov ecx, 0x4400"         // VM-instruction error
                "  vmread rbp, rcx"
                "  neg rbp"
                "  exit"

                // Fields with values that are known.
                ".p2align 3"
                "56:"
                ".quad 0x2004, 0x102000"    // MSR bitmap
                ".quad 0x2800, -1"          // VMCS link pointer
                ".quad 0x681a, 0x400"       // L2: DR7
                ".quad 0x681c, 0x104000"    // RSP
                ".quad 0x6820, 0x2"         // RFLAGS
                ".quad 0x0802, 0x8"         // CS
                ".quad 0x4802, 0xffffffff"
                ".quad 0x4816, 0xa09b"
                ".quad 0x480e, 0x67"        // TR: busy TSS
                ".quad 0x4822, 0x8b"
                ".quad 0x4814, 0x10000"     // ES, SS, DS, FS, GS, LDTR: unusable
                ".quad 0x4818, 0x10000"
                ".quad 0x481a, 0x10000"
                ".quad 0x481c, 0x10000"
                ".quad 0x481e, 0x10000"
                ".quad 0x4820, 0x10000"
                ".quad 0x6816, 0x1000"      // GDTR and IDTR
                ".quad 0x4810, 0x17"
                ".quad 0x6818, 0x2000"
                ".quad 0x4812, 0xfff"
                ".quad 0x0c00, 0x10"        // L1: ES, CS, SS, DS
                ".quad 0x0c02, 0x8"
                ".quad 0x0c04, 0x10"
                ".quad 0x0c06, 0x10"
                ".quad 0x0c0c, 0x18"        // TR: not null
                ".quad 0x6c0c, 0x1000"      // GDTR and IDTR
                ".quad 0x6c0e, 0x2000"
                "57:"
                ".endm"

                $($line)+

                ".purgem control"
                ".purgem field"
                ".purgem vmx_begin"
                ".purgem vmx_launch"
        }
    };
}

nested_code! {
    in crate::vmx_code:
    l1_and_l2:
        "l1_begin"
        "vmx_begin"
        "test edi, 1"               // INTERCEPT
        "jz 2f"
        "mov word ptr [rbx + 0x2000 + 0xe7 / 8], 0x0180" // reads of 0xe7 and 0xe8
        "2:"
        "test edi, 4"               // SCALE
        "jz 3f"
        "control 0x48b, 1 << 25, 0x401e" // secondary: use TSC scaling
        "mov rax, 1 << 47"
        "field 0x2032, rax"         // TSC multiplier: a half
        "3:"
        "vmx_launch 4f, 5f, (1 << 31) | (1 << 3)" // secondary controls, TSC offsetting

        "4:"
        "l2 0x11f"                  // VMX exits by RDMSR

        "5:"
        "mov ecx, 0x4402"           // exit reason
        "vmread rbp, rcx"
        "l1_end rbp"
}

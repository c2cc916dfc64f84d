// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A guest that has values of its own, and looks whether it keeps them. It halts by
//! turns, so that its CPU goes from one vCPU to another inside the kernel, with a guest's
//! values still in the MSRs. Each read must follow the one before it by less than 2^36
//! ticks: the values of others are to be further away.

use anyhow::{Result, ensure};
use kvm_bindings::kvm_regs;

use crate::guest_code;

/// How often it reads both counters.
pub const ROUNDS: u64 = 200;

guest_code! {
    /// Sets both counters to RDI. Then 200 times: reads, compares with the last
    /// values in R10 and R11, counts strange ones in R12, halts 200 us.
    pub reads_and_halts:
        "cli"
        "timer_one_shot"
        "wrmsr64 0xe8, rdi"
        "wrmsr64 0xe7, rdi"
        "mov r10, rdi"
        "mov r11, rdi"
        "mov r14, 200000"
        "mov r13, 200"
        "2:"
        "rdpair r8, r9"
        "mov rax, r8"
        "sub rax, r10"
        "shr rax, 36"
        "jz 3f"
        "inc r12"
        "3:"
        "mov rax, r9"
        "sub rax, r11"
        "shr rax, 36"
        "jz 4f"
        "inc r12"
        "4:"
        "mov r10, r8"
        "mov r11, r9"
        "burn 4000"
        "sleep r14"
        "dec r13"
        "jnz 2b"
        "exit"
}

/// Checks the registers at its end.
pub fn expect_own(regs: &kvm_regs) -> Result<()> {
    ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);
    ensure!(
        regs.r12 == 0,
        "{} of {} reads are not its own",
        regs.r12,
        2 * ROUNDS
    );
    Ok(())
}

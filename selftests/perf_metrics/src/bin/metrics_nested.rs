// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A nested guest's (L2's) access to IA32_PERF_METRICS: passed through if neither KVM
//! nor L1 intercepts it, an exit to L1 if L1 does, and #GP if there is no MSR. Exact.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::guest::{Guest, Vcpu};
use harness::nested::allow_vmx;
use harness::{cpu, kernel, ktap, note, vmx_code};
use kvm_bindings::kvm_regs;
use perf_metrics::guest::{vcpu, vcpu_without_metrics};
use perf_metrics::metrics::require;

const L1_VALUE: u64 = 0x4c33_1a66;
const L2_VALUE: u64 = 0x0102_03f9;

/// L1's argument.
const INTERCEPT_READS: u64 = 1;
const INTERCEPT_WRITES: u64 = 2;

/// SDM, "VMX Basic Exit Reasons".
const VMCALL: u64 = 18;
const RDMSR: u64 = 31;
const WRMSR: u64 = 32;

vmx_code! {
    /// L1 writes, L2 reads to R8 and writes, L1 reads to R9. L2's reason to exit is in
    /// RBP, and from R10 to R11 the oracle counted exits by RDMSR and WRMSR. If L1 intercepts
    /// anything, RSI is what L2's exit stored in L1's list of MSRs.
    l1_and_l2:
        ".macro count_exits register"
        "  mov rbx, -1"
        "  mov rdx, 0x100 + 31"
        "  oracle 2"
        "  mov \\register, rax"
        "  mov rbx, -1"
        "  mov rdx, 0x100 + 32"
        "  oracle 2"
        "  add \\register, rax"
        ".endm"

        "cli"
        "mov r14, 1000000"
        "wrmsr64 0x30c, r14"
        "mov r14, 0x4c331a66"
        "wrmsr64 0x329, r14"
        "vmx_begin"
        "test edi, 1"
        "jz 2f"
        "or byte ptr [rbx + 0x2000 + 0x329 / 8], 1 << 1"
        "2:"
        "test edi, 2"
        "jz 3f"
        "or byte ptr [rbx + 0x2800 + 0x329 / 8], 1 << 1"
        "3:"
        "test edi, edi"
        "jz 6f"
        "mov dword ptr [rbx + 0x5000], 0x329"
        "lea rax, [rbx + 0x5000]"
        "field 0x2006, rax"     // VM-exit MSR-store address
        "mov eax, 1"
        "field 0x400e, rax"     // and count
        "6:"
        "vmx_launch 4f, 5f"

        "4:"
        "count_exits r10"
        "rdmsr64 0x329, r8"
        "mov r14, 0x010203f9"
        "wrmsr64 0x329, r14"
        "count_exits r11"
        "vmcall"

        "5:"
        "mov ecx, 0x4402"       // exit reason
        "vmread rbp, rcx"
        "mov rsi, [0x105008]"
        "rdmsr64 0x329, r9"
        "exit"
        ".purgem count_exits"
}

fn run(intercept: u64, create: fn(&Guest) -> Result<Vcpu>) -> Result<kvm_regs> {
    require()?;
    cpu::pin(0)?;
    let guest = Guest::with_irqchip(l1_and_l2())?;
    let mut vcpu = create(&guest)?;
    allow_vmx(&vcpu)?;
    vcpu.set_argument(intercept)?;
    let regs = vcpu.run()?;
    note!(
        "L2 exits for reason {}, reads {:#x}; L1 then {:#x}; {} #GPs",
        regs.rbp as i64,
        regs.r8,
        regs.r9,
        regs.r15
    );
    Ok(regs)
}

fn passed_through() -> Result<()> {
    let regs = run(0, vcpu)?;
    ensure!(
        regs.rbp == VMCALL && regs.r15 == 0,
        "L2 did not get to its end"
    );
    ensure!(regs.r8 == L1_VALUE, "L2 does not read what L1 wrote");
    ensure!(regs.r9 == L2_VALUE, "L1 does not read what L2 wrote");
    let exits = regs.r11 - regs.r10;
    note!("exits by L2's accesses: {exits}");
    ensure!(exits == 0, "L2's accesses exit");
    Ok(())
}

fn intercepted_by_l1() -> Result<()> {
    for (intercept, reason, read) in [
        (INTERCEPT_READS, RDMSR, 0),
        (INTERCEPT_WRITES, WRMSR, L1_VALUE),
    ] {
        let regs = run(intercept, vcpu)?;
        ensure!(regs.rbp == reason, "L1 does not get L2's access");
        ensure!(
            [regs.r8, regs.r9, regs.r15] == [read, L1_VALUE, 0],
            "the access took effect"
        );
        ensure!(regs.rsi == L1_VALUE, "the exit stored {:#x}", regs.rsi);
    }
    // That is KVM's own access, right after an exit for one of L2's.
    kernel::expect_no_warning()
}

fn without_the_bit() -> Result<()> {
    let regs = run(0, vcpu_without_metrics)?;
    ensure!(regs.rbp == VMCALL, "L2 did not get to its end");
    ensure!(regs.r15 == 4, "not each access of L1 and L2 faults");
    Ok(())
}

fn main() -> ExitCode {
    ktap::run(&[
        ("passed through to L2", passed_through),
        ("intercepted by L1", intercepted_by_l1),
        ("without the MSR", without_the_bit),
    ])
}

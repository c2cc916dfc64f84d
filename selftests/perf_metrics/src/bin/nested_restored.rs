// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A vCPU that is restored in the middle of a nested guest (L2) has a PMU that counts when
//! it is back in L1, over an exit to user space: KVM finds out there how the PMU is to be
//! switched, and must tell both VMCSs. What counts is a known loop, exact but for the
//! instructions that read the counter.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use harness::guest::{Guest, Vcpu};
use harness::nested::allow_vmx;
use harness::{cpu, ktap, note, vmx_code};
use kvm_bindings::nested::KvmNestedStateBuffer;
use perf_metrics::guest::{complete_io, vcpu, vcpu_number};
use perf_metrics::metrics::require;

const WORK: u64 = 100_000;
const READS: u64 = 8;

vmx_code! {
    /// L2 exits to user space, and then to L1, which starts to count, exits as well, and
    /// takes the instructions before and after a loop to R8 and R9.
    l1_and_l2:
        "cli"
        "vmx_begin"
        "vmx_launch 4f, 5f"

        "4:"
        "exit"
        "vmcall"

        "5:"
        "mov edi, 3"
        "wrmsr64 0x38d, rdi"    // fixed counter 0 counts at all levels
        "mov rdi, 1 << 32"
        "wrmsr64 0x38f, rdi"
        "exit"
        "rdmsr64 0x309, r8"
        "burn 100000"
        "rdmsr64 0x309, r9"
        "exit"
}

/// A vCPU in L2, at its exit to user space.
fn in_l2() -> Result<(Guest, Vcpu)> {
    require()?;
    cpu::pin(0)?;
    let guest = Guest::with_irqchip(l1_and_l2())?;
    let mut vcpu = vcpu(&guest)?;
    allow_vmx(&vcpu)?;
    vcpu.resume()?;
    Ok((guest, vcpu))
}

/// Another vCPU that goes on where `vcpu` was.
fn restored(guest: &Guest, vcpu: &mut Vcpu) -> Result<Vcpu> {
    complete_io(vcpu)?;
    let mut nested = KvmNestedStateBuffer::empty();
    let size = vcpu.fd().nested_state(&mut nested);
    ensure!(
        size.context("KVM_GET_NESTED_STATE")?.is_some(),
        "no nested state"
    );

    let other = vcpu_number(guest, 1)?;
    allow_vmx(&other)?;
    let apic_base = other.fd().get_sregs()?.apic_base;
    let mut sregs = vcpu.fd().get_sregs()?;
    sregs.apic_base = apic_base;
    other.fd().set_sregs(&sregs).context("KVM_SET_SREGS")?;
    other.fd().set_regs(&vcpu.regs()?).context("KVM_SET_REGS")?;
    let set = other.fd().set_nested_state(&nested);
    set.context("KVM_SET_NESTED_STATE")?;
    Ok(other)
}

/// Runs a vCPU that is about to leave L2.
fn counts_in_l1(vcpu: &mut Vcpu) -> Result<()> {
    vcpu.resume()?;
    let regs = vcpu.run()?;
    let counted = regs.r9.wrapping_sub(regs.r8);
    note!("{counted} instructions counted, of {WORK}");
    ensure!(regs.r15 == 0, "an access faulted");
    ensure!(
        (WORK..=WORK + READS).contains(&counted),
        "the PMU does not count in L1"
    );
    Ok(())
}

fn goes_on() -> Result<()> {
    let (_guest, mut vcpu) = in_l2()?;
    counts_in_l1(&mut vcpu)
}

fn is_restored() -> Result<()> {
    let (guest, mut vcpu) = in_l2()?;
    counts_in_l1(&mut restored(&guest, &mut vcpu)?)
}

fn main() -> ExitCode {
    ktap::run(&[
        ("the PMU counts in L1 after L2", goes_on),
        ("the same after L2 was restored", is_restored),
    ])
}

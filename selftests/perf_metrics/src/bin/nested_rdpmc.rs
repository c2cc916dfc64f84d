// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! RDPMC of a nested guest (L2) exits to L1 where L1 wants that and KVM does not, also
//! after L2 has had KVM recalculate its intercepts: a write to APERF does, from which on
//! another mode may apply. Exact.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::guest::Guest;
use harness::module::Module;
use harness::nested::allow_vmx;
use harness::{cpu, ktap, note, vmx_code};
use perf_metrics::guest::vcpu;
use perf_metrics::metrics::require;

/// SDM, "VMX Basic Exit Reasons".
const RDPMC: u64 = 15;

vmx_code! {
    /// L2 writes APERF if RDI is not zero, and reads a counter. Its reason to exit is in RBP.
    l1_and_l2:
        "cli"
        "vmx_begin"
        "vmx_launch 4f, 5f, 1 << 11" // RDPMC exiting

        "4:"
        "test edi, edi"
        "jz 2f"
        "wrmsr64 0xe8, rdi"
        "2:"
        "xor ecx, ecx"
        "rdpmc"
        "vmcall"

        "5:"
        "mov ecx, 0x4402"       // exit reason
        "vmread rbp, rcx"
        "exit"
}

fn run(aperf: u64) -> Result<()> {
    require()?;
    cpu::pin(0)?;
    let _module = Module::loaded()?;
    let guest = Guest::with_irqchip(l1_and_l2())?;
    let mut vcpu = vcpu(&guest)?;
    allow_vmx(&vcpu)?;
    vcpu.set_argument(aperf)?;
    let regs = vcpu.run()?;
    note!("L2 exits for reason {}", regs.rbp as i64);
    ensure!(regs.r15 == 0, "an access faulted");
    ensure!(regs.rbp == RDPMC, "L1 does not get L2's RDPMC");
    Ok(())
}

fn main() -> ExitCode {
    ktap::run(&[
        ("L2's RDPMC", || run(0)),
        ("L2's RDPMC after a write to APERF", || run(1)),
    ])
}

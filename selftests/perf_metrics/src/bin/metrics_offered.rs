// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Fixed counter 3 and IA32_PERF_METRICS are offered with the mediated PMU, and
//! exactly what a guest's CPUID and IA32_PERF_CAPABILITIES say is there: all else
//! gets #GP. The legacy PMU offers neither. Exact.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use harness::guest::{Guest, Vcpu};
use harness::{cpu, ktap, note};
use kvm_ioctls::Kvm;
use perf_metrics::guest::{
    offered_capabilities, offered_fixed_counters, vcpu, vcpu_with_counters, vcpu_without_metrics,
};
use perf_metrics::kvm_intel::Legacy;
use perf_metrics::metrics::require;
use perf_metrics::{msr, pmu_code};

/// In the order of the guest's code.
const ACCESSES: [&str; 8] = [
    "RDMSR of PERF_METRICS",
    "WRMSR to PERF_METRICS",
    "RDPMC of the metrics",
    "the metrics' bit in GLOBAL_CTRL",
    "the metrics' bit in GLOBAL_OVF_CTRL",
    "WRMSR to fixed counter 3",
    "RDPMC of fixed counter 3",
    "fixed counter 3's bit in GLOBAL_CTRL",
];
/// How many of these need the metrics, and not just the counter.
const OF_METRICS: usize = 5;

pmu_code! {
    /// Bit N of R8 says that access N faulted. R9 is IA32_PERF_CAPABILITIES.
    access_all:
        ".macro faulted number"
        "  shl r15, \\number"
        "  or r8, r15"
        "  xor r15d, r15d"
        ".endm"
        "rdmsr64 0x329, r10"
        "faulted 0"
        "wrmsr_value 0x329, 0"
        "faulted 1"
        "rdpmc64 0x20000000, r10"
        "faulted 2"
        "wrmsr_value 0x38f, 0x1000000000000"
        "faulted 3"
        "wrmsr_value 0x390, 0x1000000000000"
        "faulted 4"
        "wrmsr_value 0x30c, 0"
        "faulted 5"
        "rdpmc64 0x40000003, r10"
        "faulted 6"
        "wrmsr_value 0x38f, 0x800000000"
        "faulted 7"
        "rdmsr64 0x345, r9"
        "faulted 8"
        "exit"
        ".purgem faulted"
}

/// Runs the guest, and wants the accesses in `faults` to fault, and no other.
fn expect(vcpu: &mut Vcpu, faults: std::ops::Range<usize>) -> Result<()> {
    let regs = vcpu.run()?;
    for (number, access) in ACCESSES.iter().enumerate() {
        let faulted = (regs.r8 >> number) & 1 != 0;
        ensure!(
            faulted == faults.contains(&number),
            "{access}: #GP {faulted}"
        );
    }
    let shown = regs.r9 & msr::CAP_PERF_METRICS != 0;
    note!("#GPs {:#x}, PERF_CAPABILITIES {:#x}", regs.r8, regs.r9);
    ensure!(shown == faults.is_empty(), "the guest sees bit 15: {shown}");
    Ok(())
}

fn is_saved(kvm: &Kvm, msr: u32) -> Result<bool> {
    let list = kvm.get_msr_index_list().context("KVM_GET_MSR_INDEX_LIST")?;
    Ok(list.as_slice().contains(&msr))
}

fn prepare() -> Result<Guest> {
    require()?;
    cpu::pin(0)?;
    Guest::with_irqchip(access_all())
}

fn with_mediated_pmu() -> Result<()> {
    let guest = prepare()?;
    let capabilities = offered_capabilities(guest.kvm())?;
    let fixed = offered_fixed_counters(guest.kvm())?;
    note!("KVM offers PERF_CAPABILITIES {capabilities:#x}, {fixed} fixed counters");
    ensure!(fixed == 4, "KVM offers {fixed} fixed counters");
    ensure!(
        capabilities & msr::CAP_PERF_METRICS != 0,
        "KVM does not offer bit 15"
    );
    for msr in [msr::PERF_METRICS, msr::FIXED_CTR3] {
        ensure!(is_saved(guest.kvm(), msr)?, "MSR {msr:#x} is not saved");
    }

    let mut vcpu = vcpu(&guest)?;
    for msr in [msr::PERF_METRICS, msr::FIXED_CTR3] {
        ensure!(
            vcpu.msr(msr)? == Some(0),
            "MSR {msr:#x} does not start at zero"
        );
    }
    expect(&mut vcpu, 0..0)
}

fn without_the_bit() -> Result<()> {
    let guest = prepare()?;
    let mut vcpu = vcpu_without_metrics(&guest)?;
    ensure!(
        vcpu.set_msr(msr::PERF_METRICS, 1).is_err(),
        "user space sets an MSR that is not there"
    );
    expect(&mut vcpu, 0..OF_METRICS)
}

fn without_the_counter() -> Result<()> {
    let guest = prepare()?;
    let mut vcpu = vcpu_with_counters(&guest, 8, 3)?;
    let offered = offered_capabilities(guest.kvm())?;
    ensure!(
        vcpu.set_msr(msr::PERF_CAPABILITIES, offered).is_err(),
        "bit 15 without fixed counter 3"
    );
    expect(&mut vcpu, 0..ACCESSES.len())
}

fn with_legacy_pmu() -> Result<()> {
    require()?;
    cpu::pin(0)?;
    let _legacy = Legacy::load()?;
    let guest = Guest::with_irqchip(access_all())?;
    let capabilities = offered_capabilities(guest.kvm())?;
    let fixed = offered_fixed_counters(guest.kvm())?;
    note!("KVM offers PERF_CAPABILITIES {capabilities:#x}, {fixed} fixed counters");
    ensure!(fixed == 3, "KVM offers {fixed} fixed counters");
    ensure!(
        capabilities & msr::CAP_PERF_METRICS == 0,
        "KVM offers bit 15"
    );
    for msr in [msr::PERF_METRICS, msr::FIXED_CTR3] {
        ensure!(!is_saved(guest.kvm(), msr)?, "MSR {msr:#x} is saved");
    }

    let mut vcpu = vcpu_with_counters(&guest, 8, 4)?;
    ensure!(
        vcpu.set_msr(msr::PERF_CAPABILITIES, capabilities | msr::CAP_PERF_METRICS)
            .is_err(),
        "user space can set bit 15"
    );
    expect(&mut vcpu, 0..ACCESSES.len())
}

fn main() -> ExitCode {
    ktap::run(&[
        ("the mediated PMU has metrics", with_mediated_pmu),
        ("without its bit there is no MSR", without_the_bit),
        (
            "without fixed counter 3 there is no bit",
            without_the_counter,
        ),
        ("the legacy PMU has neither", with_legacy_pmu),
    ])
}

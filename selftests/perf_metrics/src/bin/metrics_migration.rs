// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A guest that counts is saved and goes on in another VM, on the same CPU or on
//! another: slots, metrics, control and status are carried by the MSRs that
//! KVM_GET_MSR_INDEX_LIST names.
//!
//! What is restored is exactly what was saved. The average of what both VMs counted
//! has been through 8 bits a part: two steps.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use harness::guest::{Guest, Vcpu};
use harness::{cpu, ktap, note};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_regs};
use perf_metrics::guest::{complete_io, vcpu};
use perf_metrics::metrics::{FULL_SCALE, Metrics, require};
use perf_metrics::{msr, pmu_code};

const SOURCE: Metrics = Metrics([200, 35, 10, 10]);
const TARGET: Metrics = Metrics([100, 15, 70, 70]);
const AVERAGE: Metrics = Metrics([150, 25, 40, 40]);
const WORK: u64 = 400_000;

pmu_code! {
    /// Counts while it divides slots as RDI says, and after its exit as RDI says then.
    /// Metrics in R8, slots in R9, R10 has IA32_PERF_GLOBAL_CTRL.
    count_twice:
        "topdown_zero"
        "divide rdi"
        "topdown_count"
        "burn 400000"
        "exit"
        "divide rdi"
        "burn 400000"
        "rdmsr64 0x38f, r10"
        "stop"
        "rdmsr64 0x329, r8"
        "rdpmc64 0x40000003, r9"
        "exit"
}

/// What is restored in this order.
struct Saved {
    cpuid: CpuId,
    msrs: Vec<(u32, u64)>,
    regs: kvm_regs,
}

impl Saved {
    fn of(guest: &Guest, vcpu: &mut Vcpu) -> Result<Self> {
        complete_io(vcpu)?;
        let list = guest.kvm().get_msr_index_list();
        let list = list.context("KVM_GET_MSR_INDEX_LIST")?;
        let mut msrs = vec![(
            msr::PERF_CAPABILITIES,
            vcpu.msr(msr::PERF_CAPABILITIES)?
                .context("no IA32_PERF_CAPABILITIES")?,
        )];
        for &index in list.as_slice() {
            if let Some(value) = vcpu.msr(index)? {
                msrs.push((index, value));
            }
        }
        let cpuid = vcpu.fd().get_cpuid2(KVM_MAX_CPUID_ENTRIES);
        Ok(Saved {
            cpuid: cpuid.context("KVM_GET_CPUID2")?,
            msrs,
            regs: vcpu.regs()?,
        })
    }

    fn restore(&self, guest: &Guest) -> Result<Vcpu> {
        let vcpu = guest.vcpu_with(0, &self.cpuid)?;
        for &(index, value) in &self.msrs {
            vcpu.set_msr(index, value)?;
        }
        vcpu.fd().set_regs(&self.regs).context("KVM_SET_REGS")?;
        Ok(vcpu)
    }

    fn msr(&self, msr: u32) -> Result<u64> {
        let found = self.msrs.iter().find(|(index, _)| *index == msr);
        let (_, value) = found.with_context(|| format!("MSR {msr:#x} was not saved"))?;
        Ok(*value)
    }
}

fn goes_on(to: usize) -> Result<()> {
    require()?;
    cpu::pin(0)?;
    let source = Guest::with_irqchip(count_twice())?;
    let mut vcpu = vcpu(&source)?;
    vcpu.set_argument(SOURCE.raw())?;
    vcpu.run()?;
    let saved = Saved::of(&source, &mut vcpu)?;
    drop((vcpu, source));

    let slots = saved.msr(msr::FIXED_CTR3)?;
    let metrics = Metrics::from_raw(saved.msr(msr::PERF_METRICS)?)?;
    note!("saved {slots} slots, {metrics}");
    ensure!(slots >= 5 * WORK, "too few slots");
    ensure!(
        metrics.distance(SOURCE) <= 1,
        "the metrics are not {SOURCE}"
    );

    cpu::pin(to)?;
    let target = Guest::with_irqchip(count_twice())?;
    let mut vcpu = saved.restore(&target)?;
    for (index, value) in [
        (msr::FIXED_CTR3, slots),
        (msr::PERF_METRICS, metrics.raw()),
        (msr::PERF_GLOBAL_CTRL, saved.msr(msr::PERF_GLOBAL_CTRL)?),
        (msr::FIXED_CTR_CTRL, saved.msr(msr::FIXED_CTR_CTRL)?),
    ] {
        ensure!(
            vcpu.msr(index)? == Some(value),
            "MSR {index:#x} is not as it was saved"
        );
    }

    vcpu.set_argument(TARGET.raw())?;
    let regs = vcpu.run()?;
    let metrics = Metrics::from_raw(regs.r8)?;
    note!(
        "{} slots more, {metrics}, expected {AVERAGE}",
        regs.r9 - slots
    );
    ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);
    ensure!(
        regs.r10 == msr::GLOBAL_PERF_METRICS | msr::GLOBAL_FIXED_CTR3 | msr::GLOBAL_FIXED_CTR0,
        "IA32_PERF_GLOBAL_CTRL is {:#x}",
        regs.r10
    );
    ensure!(
        regs.r9 - slots >= 5 * WORK,
        "the guest does not go on counting"
    );
    ensure!(
        metrics.distance(AVERAGE) <= 2 && metrics.sum() == FULL_SCALE,
        "these are not the metrics of both"
    );
    Ok(())
}

fn to_another_cpu() -> Result<()> {
    cpu::require_two()?;
    goes_on(1)
}

fn main() -> ExitCode {
    ktap::run(&[
        ("a guest goes on in another VM", || goes_on(0)),
        ("a guest goes on on another CPU", to_another_cpu),
    ])
}

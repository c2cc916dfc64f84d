// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Intercepted mode for a VM with a filter on reads of the pair,
//! KVM_X86_SET_MSR_FILTER: the filter decides, and when it is gone, reads pass
//! through again, with values that went on meanwhile.
//!
//! Bounds: MPERF keeps to the guest's TSC within one switch over all of it. APERF
//! advances by no more than the TSC.

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use harness::module::Module;
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::pair::{MSR_IA32_APERF, MSR_IA32_MPERF};
use harness::sample::{Distance, Sample, Sampler};
use harness::{ONE_SWITCH, cpu, ktap, note, oracle};
use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, kvm_enable_cap, kvm_regs,
};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuExit};

/// Sets a filter that denies reads of `msrs`, and nothing else.
fn deny_reads(sampler: &Sampler, msrs: &[u32]) -> Result<()> {
    let ranges: Vec<_> = msrs
        .iter()
        .map(|&base| MsrFilterRange {
            flags: MsrFilterRangeFlags::READ,
            base,
            msr_count: 1,
            bitmap: &[0],
        })
        .collect();
    sampler
        .guest
        .vm()
        .set_msr_filter(MsrFilterDefaultAction::ALLOW, &ranges)
        .context("KVM_X86_SET_MSR_FILTER")
}

fn prepare() -> Result<(Module, Ratio, Sampler)> {
    oracle::require()?;
    cpu::pin(0)?;
    Ok((
        Module::loaded()?,
        Ratio::set(THIS_CPU, RATIO_ONE),
        Sampler::new()?,
    ))
}

/// Without a filter there is no exit, and the pair has gone on since `before`.
fn expect_passed_through(sampler: &mut Sampler, before: &Sample) -> Result<Sample> {
    let after = sampler.take()?;
    let mut distance = Distance::of(before);
    distance.narrow(&after);
    let error = distance.error();
    let advance = after.pair - before.pair;
    let tsc = after.tsc.1 - before.tsc.0;
    note!(
        "{advance}, TSC {tsc}, {} exits, MPERF strays by {error} ticks",
        after.exits
    );
    ensure!(after.exits == 0, "reads took {} exits", after.exits);
    ensure!(error <= ONE_SWITCH, "MPERF does not keep to the TSC");
    ensure!((1..=tsc).contains(&advance.aperf), "APERF jumped");
    Ok(after)
}

/// Denied reads fault, and those of the other counter exit, too.
fn faults() -> Result<()> {
    let (_module, _ratio, mut sampler) = prepare()?;
    let first = sampler.take()?;
    let mut last = expect_passed_through(&mut sampler, &first)?;
    for msrs in [
        &[MSR_IA32_APERF, MSR_IA32_MPERF][..],
        &[MSR_IA32_APERF],
        &[MSR_IA32_MPERF],
    ] {
        deny_reads(&sampler, msrs)?;
        let regs = sampler.vcpu.run()?;
        let exits = regs.r13 - regs.r12;
        note!("filter on {msrs:x?}: {} #GPs, {exits} exits", regs.r15);
        ensure!(
            regs.r15 == msrs.len() as u64,
            "not each denied read faults, and no other"
        );
        ensure!(exits == 2, "the pair is passed through");
        let regs = kvm_regs { r15: 0, ..regs };
        sampler.vcpu.fd().set_regs(&regs).context("KVM_SET_REGS")?;
        deny_reads(&sampler, &[])?;
        last = expect_passed_through(&mut sampler, &last)?;
    }
    Ok(())
}

/// Denied reads are answered by user space.
fn exits_to_user_space() -> Result<()> {
    const ANSWERS: [u64; 2] = [42 << 40, 43 << 40];
    let (_module, _ratio, mut sampler) = prepare()?;
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        ..Default::default()
    };
    cap.args[0] = KVM_MSR_EXIT_REASON_FILTER.into();
    let vm = sampler.guest.vm();
    vm.enable_cap(&cap).context("KVM_CAP_X86_USER_SPACE_MSR")?;

    let before = sampler.take()?;
    deny_reads(&sampler, &[MSR_IA32_APERF, MSR_IA32_MPERF])?;
    for (msr, answer) in [MSR_IA32_MPERF, MSR_IA32_APERF].into_iter().zip(ANSWERS) {
        match sampler.vcpu.fd_mut().run().context("KVM_RUN")? {
            VcpuExit::X86Rdmsr(read) => {
                ensure!(read.index == msr, "exit for MSR {:#x}", read.index);
                *read.data = answer;
            }
            exit => bail!("no exit for MSR {msr:#x}, but {exit:?}"),
        }
    }
    let answered = sampler.take()?;
    ensure!(
        [answered.pair.mperf, answered.pair.aperf] == ANSWERS,
        "the guest read {} instead of user space's answer",
        answered.pair
    );
    deny_reads(&sampler, &[])?;
    expect_passed_through(&mut sampler, &before)?;
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("denied reads fault", faults),
        ("denied reads exit to user space", exits_to_user_space),
    ])
}

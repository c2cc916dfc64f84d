// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The pair as part of a vCPU's state: KVM_GET_MSR_INDEX_LIST, KVM_GET_MSRS and
//! KVM_SET_MSRS carry it to another VM.
//!
//! A halted vCPU's pair stands still, so that what is set is exactly what is
//! read. Elsewhere the bound is what the TSC advanced meanwhile.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use harness::guest::{Guest, Vcpu};
use harness::module::Module;
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::pair::{MSR_IA32_APERF, MSR_IA32_MPERF};
use harness::{Pair, cpu, guest_code, ktap, note, oracle};

guest_code! {
    read_first:
        "rdpair r8, r9"
        "exit"
}

fn set(vcpu: &Vcpu, pair: Pair) -> Result<()> {
    vcpu.set_msr(MSR_IA32_APERF, pair.aperf)?;
    vcpu.set_msr(MSR_IA32_MPERF, pair.mperf)
}

fn prepare() -> Result<(Module, Ratio)> {
    oracle::require()?;
    cpu::pin(0)?;
    Ok((Module::loaded()?, Ratio::set(THIS_CPU, RATIO_ONE)))
}

fn index_list() -> Result<()> {
    let _setup = prepare()?;
    let guest = Guest::new(read_first())?;
    let list = guest
        .kvm()
        .get_msr_index_list()
        .context("KVM_GET_MSR_INDEX_LIST")?;
    for msr in [MSR_IA32_APERF, MSR_IA32_MPERF] {
        ensure!(
            list.as_slice().contains(&msr),
            "MSR {msr:#x} is not in the list"
        );
    }
    Ok(())
}

fn round_trip() -> Result<()> {
    let _setup = prepare()?;
    let guest = Guest::with_irqchip(read_first())?;
    let vcpu = guest.vcpu(0)?;

    vcpu.set_halted(true)?;
    for pair in [
        Pair { aperf: 0, mperf: 0 },
        Pair { aperf: 1, mperf: 2 },
        Pair {
            aperf: 0x0123_4567_89ab_cdef,
            mperf: 0x0fed_cba9_8765_4321,
        },
    ] {
        set(&vcpu, pair)?;
        let read = vcpu.pair()?;
        note!("set {pair}, got {read}");
        ensure!(read == pair, "halted, but not what was set");
    }
    Ok(())
}

fn runnable() -> Result<()> {
    let _setup = prepare()?;
    let guest = Guest::new(read_first())?;
    let vcpu = guest.vcpu(0)?;
    let pair = Pair {
        aperf: 1 << 40,
        mperf: 1 << 41,
    };

    let start = cpu::tsc();
    set(&vcpu, pair)?;
    let advance = vcpu.pair()? - pair;
    let elapsed = cpu::tsc() - start;

    note!("advanced by {advance}, TSC {elapsed}");
    ensure!(advance.aperf == 0, "APERF advanced outside of KVM_RUN");
    ensure!(
        (1..=elapsed).contains(&advance.mperf),
        "MPERF does not go on from what was set"
    );
    Ok(())
}

fn migrate() -> Result<()> {
    let _setup = prepare()?;
    let set_in_source = Pair {
        aperf: 3 << 40,
        mperf: 5 << 40,
    };

    let source = Guest::new(read_first())?;
    let mut source_vcpu = source.vcpu(0)?;
    set(&source_vcpu, set_in_source)?;
    source_vcpu.run()?;
    let saved = source_vcpu.pair()?;
    drop((source_vcpu, source));

    let target = Guest::new(read_first())?;
    let mut vcpu = target.vcpu(0)?;
    let start = cpu::tsc();
    set(&vcpu, saved)?;
    let regs = vcpu.run()?;
    let elapsed = cpu::tsc() - start;

    ensure!(regs.r15 == 0, "{} reads faulted", regs.r15);
    let advance = Pair {
        aperf: regs.r8,
        mperf: regs.r9,
    } - saved;
    note!("saved {saved}, then advanced by {advance}, TSC {elapsed}");
    ensure!(
        (1..=elapsed).contains(&advance.aperf),
        "APERF does not go on"
    );
    ensure!(
        (1..=elapsed).contains(&advance.mperf),
        "MPERF does not go on"
    );
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("KVM_GET_MSR_INDEX_LIST has both", index_list),
        ("a halted vCPU returns what was set", round_trip),
        ("a runnable vCPU goes on from what was set", runnable),
        ("another VM goes on from what was saved", migrate),
    ])
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! CPUID.06H:ECX[0] and the values: setting the bit starts at zero, clearing it
//! drops them, and KVM_SET_CPUID2 that leaves the bit set leaves them alone.
//!
//! Bound: exact, for a halted vCPU.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use harness::guest::{Guest, Vcpu, cpuid};
use harness::module::Module;
use harness::pair::{MSR_IA32_APERF, MSR_IA32_MPERF};
use harness::watch::watch;
use harness::{Pair, cpu, guest_code, ktap, note};
use kvm_bindings::CpuId;
use kvm_ioctls::Kvm;

const KNOWN: Pair = Pair {
    aperf: 3 << 40,
    mperf: 5 << 40,
};

guest_code! {
    read_first:
        "rdpair r8, r9"
        "exit"
}

struct Setup {
    vcpu: Vcpu,
    guest: Guest,
    _module: Module,
}

/// A halted vCPU with a pair that is known.
fn prepare() -> Result<Setup> {
    cpu::pin(0)?;
    let module = Module::loaded()?;
    let guest = Guest::with_irqchip(read_first())?;
    let vcpu = guest.vcpu(0)?;
    vcpu.set_halted(true)?;
    vcpu.set_pair(KNOWN)?;
    Ok(Setup {
        vcpu,
        guest,
        _module: module,
    })
}

impl Setup {
    fn set_cpuid(&self, cpuid: fn(&Kvm) -> Result<CpuId>) -> Result<()> {
        let cpuid = cpuid(self.guest.kvm())?;
        self.vcpu.fd().set_cpuid2(&cpuid).context("KVM_SET_CPUID2")
    }
}

fn again() -> Result<()> {
    let setup = prepare()?;
    setup.set_cpuid(cpuid::with_pair)?;
    let pair = setup.vcpu.pair()?;
    note!("set {KNOWN}, after KVM_SET_CPUID2 {pair}");
    ensure!(pair == KNOWN, "KVM_SET_CPUID2 changed the pair");

    // After the first KVM_RUN, KVM only accepts what is already set.
    setup.vcpu.set_halted(false)?;
    let mut setup = setup;
    setup.vcpu.resume()?;
    setup.vcpu.set_halted(true)?;
    let ran = setup.vcpu.pair()?;
    setup.set_cpuid(cpuid::with_pair)?;
    let pair = setup.vcpu.pair()?;
    note!("ran to {ran}, after KVM_SET_CPUID2 {pair}");
    ensure!(pair == ran, "KVM_SET_CPUID2 after KVM_RUN changed the pair");
    Ok(())
}

fn cleared_and_set() -> Result<()> {
    let setup = prepare()?;
    setup.set_cpuid(cpuid::without_pair)?;
    for msr in [MSR_IA32_APERF, MSR_IA32_MPERF] {
        let value = setup.vcpu.msr(msr)?;
        ensure!(
            value.is_none_or(|value| value == 0),
            "without the bit, KVM_GET_MSRS of {msr:#x} found {value:?}"
        );
    }

    setup.set_cpuid(cpuid::with_pair)?;
    let pair = setup.vcpu.pair()?;
    note!("set {KNOWN}, cleared and set the bit: {pair}");
    ensure!(pair == Pair::default(), "the pair does not start at zero");
    watch("halted before the bit was set", &setup.vcpu)?.expect_still()?;

    setup.vcpu.set_halted(false)?;
    watch("RUNNABLE", &setup.vcpu)?.expect_c0()
}

/// The values of a vCPU that is in C0 when the bit is set.
fn set_in_c0() -> Result<()> {
    let setup = prepare()?;
    setup.vcpu.set_halted(false)?;
    setup.set_cpuid(cpuid::without_pair)?;
    let start = cpu::tsc();
    setup.set_cpuid(cpuid::with_pair)?;
    let pair = setup.vcpu.pair()?;
    let elapsed = cpu::tsc() - start;

    note!("set in C0: {pair}, TSC {elapsed}");
    ensure!(pair.aperf == 0, "APERF does not start at zero");
    ensure!(pair.mperf <= elapsed, "MPERF does not start at zero");
    watch("RUNNABLE", &setup.vcpu)?.expect_c0()
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("KVM_SET_CPUID2 with the bit keeps the values", again),
        (
            "clearing and setting the bit starts at zero",
            cleared_and_set,
        ),
        ("setting the bit in C0 starts MPERF at zero", set_in_c0),
    ])
}

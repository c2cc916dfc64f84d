// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule guest-mperf, and a HLT that user space handles: without an interrupt
//! controller in KVM, HLT leaves KVM_RUN with KVM_EXIT_HLT, and MP_STATE stays
//! RUNNABLE. The vCPU is not in C0 all the same, until it really runs again.
//!
//! Bounds: exact while halted. What the guest sees of HLT is the way out of
//! KVM_RUN and back in, fewer than 15,000 instructions at up to 4 ticks; measured
//! are 1,600 to 2,500 ticks.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::cpu::Alone;
use harness::guest::{Guest, Vcpu};
use harness::module::Module;
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::watch::watch;
use harness::{Pair, cpu, guest_code, ktap, note, oracle};
use kvm_ioctls::VcpuExit;

const C0_BOUND: u64 = 60_000;

guest_code! {
    /// Halts. TSC and pair before are in R10, R8 and R9, and after in R13, R11
    /// and R12.
    halt:
        "rdtsc64 r10"
        "rdpair r8, r9"
        "hlt"
        "rdtsc64 r13"
        "rdpair r11, r12"
        "exit"
}

struct Setup {
    vcpu: Vcpu,
    _guest: Guest,
    _ratio: Ratio,
    _module: Module,
    _alone: Alone,
}

/// A vCPU in HLT.
fn prepare() -> Result<Setup> {
    oracle::require()?;
    let alone = Alone::on(0)?;
    let module = Module::loaded()?;
    let ratio = Ratio::set(THIS_CPU, RATIO_ONE);
    let guest = Guest::new(halt())?;
    let mut vcpu = guest.vcpu(0)?;
    let exit = vcpu.fd_mut().run()?;
    ensure!(matches!(exit, VcpuExit::Hlt), "{exit:?}, not KVM_EXIT_HLT");
    Ok(Setup {
        vcpu,
        _guest: guest,
        _ratio: ratio,
        _module: module,
        _alone: alone,
    })
}

fn until_kvm_run() -> Result<()> {
    let Setup { vcpu, .. } = &mut prepare()?;
    watch("halted", vcpu)?.expect_still()?;
    let halted = vcpu.pair()?;

    let start = cpu::tsc();
    let regs = vcpu.run()?;
    let elapsed = cpu::tsc() - start;
    ensure!(regs.r15 == 0, "{} reads faulted", regs.r15);

    let after = Pair {
        aperf: regs.r11,
        mperf: regs.r12,
    };
    let before = Pair {
        aperf: regs.r8,
        mperf: regs.r9,
    };
    note!(
        "the guest sees {} over HLT, TSC {}",
        after - before,
        regs.r13 - regs.r10
    );
    ensure!((after - before).mperf <= C0_BOUND, "MPERF advanced in HLT");
    ensure!(
        (1..=elapsed).contains(&(after - halted).mperf)
            && (1..=elapsed).contains(&(after - halted).aperf),
        "KVM_RUN is not where the pair goes on"
    );
    watch("after HLT", vcpu)?.expect_c0()
}

/// A KVM_RUN that returns at once only completes I/O. The guest still sleeps.
fn not_by_immediate_exit() -> Result<()> {
    let Setup { vcpu, .. } = &mut prepare()?;
    let halted = vcpu.pair()?;

    vcpu.fd_mut().set_kvm_immediate_exit(1);
    let error = vcpu.fd_mut().run().err().map(|error| error.errno());
    vcpu.fd_mut().set_kvm_immediate_exit(0);
    ensure!(error == Some(libc::EINTR), "KVM_RUN: {error:?}, not EINTR");

    watch("halted, after an immediate exit", vcpu)?.expect_still()?;
    let advance = vcpu.pair()? - halted;
    ensure!(
        advance == Pair::default(),
        "an immediate exit moved the pair by {advance}"
    );

    vcpu.resume()?;
    watch("after HLT", vcpu)?.expect_c0()
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("KVM_EXIT_HLT leaves C0 until KVM_RUN", until_kvm_run),
        ("an immediate exit does not wake", not_by_immediate_exit),
    ])
}

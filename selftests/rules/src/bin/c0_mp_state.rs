// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule guest-mperf, and the C0 that KVM_SET_MP_STATE sets: MPERF of a vCPU that
//! does not run counts in KVM_MP_STATE_RUNNABLE, and in no other state. APERF
//! counts in none.
//!
//! Bounds: outside of C0 exact, over changes of state too. In C0, MPERF lies
//! between what the TSC advanced inside and around the two system calls.
//!
//! KVM puts vCPUs of SEV-ES guests into AP_RESET_HOLD by itself, at their
//! request. No emulated CPU has SEV-ES; here the state comes from user space.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::guest::{Guest, Vcpu};
use harness::module::Module;
use harness::watch::watch;
use harness::{Pair, cpu, guest_code, ktap, note};
use kvm_bindings::{
    KVM_MP_STATE_AP_RESET_HOLD, KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED,
};

const NOT_C0: [(u32, &str); 4] = [
    (KVM_MP_STATE_HALTED, "HALTED"),
    (KVM_MP_STATE_UNINITIALIZED, "UNINITIALIZED"),
    (KVM_MP_STATE_INIT_RECEIVED, "INIT_RECEIVED"),
    (KVM_MP_STATE_AP_RESET_HOLD, "AP_RESET_HOLD"),
];

guest_code! {
    only_exit:
        "2:"
        "exit"
        "jmp 2b"
}

struct Setup {
    vcpu: Vcpu,
    _guest: Guest,
    _module: Module,
}

/// A vCPU that has run, so that its pair is anything but zero.
fn prepare() -> Result<Setup> {
    cpu::pin(0)?;
    let module = Module::loaded()?;
    let guest = Guest::with_irqchip(only_exit())?;
    let mut vcpu = guest.vcpu(0)?;
    vcpu.run()?;
    Ok(Setup {
        vcpu,
        _guest: guest,
        _module: module,
    })
}

fn every_state() -> Result<()> {
    let Setup { vcpu, .. } = &prepare()?;
    for (state, name) in NOT_C0 {
        vcpu.set_mp_state(state)?;
        watch(name, vcpu)?.expect_still()?;
        vcpu.set_mp_state(KVM_MP_STATE_RUNNABLE)?;
        watch("RUNNABLE", vcpu)?.expect_c0()?;
    }
    Ok(())
}

/// No state between two others is C0.
fn state_to_state() -> Result<()> {
    let Setup { vcpu, .. } = &prepare()?;
    vcpu.set_mp_state(KVM_MP_STATE_HALTED)?;
    let before = vcpu.pair()?;
    for (from, _) in NOT_C0 {
        for (to, _) in NOT_C0 {
            vcpu.set_mp_state(from)?;
            vcpu.set_mp_state(to)?;
        }
    }
    let advance = vcpu.pair()? - before;
    note!("from each state to each other: {advance}");
    ensure!(
        advance == Pair::default(),
        "the pair advanced on the way from one state to another"
    );
    Ok(())
}

fn get_changes_nothing() -> Result<()> {
    let Setup { vcpu, .. } = &prepare()?;
    for (state, name) in NOT_C0 {
        vcpu.set_mp_state(state)?;
        let before = vcpu.pair()?;
        let read = vcpu.mp_state()?;
        ensure!(read == state, "set {name}, got {read}");
        ensure!(vcpu.pair()? == before, "KVM_GET_MP_STATE moved the pair");
        watch(name, vcpu)?.expect_still()?;
    }

    vcpu.set_mp_state(KVM_MP_STATE_RUNNABLE)?;
    let before = vcpu.pair()?;
    let start = cpu::tsc();
    for _ in 0..10 {
        vcpu.mp_state()?;
    }
    let least = cpu::tsc() - start;
    let advance = vcpu.pair()? - before;
    note!("RUNNABLE, asked 10 times in {least} ticks: {advance}");
    ensure!(advance.aperf == 0, "KVM_GET_MP_STATE moved APERF");
    ensure!(advance.mperf >= least, "KVM_GET_MP_STATE lost MPERF");
    watch("RUNNABLE", vcpu)?.expect_c0()
}

/// SIPI_RECEIVED is a SIPI that is still to come. KVM_GET_MP_STATE has it come.
fn sipi_received() -> Result<()> {
    let Setup { vcpu, .. } = &prepare()?;
    vcpu.set_mp_state(KVM_MP_STATE_SIPI_RECEIVED)?;
    watch("SIPI_RECEIVED", vcpu)?.expect_still()?;
    let state = vcpu.mp_state()?;
    ensure!(state == KVM_MP_STATE_RUNNABLE, "a SIPI led to {state}");
    watch("after the SIPI", vcpu)?.expect_c0()
}

fn main() -> ExitCode {
    ktap::run(&[
        ("only RUNNABLE is C0", every_state),
        ("no C0 between two states", state_to_state),
        ("KVM_GET_MP_STATE changes nothing", get_changes_nothing),
        ("SIPI_RECEIVED is C0 after the SIPI", sipi_received),
    ])
}

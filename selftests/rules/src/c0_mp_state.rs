// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule guest-mperf, and the C0 that KVM_SET_MP_STATE sets: MPERF of a vCPU that
//! does not run counts in KVM_MP_STATE_RUNNABLE, and in no other state. APERF
//! counts in none.
//!
//! Bounds: outside of C0 exact, over changes of state too. In C0, MPERF lies
//! between what the TSC advanced inside and around the two system calls.
//!
//! KVM puts vCPUs of SEV-ES guests into AP_RESET_HOLD by itself, at their
//! request, and has an interrupt end that inside KVM_RUN. No emulated CPU has SEV-ES; here
//! the state comes from user space. What is C0 of that KVM_RUN is the way into the guest,
//! fewer than 15,000 instructions at up to 4 ticks.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::guest::{Guest, MSI_NMI, Vcpu};
use harness::module::Module;
use harness::watch::watch;
use harness::{ONE_SWITCH, Pair, cpu, guest_code, kernel, ktap, note, oracle};
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
    guest: Guest,
    _module: Module,
}

/// A vCPU that has run, so that its pair is anything but zero.
fn prepare() -> Result<Setup> {
    prepare_with(only_exit())
}

fn prepare_with(code: &[u8]) -> Result<Setup> {
    cpu::pin(0)?;
    let module = Module::loaded()?;
    let guest = Guest::with_irqchip(code)?;
    let mut vcpu = guest.vcpu(0)?;
    vcpu.run()?;
    Ok(Setup {
        vcpu,
        guest,
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

guest_code! {
    /// Exits once, so that all pages are there. Then reads MPERF to R9, and after a while,
    /// which is 100,000 ticks, to R12, with TSCs around these reads in R10, R11, R13 and R14.
    look_twice:
        "exit"
        "look"
        "mov rsi, r10"
        "mov rdi, r11"
        "mov r12, r9"
        "burn 100000"
        "look"
        "exit"
}

/// How long the vCPU waits inside KVM_RUN, in a usual kernel.
const HOLD_MS: u64 = 3;

/// From an NMI that ends AP_RESET_HOLD to the guest's first look, in ticks.
const WAY_IN: u64 = 60_000;

/// An NMI ends AP_RESET_HOLD inside KVM_RUN: that is where C0 begins.
fn hold_ends_inside_run() -> Result<()> {
    let machine = oracle::require()?;
    let Setup { vcpu, guest, .. } = &mut prepare_with(look_twice())?;
    vcpu.set_mp_state(KVM_MP_STATE_AP_RESET_HOLD)?;
    let before = vcpu.pair()?;
    let offset = vcpu.tsc_offset()?;
    let hold_ms = kernel::cost(HOLD_MS);
    let start = cpu::tsc();
    let regs = thread::scope(|scope| {
        let runner = scope.spawn(|| vcpu.run());
        thread::sleep(Duration::from_millis(hold_ms));
        guest.signal_msi(MSI_NMI)?;
        runner.join().unwrap()
    })?;

    ensure!(regs.r15 == 0, "{} reads faulted", regs.r15);
    // Of the first look: MPERF, and the TSC before and after it was read.
    let (mperf, tsc) = (regs.r12, (regs.rsi, regs.rdi));
    let held = tsc.0.wrapping_sub(offset) - start;
    let c0 = mperf - before.mperf;
    let advance = regs.r9 - mperf;
    let elapsed = (regs.r10 - tsc.1, regs.r11 - tsc.0);
    note!(
        "held for {held} ticks, of which {c0} are in MPERF; it advanced by {advance} then, the TSC by {elapsed:?}"
    );
    let least = machine.tsc_hz / 1000 * hold_ms;
    ensure!(held >= least * 2 / 3, "the vCPU did not wait");
    // The threads of interrupts may have their turn before the vCPU's.
    let way_in = if kernel::is_realtime()? {
        least / 4
    } else {
        kernel::cost(WAY_IN)
    };
    ensure!(
        (1..=way_in).contains(&c0),
        "MPERF does not stand still while the vCPU waits, or not run when it does not"
    );
    ensure!(
        (elapsed.0 - ONE_SWITCH..=elapsed.1 + ONE_SWITCH).contains(&advance),
        "MPERF does not keep to the TSC once the vCPU runs"
    );
    watch("after AP_RESET_HOLD", vcpu)?.expect_c0()
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("only RUNNABLE is C0", every_state),
        ("no C0 between two states", state_to_state),
        ("KVM_GET_MP_STATE changes nothing", get_changes_nothing),
        ("SIPI_RECEIVED is C0 after the SIPI", sipi_received),
        ("AP_RESET_HOLD ends inside KVM_RUN", hold_ends_inside_run),
    ])
}

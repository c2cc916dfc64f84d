// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule guest-mperf, and a HLT that does not exit: KVM_X86_DISABLE_EXITS_HLT. On
//! VMX the vCPU then stays halted over VM exits, with MP_STATE RUNNABLE, and is
//! not in C0 while it is put in that state. SVM leaves HLT on #VMEXIT.
//!
//! Bounds: exact in user space. While the vCPU is loaded the hardware tells HLT
//! from C0, so that what the host's interrupts and switches take counts: each
//! host tick, 4 ms, less than 8,000 instructions at up to 4 ticks. Measured is
//! a hundredth of the time.

use std::hint;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use harness::cpu::Alone;
use harness::guest::{Guest, Vcpu};
use harness::ktap::Skip;
use harness::module::Module;
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::signal::Kick;
use harness::watch::watch;
use harness::{Pair, cpu, guest_code, kernel, ktap, note, oracle};
use kvm_bindings::{
    KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT, kvm_enable_cap, kvm_regs,
};

/// The guest halts for so long.
const HALT_MS: u64 = 40;

/// Of a guest that has its CPU to itself, one tick in this many is of C0.
const ALONE_SHARE: u64 = 25;

/// Of one that does not, as it may wait for its CPU before HLT and after it, each
/// time for a slice of the scheduler, 4 ms.
const SHARED_SHARE: u64 = 4;

guest_code! {
    /// Exits once, so that all pages are there. Then halts until the APIC timer
    /// fires, RDI of its ticks later. TSC and pair before are in R10, R8 and R9,
    /// and after in R13, R11 and R12.
    halt_once:
        "cli"
        "exit"
        "timer_one_shot"
        "rdtsc64 r10"
        "rdpair r8, r9"
        "sleep rdi"
        "rdtsc64 r13"
        "rdpair r11, r12"
        "exit"
}

fn require_vmx() -> Result<()> {
    if cpu::is_amd() {
        bail!(Skip("SVM leaves HLT on #VMEXIT".into()));
    }
    Ok(())
}

struct Setup {
    vcpu: Vcpu,
    _guest: Guest,
    _ratio: Ratio,
    _module: Module,
}

/// A pair that is passed through, and one that is not.
const LOW: Pair = Pair { aperf: 0, mperf: 0 };
const HIGH: Pair = Pair {
    aperf: 1 << 62,
    mperf: 1 << 62,
};

/// A vCPU whose pair starts from `start`.
fn prepare(start: Pair) -> Result<Setup> {
    oracle::require()?;
    cpu::pin(0)?;
    let module = Module::loaded()?;
    let ratio = Ratio::set(THIS_CPU, RATIO_ONE);

    let guest = Guest::with_irqchip(halt_once())?;
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_X86_DISABLE_EXITS,
        ..Default::default()
    };
    cap.args[0] = KVM_X86_DISABLE_EXITS_HLT.into();
    guest
        .vm()
        .enable_cap(&cap)
        .context("KVM_CAP_X86_DISABLE_EXITS")?;

    let mut vcpu = guest.vcpu(0)?;
    vcpu.resume()?;
    vcpu.set_argument(HALT_MS * 1_000_000)?;
    vcpu.set_pair(start)?;
    Ok(Setup {
        vcpu,
        _guest: guest,
        _ratio: ratio,
        _module: module,
    })
}

/// Has a signal end KVM_RUN when the guest has halted for long.
fn run_into_hlt(vcpu: &mut Vcpu) -> Result<Alone> {
    let alone = Alone::on(0)?;
    let kick = Kick::new()?;
    kick.after(HALT_MS * 1000 / 4);
    let error = vcpu.fd_mut().run().err().map(|error| error.errno());
    ensure!(error == Some(libc::EINTR), "KVM_RUN: {error:?}, not EINTR");
    Ok(alone)
}

/// What the guest sees of its HLT, from which an interrupt must have woken it.
fn expect_halt(vcpu: &mut Vcpu, share: u64) -> Result<()> {
    let regs = vcpu.run()?;
    ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);
    let advance = Pair {
        aperf: regs.r11,
        mperf: regs.r12,
    } - Pair {
        aperf: regs.r8,
        mperf: regs.r9,
    };
    let elapsed = regs.r13 - regs.r10;
    let halted = oracle::require()?.tsc_hz / 1000 * HALT_MS;
    note!("the guest sees {advance} over HLT, TSC {elapsed}");
    ensure!(elapsed >= halted, "the guest did not halt");
    let awake = kernel::cost(elapsed / share);
    ensure!(
        advance.mperf <= awake && advance.aperf <= awake,
        "the pair advanced in HLT"
    );
    Ok(())
}

fn put_by_signal(start: Pair) -> Result<()> {
    require_vmx()?;
    let Setup { vcpu, .. } = &mut prepare(start)?;
    let _alone = run_into_hlt(vcpu)?;
    watch("in HLT, in user space", vcpu)?.expect_still()?;
    expect_halt(vcpu, ALONE_SHARE)?;
    watch("after HLT", vcpu)?.expect_c0()
}

/// KVM_SET_MP_STATE ends a HLT that only the hardware knows of.
fn ended_by_user_space() -> Result<()> {
    require_vmx()?;
    let Setup { vcpu, .. } = &mut prepare(LOW)?;
    let _alone = run_into_hlt(vcpu)?;

    vcpu.set_halted(false)?;
    watch("made RUNNABLE", vcpu)?.expect_c0()
}

fn put_by_scheduler() -> Result<()> {
    require_vmx()?;
    let Setup { vcpu, .. } = &mut prepare(LOW)?;
    let done = AtomicBool::new(false);

    let switches = cpu::thread_switches();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                hint::spin_loop();
            }
        });
        let result = expect_halt(vcpu, SHARED_SHARE);
        done.store(true, Relaxed);
        result
    })?;
    let switches = cpu::thread_switches() - switches;
    note!("switches of the vCPU's thread: {switches}");
    ensure!(switches > 1, "the vCPU was not preempted");
    Ok(())
}

/// What the host's tick and the way into HLT may take, at up to 4 ticks each.
const TICK_BOUND: u64 = 4 * 8000;

/// How often an early interrupt may come instead.
const TRIES: usize = 4;

/// Where reads exit, the pair advances with the host's, and so not in HLT.
fn left_by_exit_intercepted() -> Result<()> {
    if !cpu::is_amd() {
        bail!(Skip("VMX stays in HLT over VM exits".into()));
    }
    let mut regs = kvm_regs::default();
    let mut elapsed = 0;
    // Any interrupt of the host ends the HLT, sometimes one soon after the tick.
    for _ in 0..TRIES {
        let Setup { vcpu, .. } = &mut prepare(HIGH)?;
        let alone = Alone::on(0)?;
        kernel::wait_for_tick(&alone);
        regs = vcpu.run()?;
        elapsed = regs.r13 - regs.r10;
        if elapsed > 4 * TICK_BOUND {
            break;
        }
    }
    let advance = regs.r12 - regs.r9;
    note!("MPERF advanced by {advance} over HLT, TSC {elapsed}");
    ensure!(regs.r8 >= HIGH.aperf, "the guest did not read its pair");
    let awake = kernel::cost(TICK_BOUND);
    ensure!(elapsed > 4 * TICK_BOUND, "the guest did not halt");
    ensure!(advance <= awake.min(elapsed / 4), "MPERF advanced in HLT");
    Ok(())
}

/// SVM has a vCPU go on after HLT at the host's next interrupt, too early.
fn left_by_exit() -> Result<()> {
    if !cpu::is_amd() {
        bail!(Skip("VMX stays in HLT over VM exits".into()));
    }
    let Setup { vcpu, .. } = &mut prepare(LOW)?;
    let regs = vcpu.run()?;
    let elapsed = regs.r13 - regs.r10;
    let halted = oracle::require()?.tsc_hz / 1000 * HALT_MS;
    note!("out of HLT after {elapsed} of {halted} ticks");
    ensure!(elapsed < halted, "the vCPU stayed halted");
    watch("after HLT", vcpu)?.expect_c0()
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("KVM_RUN returns during HLT", || put_by_signal(LOW)),
        ("KVM_RUN returns during HLT, reads exit", || {
            put_by_signal(HIGH)
        }),
        ("KVM_SET_MP_STATE ends HLT", ended_by_user_space),
        ("another task preempts the vCPU in HLT", put_by_scheduler),
        ("a VM exit ends HLT", left_by_exit),
        ("a VM exit ends HLT, reads exit", left_by_exit_intercepted),
    ])
}

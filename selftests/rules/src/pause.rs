// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A VMM that has paused its guest says so by KVM_KVMCLOCK_CTRL: MPERF then loses
//! what it advanced since the vCPU was put, and nothing else. Without the ioctl
//! a pause counts, as any time without a CPU.
//!
//! Bounds: exact for a pause between two KVM_SET_MP_STATE. For one that
//! begins with the end of KVM_RUN, what the guest and the system calls take, at
//! ratio 1.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::cpu::Alone;
use harness::guest::{Guest, Vcpu};
use harness::module::Module;
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::watch::watch;
use harness::{ONE_SWITCH, Pair, cpu, guest_code, ktap, note, oracle};

const PAUSE_TICKS: u64 = 2_000_000;

/// From a guest's reading to the end of KVM_RUN, and the other way: fewer than
/// 15,000 instructions each at up to 4 ticks, and a tick of the host. Measured
/// are 3,000 to 5,000 ticks in all.
const C0_BOUND: u64 = 150_000;

guest_code! {
    read_on_each_run:
        "2:"
        "rdtsc64 r10"
        "rdpair r8, r9"
        "exit"
        "jmp 2b"
}

struct Setup {
    vcpu: Vcpu,
    _guest: Guest,
    _ratio: Ratio,
    _module: Module,
    _alone: Alone,
}

fn prepare() -> Result<Setup> {
    oracle::require()?;
    let alone = Alone::on(0)?;
    let module = Module::loaded()?;
    let ratio = Ratio::set(THIS_CPU, RATIO_ONE);
    let guest = Guest::with_irqchip(read_on_each_run())?;
    let mut vcpu = guest.vcpu(0)?;
    vcpu.run()?;
    Ok(Setup {
        vcpu,
        _guest: guest,
        _ratio: ratio,
        _module: module,
        _alone: alone,
    })
}

/// KVM_KVMCLOCK_CTRL, which fails as this guest has no kvmclock to be told.
fn tell_of_pause(vcpu: &Vcpu) -> Result<()> {
    let error = vcpu.fd().kvmclock_ctrl().err().map(|error| error.errno());
    ensure!(
        error == Some(libc::EINVAL),
        "KVM_KVMCLOCK_CTRL: {error:?}, not EINVAL"
    );
    Ok(())
}

/// TSC and pair, as the guest reads them.
fn sample(vcpu: &mut Vcpu) -> Result<(u64, Pair)> {
    let regs = vcpu.run()?;
    ensure!(regs.r15 == 0, "{} reads faulted", regs.r15);
    let pair = Pair {
        aperf: regs.r8,
        mperf: regs.r9,
    };
    Ok((regs.r10, pair))
}

fn exact() -> Result<()> {
    const KNOWN: Pair = Pair {
        aperf: 3 << 40,
        mperf: 5 << 40,
    };
    let Setup { vcpu, .. } = &prepare()?;
    vcpu.set_halted(true)?;
    vcpu.set_pair(KNOWN)?;
    vcpu.set_halted(false)?;
    cpu::spin(PAUSE_TICKS);
    vcpu.set_halted(true)?;
    let paused = vcpu.pair()? - KNOWN;
    ensure!(paused.mperf >= PAUSE_TICKS, "MPERF stood still before");

    for call in 1..=3 {
        tell_of_pause(vcpu)?;
        let left = vcpu.pair()? - KNOWN;
        note!("call {call}: {paused} became {left}");
        ensure!(left == Pair::default(), "call {call} leaves {left}");
    }
    Ok(())
}

/// A vCPU that is not halted goes on from there.
fn goes_on() -> Result<()> {
    let Setup { vcpu, .. } = &prepare()?;
    cpu::spin(PAUSE_TICKS);
    tell_of_pause(vcpu)?;
    watch("told of a pause", vcpu)?.expect_c0()
}

/// What the guest sees of a pause, with and without the ioctl.
fn seen_by_guest(told: bool) -> Result<()> {
    let Setup { vcpu, .. } = &mut prepare()?;
    let (tsc_before, before) = sample(vcpu)?;
    cpu::spin(PAUSE_TICKS);
    if told {
        tell_of_pause(vcpu)?;
    }
    let (tsc_after, after) = sample(vcpu)?;

    let (tsc, advance) = (tsc_after - tsc_before, after - before);
    note!("{advance}, TSC {tsc}");
    ensure!(tsc >= PAUSE_TICKS, "there was no pause");
    ensure!(
        (1..=C0_BOUND).contains(&advance.aperf),
        "APERF advanced in the pause"
    );
    if told {
        ensure!(
            (1..=C0_BOUND).contains(&advance.mperf),
            "the pause is in MPERF"
        );
        ensure!(
            advance.mperf + ONE_SWITCH >= advance.aperf,
            "MPERF lost more than the pause"
        );
    } else {
        ensure!(
            advance.mperf.abs_diff(tsc) <= ONE_SWITCH,
            "the pause is not in MPERF"
        );
    }
    Ok(())
}

/// A VM that runs loses nothing: neither what it ran before, nor between calls.
fn without_pause() -> Result<()> {
    const RUNS: u64 = 100;
    let Setup { vcpu, .. } = &mut prepare()?;
    let (tsc_before, before) = sample(vcpu)?;
    let (mut tsc, mut last) = (tsc_before, before);
    for _ in 0..RUNS {
        tell_of_pause(vcpu)?;
        let (now, pair) = sample(vcpu)?;
        ensure!(
            pair.mperf > last.mperf && pair.aperf > last.aperf,
            "the pair ran backwards"
        );
        (tsc, last) = (now, pair);
    }

    let (tsc, advance) = (tsc - tsc_before, last - before);
    note!("{RUNS} calls: {advance}, TSC {tsc}");
    ensure!(
        advance.mperf + RUNS * ONE_SWITCH >= advance.aperf,
        "MPERF lost time of KVM_RUN"
    );
    ensure!(advance.mperf <= tsc, "MPERF outran the TSC");
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("KVM_KVMCLOCK_CTRL drops a pause exactly, once", exact),
        ("MPERF goes on after it", goes_on),
        ("without it, a pause counts", || seen_by_guest(false)),
        ("with it, a pause does not count", || seen_by_guest(true)),
        ("a guest that runs loses nothing", without_pause),
    ])
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Intercepted mode for high values: a guest may set its counters to anything, and
//! sees what the SDM promises, "Hardware Coordination Feedback": when either
//! overflows, both restart at zero, and reads no longer exit. The host's MSRs see none
//! of it.
//!
//! Bounds: the guest's values go on from what was set by at most what the TSC
//! advanced since, at ratio 1. Back in user space, the MSRs hold the host pair but for
//! one switch.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use harness::cpu::Alone;
use harness::guest::{Guest, Vcpu};
use harness::module::Module;
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::pair::{MSR_IA32_APERF, MSR_IA32_MPERF};
use harness::{ONE_SWITCH, Pair, cpu, guest_code, kernel, ktap, note, oracle};
use kvm_bindings::kvm_regs;

/// From here on, values are not loaded.
const HIGH: u64 = 1 << 62;

/// Far enough from the end for a test to be over before it.
const ALMOST: u64 = u64::MAX - (1 << 32);

const fn pair(aperf: u64, mperf: u64) -> Pair {
    Pair { aperf, mperf }
}

/// What the guest takes before it reads, in ticks.
const BURN: u64 = 20_000;

const LOW: Pair = pair(1 << 40, 1 << 41);

const HIGH_PAIRS: [Pair; 6] = [
    pair(HIGH, 0),
    pair(0, HIGH),
    pair(1 << 63, 5),
    pair(HIGH / 2, 1 << 63),
    pair(ALMOST, 1 << 40),
    pair(ALMOST, ALMOST),
];

guest_code! {
    /// Sets the pair to RDI and RSI unless R14 is set, takes R8 ticks, and
    /// reads to R8 and R9, with event RBP counted in R12 before and R13 after. What
    /// the MSRs hold then is in R10 and R11.
    set_and_read:
        "2:"
        "test r14, r14"
        "jnz 3f"
        "wrmsr64 0xe8, rdi"
        "wrmsr64 0xe7, rsi"
        "3:"
        "burn64 r8"
        "mov rbx, -1"
        "mov rdx, rbp"
        "oracle 2"
        "mov r12, rax"
        "rdpair r8, r9"
        "mov rbx, -1"
        "mov rdx, rbp"
        "oracle 2"
        "mov r13, rax"
        "mov rbx, -1"
        "oracle 1"
        "mov r10, rcx"
        "mov r11, rdx"
        "exit"
        "jmp 2b"
}

/// What a guest found, and how long it was at it, in ticks.
struct Found {
    pair: Pair,
    exits: u64,
    /// What the MSRs held while the guest ran.
    hardware: Pair,
    elapsed: u64,
}

/// Runs the guest once; it sets its pair if there is one to set.
fn run(vcpu: &mut Vcpu, set: Option<Pair>) -> Result<Found> {
    let Pair { aperf, mperf } = set.unwrap_or_default();
    let regs = kvm_regs {
        rdi: aperf,
        rsi: mperf,
        rbp: cpu::exits().rdmsr,
        r8: kernel::cost(BURN),
        r14: u64::from(set.is_none()),
        ..vcpu.regs()?
    };
    vcpu.fd().set_regs(&regs).context("KVM_SET_REGS")?;

    let start = cpu::tsc();
    let regs = vcpu.run()?;
    let elapsed = cpu::tsc() - start;
    ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);
    Ok(Found {
        pair: pair(regs.r8, regs.r9),
        exits: regs.r13 - regs.r12,
        hardware: pair(regs.r10, regs.r11),
        elapsed,
    })
}

impl Found {
    fn expect_advance(&self, from: Pair) -> Result<()> {
        let advance = self.pair - from;
        let (elapsed, exits) = (self.elapsed, self.exits);
        note!("from {from}: {advance}, TSC {elapsed}, {exits} exits");
        for ticks in [advance.aperf, advance.mperf] {
            ensure!(
                (kernel::cost(BURN)..=elapsed).contains(&ticks),
                "the guest's pair does not go on from what was set"
            );
        }
        Ok(())
    }

    fn expect_intercepted(&self) -> Result<()> {
        ensure!(self.exits == 2, "two reads took {} exits", self.exits);
        ensure!(
            self.hardware.aperf < HIGH && self.hardware.mperf < HIGH,
            "the MSRs hold {}",
            self.hardware
        );
        Ok(())
    }

    fn expect_passed_through(&self) -> Result<()> {
        ensure!(self.exits == 0, "low values took {} exits", self.exits);
        Ok(())
    }
}

fn expect_host_unharmed() -> Result<()> {
    let truth = oracle::truth(THIS_CPU);
    let error = truth.hardware.distance(truth.host);
    ensure!(error <= ONE_SWITCH, "the host pair is off by {error} ticks");
    Ok(())
}

fn prepare() -> Result<(Module, Ratio, Guest)> {
    oracle::require()?;
    cpu::pin(0)?;
    Ok((
        Module::loaded()?,
        Ratio::set(THIS_CPU, RATIO_ONE),
        Guest::with_irqchip(set_and_read())?,
    ))
}

fn written_by_guest() -> Result<()> {
    let (_module, _ratio, guest) = prepare()?;
    let mut vcpu = guest.vcpu(0)?;
    for pair in HIGH_PAIRS {
        let found = run(&mut vcpu, Some(pair))?;
        found.expect_advance(pair)?;
        found.expect_intercepted()?;

        let found = run(&mut vcpu, Some(LOW))?;
        found.expect_advance(LOW)?;
        found.expect_passed_through()?;
        expect_host_unharmed()?;
    }
    Ok(())
}

/// Sets `pair` while the vCPU is halted, so that nothing advances, and runs it.
fn set_and_run(vcpu: &mut Vcpu, pair: Pair) -> Result<Found> {
    vcpu.set_halted(true)?;
    vcpu.set_msr(MSR_IA32_APERF, pair.aperf)?;
    vcpu.set_msr(MSR_IA32_MPERF, pair.mperf)?;
    ensure!(vcpu.pair()? == pair, "KVM_GET_MSRS returns something else");

    let start = cpu::tsc();
    vcpu.set_halted(false)?;
    let found = run(vcpu, None)?;
    let elapsed = cpu::tsc() - start;
    Ok(Found { elapsed, ..found })
}

fn set_by_user_space() -> Result<()> {
    let (_module, _ratio, guest) = prepare()?;
    let mut vcpu = guest.vcpu(0)?;
    for pair in HIGH_PAIRS {
        let found = set_and_run(&mut vcpu, pair)?;
        found.expect_advance(pair)?;
        found.expect_intercepted()?;

        let found = set_and_run(&mut vcpu, LOW)?;
        found.expect_advance(LOW)?;
        found.expect_passed_through()?;
        expect_host_unharmed()?;
    }
    Ok(())
}

/// Lets the one or the other overflow while the guest runs. The read that finds it is
/// the last one to exit.
fn overflow() -> Result<()> {
    let (_module, _ratio, guest) = prepare()?;
    // Not before both counters are written, between which the host's tick may not come.
    let alone = Alone::on(0)?;
    let near = u64::MAX - kernel::cost(BURN / 2);
    let mut vcpu = guest.vcpu(0)?;
    for pair in [pair(near, 1 << 40), pair(1 << 40, near), pair(near, near)] {
        kernel::wait_for_tick(&alone);
        let found = run(&mut vcpu, Some(pair))?;
        note!("from {pair}: {}, TSC {}", found.pair, found.elapsed);
        ensure!(found.pair.aperf <= found.elapsed, "APERF did not restart");
        ensure!(found.pair.mperf <= found.elapsed, "MPERF did not restart");
        ensure!(
            found.exits == 1,
            "the first read finds low values; both took {} exits",
            found.exits
        );

        let next = run(&mut vcpu, None)?;
        next.expect_passed_through()?;
        ensure!(next.pair.aperf > found.pair.aperf, "APERF stands still");
        ensure!(next.pair.mperf > found.pair.mperf, "MPERF stands still");
        expect_host_unharmed()?;
    }
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("a guest writes high values", written_by_guest),
        ("KVM_SET_MSRS sets high values", set_by_user_space),
        ("an overflow restarts the guest's pair", overflow),
        (
            "the scheduler's frequency invariance stays on",
            kernel::expect_frequency_invariance,
        ),
    ])
}

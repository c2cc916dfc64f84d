// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule guest-mperf, and the C0 that it speaks of: a halted vCPU's pair stands
//! still, for as long as KVM says that it is halted.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::guest::Guest;
use harness::module::Module;
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::{Pair, cpu, guest_code, kernel, ktap, note, oracle};

/// KVM's APIC bus ticks once a nanosecond.
const APIC_HZ: u64 = 1_000_000_000;

/// What is C0 in each HLT with its wake-up: the exit for starting the timer,
/// the one for HLT, and the way back from the wake-up to the guest. All that
/// takes less than 30,000 instructions, even the first time.
const C0_BOUND: u64 = 30_000;

/// User space's time between two system calls and on their way in and out.
const SYSCALL_BOUND: u64 = 10_000;

guest_code! {
    /// Halts as often as the upper half of RDI says, for as many ticks of the
    /// APIC timer as the lower half says. TSC and pair before are in R10, R8
    /// and R9, and after in R13, R11 and R12.
    halt_often:
        "cli"
        "timer_one_shot"
        "mov rsi, rdi"
        "shr rsi, 32"
        "mov edi, edi"
        "rdtsc64 r10"
        "rdpair r8, r9"
        "2:"
        "sleep rdi"
        "dec rsi"
        "jnz 2b"
        "rdtsc64 r13"
        "rdpair r11, r12"
        "exit"
}

fn prepare() -> Result<(Module, Ratio)> {
    oracle::require()?;
    cpu::pin(0)?;
    Ok((Module::loaded()?, Ratio::set(THIS_CPU, RATIO_ONE)))
}

/// HLT in the guest, `times` for `microseconds` each.
fn halts(times: u64, microseconds: u64) -> Result<()> {
    let _setup = prepare()?;
    let machine = oracle::require()?;

    let guest = Guest::with_irqchip(halt_often())?;
    let mut vcpu = guest.vcpu(0)?;
    vcpu.set_argument((times << 32) | (microseconds * (APIC_HZ / 1_000_000)))?;
    let regs = vcpu.run()?;
    ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);

    let elapsed = regs.r13 - regs.r10;
    let halted = times * microseconds * (machine.tsc_hz / 1_000_000);
    let advance = Pair {
        aperf: regs.r11,
        mperf: regs.r12,
    } - Pair {
        aperf: regs.r8,
        mperf: regs.r9,
    };
    note!("{times} times {microseconds} us: {advance}, TSC {elapsed}");
    note!("a halt costs {} ticks of MPERF", advance.mperf / times);
    ensure!(elapsed >= halted, "the guest did not halt");
    ensure!(
        advance.mperf <= times * kernel::cost(C0_BOUND),
        "MPERF advanced in HLT"
    );
    ensure!(
        advance.aperf <= times * kernel::cost(C0_BOUND),
        "APERF advanced in HLT"
    );
    ensure!(
        advance.mperf > 0 && advance.aperf > 0,
        "the pair stands still for ever"
    );
    Ok(())
}

guest_code! {
    only_exit:
        "2:"
        "exit"
        "jmp 2b"
}

/// KVM_SET_MP_STATE, with no guest code in between.
fn mp_state() -> Result<()> {
    const SPIN_TICKS: u64 = 200_000;
    let _setup = prepare()?;

    let guest = Guest::with_irqchip(only_exit())?;
    let mut vcpu = guest.vcpu(0)?;
    vcpu.run()?;

    vcpu.set_halted(true)?;
    let before = vcpu.pair()?;
    cpu::spin(SPIN_TICKS);
    let halted = vcpu.pair()? - before;
    note!("halted for {SPIN_TICKS} ticks: {halted}");
    ensure!(
        halted == Pair::default(),
        "the pair of a halted vCPU advanced"
    );

    vcpu.set_halted(false)?;
    let before = vcpu.pair()?;
    cpu::spin(SPIN_TICKS);
    let runnable = vcpu.pair()? - before;
    note!("runnable for {SPIN_TICKS} ticks: {runnable}");
    ensure!(
        runnable.aperf == 0,
        "APERF of a vCPU that does not run advanced"
    );
    ensure!(
        (SPIN_TICKS..SPIN_TICKS + kernel::cost(SYSCALL_BOUND)).contains(&runnable.mperf),
        "MPERF of a runnable vCPU does not advance with the TSC"
    );
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("one long HLT", || halts(1, 10_000)),
        ("many short HLTs", || halts(10, 1_000)),
        ("KVM_SET_MP_STATE", mp_state),
    ])
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule guest-mperf, and MWAIT: where it does not exit (KVM_X86_DISABLE_EXITS_MWAIT),
//! the CPU itself leaves C0 and the guest's pair stands still with it. Where it
//! exits, KVM makes it a NOP, and the guest stays in C0.
//!
//! Bounds: an exit for a tick of the host ends MWAIT, each 4 ms, and takes fewer
//! than 8,000 instructions; so a 25th of the time may count. A NOP counts in full,
//! but for one switch.

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use harness::cpu::Alone;
use harness::guest::{Guest, Vcpu};
use harness::ktap::Skip;
use harness::module::Module;
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::{ONE_SWITCH, Pair, guest_code, kernel, ktap, note, oracle};
use kvm_bindings::{KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_MWAIT, kvm_enable_cap};

const WAIT_MS: u64 = 40;

/// One tick in this many may be of C0.
const SHARE: u64 = 25;

guest_code! {
    /// Exits once, so that all pages are there. Then waits for RDI ticks of the TSC,
    /// by MWAIT; TSC and pair before are in R10, R8 and R9, and after in R13, R11
    /// and R12, and how often MWAIT ended is in R14.
    wait:
        "exit"
        "xor r14d, r14d"
        "rdtsc64 r10"
        "rdpair r8, r9"
        "2:"
        "mov rax, rsp"
        "xor ecx, ecx"
        "xor edx, edx"
        "monitor"
        "xor eax, eax"
        "xor ecx, ecx"
        "mwait"
        "inc r14"
        "rdtsc64 r13"
        "mov rax, r13"
        "sub rax, r10"
        "cmp rax, rdi"
        "jb 2b"
        "rdpair r11, r12"
        "rdtsc64 r13"
        "exit"
}

fn can_wait(guest: &Guest) -> bool {
    let supported = guest
        .kvm()
        .check_extension_raw(KVM_CAP_X86_DISABLE_EXITS.into());
    supported as u32 & KVM_X86_DISABLE_EXITS_MWAIT != 0
}

/// What the guest saw of its wait.
struct Waited {
    advance: Pair,
    tsc: u64,
}

fn run(vcpu: &mut Vcpu) -> Result<Waited> {
    let ticks = oracle::require()?.tsc_hz / 1000 * WAIT_MS;
    vcpu.resume()?;
    vcpu.set_argument(ticks)?;
    let regs = vcpu.run()?;
    ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);
    let pair = |aperf, mperf| Pair { aperf, mperf };
    let advance = pair(regs.r11, regs.r12) - pair(regs.r8, regs.r9);
    let tsc = regs.r13 - regs.r10;
    note!("{} times MWAIT: {advance}, TSC {tsc}", regs.r14);
    Ok(Waited { advance, tsc })
}

fn prepare() -> Result<(Alone, Module, Ratio, Guest)> {
    oracle::require()?;
    Ok((
        Alone::on(0)?,
        Module::loaded()?,
        Ratio::set(THIS_CPU, RATIO_ONE),
        Guest::with_irqchip(wait())?,
    ))
}

fn without_exits() -> Result<()> {
    let (_alone, _module, _ratio, guest) = prepare()?;
    if !can_wait(&guest) {
        bail!(Skip("KVM cannot let guests use MWAIT on this CPU".into()));
    }
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_X86_DISABLE_EXITS,
        ..Default::default()
    };
    cap.args[0] = KVM_X86_DISABLE_EXITS_MWAIT.into();
    guest
        .vm()
        .enable_cap(&cap)
        .context("KVM_CAP_X86_DISABLE_EXITS")?;

    let Waited { advance, tsc } = run(&mut guest.vcpu(0)?)?;
    for ticks in [advance.aperf, advance.mperf] {
        ensure!(
            (1..=kernel::cost(tsc / SHARE)).contains(&ticks),
            "the pair advanced in MWAIT"
        );
    }
    Ok(())
}

fn with_exits() -> Result<()> {
    let (_alone, _module, _ratio, guest) = prepare()?;
    let Waited { advance, tsc } = run(&mut guest.vcpu(0)?)?;
    ensure!(
        advance.mperf.abs_diff(tsc) <= ONE_SWITCH,
        "MPERF does not keep to the TSC"
    );
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("the CPU leaves C0 by MWAIT", without_exits),
        ("MWAIT that exits is a NOP", with_exits),
    ])
}

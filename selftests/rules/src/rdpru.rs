// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule user-isolation where user space reads the counters without the kernel: AMD's
//! RDPRU (APM, "RDPRU") returns the host pair there, and is no instruction in a guest.
//!
//! Bound: one switch outside of what the true counters are before and after.

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use harness::guest::Guest;
use harness::host::{bracket, outside};
use harness::ktap::Skip;
use harness::module::Module;
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio, THIS_CPU};
use harness::{ONE_SWITCH, cpu, foreign, guest_code, ktap, note, oracle, rdpru};

const RETURNS: u64 = 1000;
const WAKEUPS: u64 = 200;

guest_code! {
    /// Executes RDPRU of each register, with a handler for #UD that skips it and
    /// counts in R14.
    try_rdpru:
        "lea rsi, [rip + 5f]"
        "mov word ptr [0x2060], si"             // gate 6 of the IDT
        "mov dword ptr [0x2062], 0x8e000008"    // its code segment and type
        "shr rsi, 16"
        "mov dword ptr [0x2066], esi"
        "xor ecx, ecx"
        ".byte 0x0f, 0x01, 0xfd"
        "mov ecx, 1"
        ".byte 0x0f, 0x01, 0xfd"
        "exit"
        "5:"
        "inc r14"
        "add qword ptr [rsp], 3"
        "iretq"
}

fn prepare() -> Result<(Module, Ratio)> {
    oracle::require()?;
    if !rdpru::exists() {
        bail!(Skip("this CPU has no RDPRU".into()));
    }
    cpu::pin(0)?;
    Ok((Module::loaded()?, Ratio::set(ALL_CPUS, RATIO_ONE * 3 / 5)))
}

/// How far RDPRU is from the truth, in ticks.
fn error() -> u64 {
    let truth = || oracle::truth(THIS_CPU).host;
    let (aperf, true_aperf) = bracket(|| truth().aperf, rdpru::aperf);
    let (mperf, true_mperf) = bracket(|| truth().mperf, rdpru::mperf);
    outside(aperf, true_aperf).max(outside(mperf, true_mperf))
}

fn in_a_guest() -> Result<()> {
    let _setup = prepare()?;
    let faults = Guest::new(try_rdpru())?.vcpu(0)?.run()?.r14;
    note!("#UDs of two RDPRUs: {faults}");
    ensure!(faults == 2, "{} RDPRUs did not fault", 2 - faults);
    Ok(())
}

fn after_kvm_run() -> Result<()> {
    let _setup = prepare()?;
    let guest = Guest::new(foreign::exits())?;
    let mut vcpu = guest.vcpu(0)?;
    let mut worst = error();
    for _ in 0..RETURNS {
        vcpu.resume()?;
        worst = worst.max(error());
    }
    note!("{RETURNS} returns, worst error {worst} ticks");
    ensure!(worst <= ONE_SWITCH, "RDPRU is off by {worst} ticks");
    Ok(())
}

fn in_another_task() -> Result<()> {
    let _setup = prepare()?;
    let worst = foreign::worst_in_another_task(WAKEUPS, error)?;
    let switches = cpu::thread_switches();
    note!("{WAKEUPS} wake-ups, {switches} switches, worst error {worst} ticks");
    ensure!(worst <= ONE_SWITCH, "RDPRU is off by {worst} ticks");
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("#UD in a guest", in_a_guest),
        ("the host pair when KVM_RUN returns", after_kvm_run),
        ("the host pair in another task", in_another_task),
    ])
}

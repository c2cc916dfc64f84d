// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A guest's WRMSR sets its pair, which then goes on from there, and neither
//! another vCPU's nor the host's.
//!
//! Bound: what the TSC advanced between the write and the read, at ratio 1.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::guest::Guest;
use harness::module::Module;
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::{cpu, guest_code, ktap, note, oracle};

guest_code! {
    /// Writes RDI to APERF and reads R8, then the same for MPERF and R9; TSC
    /// before each is in R10 and R12, and after in R11 and R13.
    write_and_read:
        "rdtsc64 r10"
        "wrmsr64 0xe8, rdi"
        "rdmsr64 0xe8, r8"
        "rdtsc64 r11"
        "rdtsc64 r12"
        "wrmsr64 0xe7, rdi"
        "rdmsr64 0xe7, r9"
        "rdtsc64 r13"
        "exit"
}

fn write(value: u64) -> Result<()> {
    oracle::require()?;
    cpu::pin(0)?;
    let _module = Module::loaded()?;
    let _ratio = Ratio::set(THIS_CPU, RATIO_ONE);

    let guest = Guest::new(write_and_read())?;
    let mut vcpu = guest.vcpu(0)?;
    vcpu.set_argument(value)?;
    let regs = vcpu.run()?;
    ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);

    for (name, read, elapsed) in [
        ("APERF", regs.r8, regs.r11 - regs.r10),
        ("MPERF", regs.r9, regs.r13 - regs.r12),
    ] {
        let advance = read.wrapping_sub(value);
        note!("{name}: wrote {value:#x}, read {read:#x}: {advance} ticks later, TSC {elapsed}");
        ensure!(
            (1..=elapsed).contains(&advance),
            "{name} does not go on from {value:#x}"
        );
    }
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("zero", || write(0)),
        ("a value in the past of the counters", || write(1000)),
        ("a large value", || write(1 << 61)),
        ("a value too large to be loaded", || write(u64::MAX >> 1)),
    ])
}

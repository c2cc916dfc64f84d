// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A guest of a few instructions.

use anyhow::{Result, ensure};
use harness::cpu::Alone;
use harness::guest::Guest;
use harness::host::Msrs;
use harness::oracle::{self, ALL_CPUS, RATIO_ONE};
use harness::{Pair, cpu, guest_code};

use crate::table::Row;
use crate::{CPU, RATIOS};

/// RDMSRs in each run of [`measure`].
const READS: u64 = 2000;

guest_code! {
    read_once:
        "rdpair r8, r9"
        "exit"
}

guest_code! {
    /// Around 1000 reads of both counters: exits by RDMSR, which are event
    /// RDI, in R12 to R13, and the pair in R8 and R9 to R10 and R11.
    measure:
        "2:"
        "mov rbx, -1"
        "mov rdx, rdi"
        "oracle 2"
        "mov r12, rax"
        "rdpair r8, r9"
        "mov r14, 999"
        "3:"
        "burn 100"
        "rdpair r10, r11"
        "dec r14"
        "jnz 3b"
        "mov rbx, -1"
        "mov rdx, rdi"
        "oracle 2"
        "mov r13, rax"
        "exit"
        "jmp 2b"
}

/// Shows what a new guest reads first.
pub fn power_on() -> Result<()> {
    cpu::pin(CPU)?;
    let guest = Guest::new(read_once())?;
    let created = cpu::tsc();
    let mut vcpu = guest.vcpu(0)?;
    let regs = vcpu.run()?;
    let age = cpu::tsc() - created;

    println!("A new guest reads APERF {} and MPERF {},", regs.r8, regs.r9);
    println!("{age} TSC ticks after its vCPU was created.");
    Ok(())
}

/// Runs one guest at all frequencies.
pub fn run(base_mhz: f64) -> Result<Vec<Row>> {
    let _alone = Alone::on(CPU)?;
    let msrs = Msrs::open(CPU)?;
    let guest = Guest::new(measure())?;
    let mut vcpu = guest.vcpu(0)?;
    vcpu.set_argument(cpu::exits().rdmsr)?;

    let mut rows = Vec::new();
    for ratio in RATIOS {
        oracle::set_ratio(ALL_CPUS, ratio);
        let before = oracle::truth(CPU as u64).host;
        let regs = vcpu.run()?;
        let ran = oracle::truth(CPU as u64).host - before;
        ensure!(regs.r15 == 0, "{} of the guest's reads faulted", regs.r15);

        let seen = Pair {
            aperf: regs.r10,
            mperf: regs.r11,
        } - Pair {
            aperf: regs.r8,
            mperf: regs.r9,
        };
        rows.push(Row {
            set_mhz: base_mhz * ratio as f64 / RATIO_ONE as f64,
            ran_mhz: base_mhz * ran.ratio(),
            seen_mhz: base_mhz * seen.ratio(),
            exits: regs.r13 - regs.r12,
            reads: READS,
            host_error: msrs.error()?,
        });
    }
    oracle::set_ratio(ALL_CPUS, RATIO_ONE);
    Ok(rows)
}

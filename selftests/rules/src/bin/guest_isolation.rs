// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule guest-isolation: two guests with different values on one CPU never see
//! each other's, nor the host's.
//!
//! Each guest sets a value of its own, far from the other's, and then reads
//! and halts by turns, so that the CPU goes from one vCPU to the other inside
//! the kernel, with a guest's values still in the MSRs. Each read must follow
//! the one before it by less than 2^36 ticks; the values lie 2^48 and more apart.

use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;

use anyhow::{Result, ensure};
use harness::guest::Guest;
use harness::module::Module;
use harness::{cpu, guest_code, ktap, note, oracle};

const ROUNDS: u64 = 200;
const BASES: [u64; 2] = [1 << 48, 1 << 50];

guest_code! {
    /// Sets both counters to RDI. Then 200 times: reads, compares with the
    /// last values in R10 and R11, counts strange ones in R12, halts 200 us.
    read_and_halt:
        "cli"
        "timer_one_shot"
        "wrmsr64 0xe8, rdi"
        "wrmsr64 0xe7, rdi"
        "mov r10, rdi"
        "mov r11, rdi"
        "mov r14, 200000"
        "mov r13, 200"

        "2:"
        "rdpair r8, r9"
        "mov rax, r8"
        "sub rax, r10"
        "shr rax, 36"
        "jz 3f"
        "inc r12"
        "3:"
        "mov rax, r9"
        "sub rax, r11"
        "shr rax, 36"
        "jz 4f"
        "inc r12"
        "4:"
        "mov r10, r8"
        "mov r11, r9"
        "burn 4000"
        "sleep r14"
        "dec r13"
        "jnz 2b"
        "exit"
}

fn never_see_each_other() -> Result<()> {
    oracle::require()?;
    cpu::pin(0)?;
    let _module = Module::loaded()?;

    let start = Barrier::new(BASES.len());
    let switches = thread::scope(|scope| {
        let threads = BASES.map(|base| {
            let start = &start;
            scope.spawn(move || -> Result<u64> {
                cpu::pin(0)?;
                let guest = Guest::with_irqchip(read_and_halt())?;
                let mut vcpu = guest.vcpu(0)?;
                vcpu.set_argument(base)?;
                start.wait();

                let regs = vcpu.run()?;
                let switches = cpu::thread_switches();
                note!("guest at {base:#x}: {ROUNDS} rounds, {switches} switches of its thread");
                ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);
                ensure!(
                    regs.r12 == 0,
                    "{} of {} reads are not its own",
                    regs.r12,
                    2 * ROUNDS
                );
                Ok(switches)
            })
        });
        threads
            .map(|thread| thread.join().unwrap())
            .into_iter()
            .sum::<Result<u64>>()
    })?;
    ensure!(switches >= ROUNDS, "the guests did not take turns");
    Ok(())
}

fn main() -> ExitCode {
    ktap::run(&[(
        "two guests on one CPU read their own values",
        never_see_each_other,
    )])
}

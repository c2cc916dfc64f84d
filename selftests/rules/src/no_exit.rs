// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule no-exit: a guest's reads take no VM exit, its writes always do.
//!
//! The oracle counts, asked by the guest itself right before and after. Only
//! interrupts for the host may exit in between. The bound is exact.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::guest::Guest;
use harness::module::Module;
use harness::oracle::event;
use harness::{cpu, guest_code, ktap, note, oracle};

const READS: u64 = 1000;

guest_code! {
    /// Around 1000 reads of both counters: VM exits in R8 to R9, and event RDI
    /// in R10 to R11.
    read_often:
        "mov rbx, -1"
        "mov rdx, 6"
        "oracle 2"
        "mov r8, rax"
        "mov rbx, -1"
        "mov rdx, rdi"
        "oracle 2"
        "mov r10, rax"

        "mov r14, 1000"
        "2:"
        "rdpair r12, r13"
        "dec r14"
        "jnz 2b"

        "mov rbx, -1"
        "mov rdx, rdi"
        "oracle 2"
        "mov r11, rax"
        "mov rbx, -1"
        "mov rdx, 6"
        "oracle 2"
        "mov r9, rax"
        "exit"
}

guest_code! {
    /// Around one write of both counters: event RDI in R10 to R11.
    write_once:
        "mov rbx, -1"
        "mov rdx, rdi"
        "oracle 2"
        "mov r10, rax"

        "mov r14, 1000"
        "wrmsr64 0xe8, r14"
        "wrmsr64 0xe7, r14"

        "mov rbx, -1"
        "mov rdx, rdi"
        "oracle 2"
        "mov r11, rax"
        "exit"
}

struct Counts {
    exits: u64,
    events: u64,
}

/// All VM exits, and how often `event` happened, while a new guest ran `code`.
fn count(code: &[u8], event: u64) -> Result<Counts> {
    let guest = Guest::new(code)?;
    let mut vcpu = guest.vcpu(0)?;
    vcpu.set_argument(event)?;
    let regs = vcpu.run()?;
    ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);
    Ok(Counts {
        exits: regs.r9 - regs.r8,
        events: regs.r11 - regs.r10,
    })
}

fn prepare() -> Result<Module> {
    oracle::require()?;
    cpu::pin(0)?;
    Module::loaded()
}

fn reads_do_not_exit() -> Result<()> {
    let _module = prepare()?;

    let reads = count(read_often(), event::PAIR_RDMSR)?.events;
    let exits = count(read_often(), cpu::exits().rdmsr)?.events;
    note!("RDMSRs of the pair: {reads}, exits by RDMSR: {exits}");
    // A tick of the host in between may read its own pair.
    ensure!(reads >= 2 * READS, "the guest did not read");
    ensure!(exits == 0, "reads exit");
    Ok(())
}

fn nothing_else_exits() -> Result<()> {
    let _module = prepare()?;

    let Counts {
        exits,
        events: interrupts,
    } = count(read_often(), cpu::exits().interrupt)?;
    note!(
        "exits around {} reads: {exits}, of these by interrupts: {interrupts}",
        2 * READS
    );
    ensure!(exits == interrupts, "reads exit in some way");
    Ok(())
}

fn writes_exit() -> Result<()> {
    let _module = prepare()?;

    let exits = count(write_once(), cpu::exits().wrmsr)?.events;
    note!("exits around 2 WRMSRs: {exits}");
    ensure!(exits == 2, "not each write exits once");
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("2000 reads, no RDMSR exit", reads_do_not_exit),
        ("2000 reads, no other exit", nothing_else_exits),
        ("2 writes, 2 WRMSR exits", writes_exit),
    ])
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A guest reads the metrics that the CPU counted: RDMSR and RDPMC say how the slots
//! divided, and add up to full scale. Neither takes a VM exit, and where KVM has to
//! intercept RDPMC it says the same.
//!
//! Exact for slots that all divide in the same way. Else the value has been through
//! 8 bits a part: two steps.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::guest::{Guest, Vcpu};
use harness::oracle::{THIS_CPU, event};
use harness::{cpu, ktap, note};
use kvm_bindings::kvm_regs;
use perf_metrics::guest::{vcpu, vcpu_with_counters};
use perf_metrics::metrics::{Division, FULL_SCALE, Metrics, require};
use perf_metrics::pmu_code;

const DIVISIONS: [Metrics; 4] = [
    Metrics([102, 26, 51, 76]),
    Metrics([255, 0, 0, 0]),
    Metrics([1, 2, 3, 249]),
    Metrics([64, 64, 64, 63]),
];
const EXIT_RDPMC: u64 = event::vmx_exit(15);
const EXIT_INTERRUPT: u64 = event::vmx_exit(1);

pmu_code! {
    /// Metrics by RDMSR in R8, by RDPMC in R9, slots in R10, event RDI around the
    /// RDPMCs in R11 to R12.
    read:
        "topdown_start"
        "burn 20000"
        "stop"
        "rdmsr64 0x329, r8"
        "mov rbx, -1"
        "mov rdx, rdi"
        "oracle 2"
        "mov r11, rax"
        "rdpmc64 0x20000000, r9"
        "rdpmc64 0x40000003, r10"
        "mov rbx, -1"
        "mov rdx, rdi"
        "oracle 2"
        "mov r12, rax"
        "exit"
}

pmu_code! {
    /// Divides RDI's way for as long as RSI's, then reads to R8 and R9.
    read_two_halves:
        "topdown_zero"
        "divide rdi"
        "topdown_count"
        "burn 200000"
        "divide rsi"
        "burn 200000"
        "stop"
        "rdmsr64 0x329, r8"
        "rdpmc64 0x20000000, r9"
        "exit"
}

pmu_code! {
    /// 1000 reads by both instructions: VM exits in R8 to R9, event RDI in R10 to R11.
    read_often:
        "topdown_start"
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
        "rdmsr64 0x329, r12"
        "rdpmc64 0x20000000, r13"
        "wrmsr64 0x329, r12"
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
        "stop"
        "exit"
}

fn expect_metrics(regs: &kvm_regs, expected: Metrics, bound: u8) -> Result<()> {
    let (rdmsr, rdpmc) = (Metrics::from_raw(regs.r8)?, Metrics::from_raw(regs.r9)?);
    note!("RDMSR {rdmsr}, RDPMC {rdpmc}, the CPU divides {expected}");
    ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);
    ensure!(rdmsr == rdpmc, "RDMSR and RDPMC disagree");
    ensure!(rdmsr.sum() == FULL_SCALE, "the sum is {}", rdmsr.sum());
    ensure!(
        rdmsr.distance(expected) <= bound,
        "these are not the CPU's metrics"
    );
    Ok(())
}

/// Each division in a new VM, with event `event` counted around RDPMC.
fn each_division(event: u64, create: fn(&Guest) -> Result<Vcpu>) -> Result<u64> {
    require()?;
    cpu::pin(0)?;
    let mut events = 0;
    for expected in DIVISIONS {
        let _division = Division::set(THIS_CPU, expected)?;
        let guest = Guest::with_irqchip(read())?;
        let mut vcpu = create(&guest)?;
        vcpu.set_argument(event)?;
        let regs = vcpu.run()?;
        expect_metrics(&regs, expected, 0)?;
        ensure!(regs.r10 >= 5 * 20_000, "only {} slots", regs.r10);
        events += regs.r12 - regs.r11;
    }
    Ok(events)
}

fn as_divided() -> Result<()> {
    let exits = each_division(EXIT_RDPMC, vcpu)?;
    note!("exits by RDPMC: {exits}");
    ensure!(exits == 0, "RDPMC exits");
    Ok(())
}

/// A guest with fewer counters than the CPU must not read the others.
fn by_intercepted_rdpmc() -> Result<()> {
    let exits = each_division(EXIT_RDPMC, |guest| vcpu_with_counters(guest, 4, 4))?;
    note!("exits by RDPMC: {exits}");
    ensure!(exits == 2 * DIVISIONS.len() as u64, "RDPMC does not exit");
    Ok(())
}

fn average() -> Result<()> {
    require()?;
    cpu::pin(0)?;
    let _division = Division::set(THIS_CPU, DIVISIONS[0])?;
    let guest = Guest::with_irqchip(read_two_halves())?;
    let mut vcpu = vcpu(&guest)?;
    let (first, second) = (Metrics([200, 35, 10, 10]), Metrics([100, 15, 70, 70]));
    let mut regs = vcpu.regs()?;
    (regs.rdi, regs.rsi) = (first.raw(), second.raw());
    vcpu.fd().set_regs(&regs)?;
    let regs = vcpu.run()?;
    expect_metrics(&regs, Metrics([150, 25, 40, 40]), 2)
}

fn without_exits() -> Result<()> {
    require()?;
    cpu::pin(0)?;
    let guest = Guest::with_irqchip(read_often())?;
    let mut vcpu = vcpu(&guest)?;
    vcpu.set_argument(EXIT_INTERRUPT)?;
    let regs = vcpu.run()?;
    let (exits, interrupts) = (regs.r9 - regs.r8, regs.r11 - regs.r10);
    note!("3000 accesses: {exits} exits, of these by interrupts: {interrupts}");
    ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);
    ensure!(exits == interrupts, "accesses exit");
    Ok(())
}

fn main() -> ExitCode {
    ktap::run(&[
        ("the guest reads how the CPU's slots divide", as_divided),
        ("the same by an RDPMC that exits", by_intercepted_rdpmc),
        ("the guest reads the average of two divisions", average),
        ("3000 accesses take no exit", without_exits),
    ])
}

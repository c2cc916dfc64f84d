// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule opt-in, with all kinds of VMs taking turns on one CPU: one that disabled
//! exits on the pair reads the host's, one without the CPUID bit faults, and those
//! with the bit keep their own.
//!
//! The guests halt by turns, so that the CPU goes from one to the other inside the
//! kernel, with the values of the last one in the MSRs. Bound of raw reads: one
//! switch outside of what the true counters are before and after.

use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;

use anyhow::{Context, Result, ensure};
use harness::guest::{Guest, cpuid};
use harness::module::Module;
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio};
use harness::{ONE_SWITCH, cpu, guest_code, ktap, msr_device, note, oracle, own};
use kvm_bindings::{CpuId, kvm_regs};
use kvm_ioctls::Kvm;

const ROUNDS: u64 = own::ROUNDS;

guest_code! {
    /// 200 times: reads between two looks at the true counters, counts in R12 what
    /// lies outside by more than RSI, and halts 200 us. Where no interrupt for the
    /// host, event RDI, came in between, the CPU was this vCPU's alone: the upper half
    /// of R14 counts how often, the lower half all events RBP meanwhile, which are exits
    /// by RDMSR.
    read_raw:
        "cli"
        "timer_one_shot"
        "mov r13, 200"
        "2:"
        "mov rbx, -1"
        "mov rdx, rdi"
        "oracle 2"
        "push rax"
        "mov rbx, -1"
        "mov rdx, rbp"
        "oracle 2"
        "push rax"
        "mov rbx, -1"
        "oracle 1"
        "mov r8, rax"
        "mov r9, rbx"
        "rdpair r10, r11"
        "mov rbx, -1"
        "oracle 1"
        "sub rax, r8"           // true advance, with the bound at both ends
        "lea rax, [rax + rsi * 2]"
        "sub rbx, r9"
        "lea rbx, [rbx + rsi * 2]"
        "sub r10, r8"
        "add r10, rsi"
        "sub r11, r9"
        "add r11, rsi"
        "cmp r10, rax"
        "jbe 3f"
        "inc r12"
        "3:"
        "cmp r11, rbx"
        "jbe 4f"
        "inc r12"
        "4:"
        "mov rbx, -1"
        "mov rdx, rbp"
        "oracle 2"
        "pop r10"
        "sub rax, r10"
        "mov r10, rax"
        "mov rbx, -1"
        "mov rdx, rdi"
        "oracle 2"
        "pop r11"
        "cmp rax, r11"
        "jne 5f"
        "add r14, r10"
        "mov r10, 1 << 32"
        "add r14, r10"
        "5:"
        "mov r10, 200000"
        "sleep r10"
        "dec r13"
        "jnz 2b"
        "exit"
}

guest_code! {
    /// Reads the pair 200 times, and halts 200 us each time.
    fault_often:
        "cli"
        "timer_one_shot"
        "mov r14, 200000"
        "mov r13, 200"
        "2:"
        "rdpair r8, r9"
        "sleep r14"
        "dec r13"
        "jnz 2b"
        "exit"
}

/// A VM of its own, on the CPU of all of them.
struct Neighbour {
    code: &'static [u8],
    raw: bool,
    cpuid: fn(&Kvm) -> Result<CpuId>,
    rdi: u64,
}

impl Neighbour {
    /// Runs the VM, and returns its registers and its thread's switches.
    fn run(&self, start: &Barrier) -> Result<(kvm_regs, u64)> {
        cpu::pin(0)?;
        let guest = Guest::with_irqchip(self.code)?;
        if self.raw {
            guest.disable_exits_on_pair()?;
        }
        let mut vcpu = guest.vcpu_with(0, &(self.cpuid)(guest.kvm())?)?;
        let regs = kvm_regs {
            rdi: self.rdi,
            rsi: ONE_SWITCH,
            rbp: cpu::exits().rdmsr,
            ..vcpu.regs()?
        };
        vcpu.fd().set_regs(&regs).context("KVM_SET_REGS")?;
        start.wait();
        Ok((vcpu.run()?, cpu::thread_switches()))
    }
}

/// One with its own pair, which starts at `rdi`.
fn own(rdi: u64) -> Neighbour {
    Neighbour {
        code: own::reads_and_halts(),
        raw: false,
        cpuid: cpuid::with_pair,
        rdi,
    }
}

fn take_turns(raw_cpuid: fn(&Kvm) -> Result<CpuId>) -> Result<()> {
    oracle::require()?;
    msr_device::make_true(0)?;
    let _module = Module::loaded()?;
    let _ratio = Ratio::set(ALL_CPUS, RATIO_ONE * 3 / 5);
    Guest::new(read_raw())?.disable_exits_on_pair()?;

    let raw = Neighbour {
        code: read_raw(),
        raw: true,
        cpuid: raw_cpuid,
        rdi: cpu::exits().interrupt,
    };
    let without = Neighbour {
        code: fault_often(),
        raw: false,
        cpuid: cpuid::without_pair,
        rdi: 0,
    };
    let neighbours = [own(1 << 58), raw, without, own(1 << 60)];
    let start = Barrier::new(neighbours.len());
    let reports: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = neighbours
            .iter()
            .map(|neighbour| scope.spawn(|| neighbour.run(&start)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect::<Result<_>>()
    })?;
    let [(first, _), (raw, switches), (without, _), (second, _)] = reports[..] else {
        unreachable!()
    };

    let (alone, exits) = (raw.r14 >> 32, raw.r14 as u32);
    note!("{ROUNDS} raw reads of both, {} wrong", raw.r12);
    note!("{alone} of them without an interrupt, which took {exits} exits");
    note!("{switches} switches of the reader's thread");
    note!("without the bit: {} faults", without.r15);
    ensure!(switches >= ROUNDS / 2, "the guests did not take turns");
    ensure!(raw.r15 == 0, "{} raw reads faulted", raw.r15);
    ensure!(alone >= ROUNDS / 2, "there was always an interrupt");
    ensure!(exits == 0, "raw reads took {exits} exits");
    ensure!(raw.r12 == 0, "{} raw reads are not the host's", raw.r12);
    ensure!(
        without.r15 == 2 * ROUNDS,
        "not each read without the bit faulted"
    );
    own::expect_own(&first)?;
    own::expect_own(&second)
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("raw reads in a VM without the CPUID bit", || {
            take_turns(cpuid::without_pair)
        }),
        ("raw reads in a VM with the CPUID bit", || {
            take_turns(cpuid::with_pair)
        }),
    ])
}

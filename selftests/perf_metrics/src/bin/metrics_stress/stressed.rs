// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The guest that takes random steps, and what its metrics must be.

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use harness::guest::{Guest, Vcpu};
use harness::note;
use kvm_bindings::kvm_regs;
use perf_metrics::guest::vcpu;
use perf_metrics::metrics::{FULL_SCALE, Metrics};
use perf_metrics::{msr, pmu_code};

pmu_code! {
    /// On each run: divides slots as RDI says and counts R8 pieces of RSI rounds, with an
    /// exit (R9 is 1) or a halt (R9 is 2) of R10 ticks of its APIC timer after each. Then
    /// R12 has the metrics, R13 slots, R14 instructions; RBP and R11 the TSC around the
    /// read of MPERF to RSI, RDI APERF.
    step:
        "cli"
        "timer_one_shot"
        "exit"

        "2:"
        "topdown_zero"
        "divide rdi"
        "topdown_count"
        "3:"
        "mov rcx, rsi"
        "4:"
        "dec rcx"
        "jnz 4b"
        "cmp r9, 1"
        "jb 6f"
        "je 5f"
        "sleep r10"
        "jmp 6f"
        "5:"
        "exit"
        "6:"
        "dec r8"
        "jnz 3b"
        "stop"
        "rdmsr64 0x329, r12"
        "rdpmc64 0x40000003, r13"
        "rdpmc64 0x40000000, r14"
        "rdtsc64 rbp"
        "rdmsr64 0xe7, rsi"
        "rdtsc64 r11"
        "rdmsr64 0xe8, rdi"
        "exit"
        "jmp 2b"
}

/// What comes after each piece of work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Between {
    Nothing = 0,
    Exit = 1,
    Halt = 2,
}

const BETWEEN: [Between; 3] = [Between::Nothing, Between::Exit, Between::Halt];

/// What the guest does in a step.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    division: Metrics,
    pieces: u64,
    rounds: u64,
    pub between: Between,
    halt: u64,
}

impl Plan {
    pub fn random(rng: &mut Rng) -> Self {
        let mut cuts = [0; 3].map(|_| rng.u8(..));
        cuts.sort_unstable();
        let [a, b, c] = cuts;
        Plan {
            division: Metrics([a, b - a, c - b, u8::MAX - c]),
            pieces: rng.u64(1..20),
            rounds: rng.u64(1..10_000),
            between: BETWEEN[rng.usize(..BETWEEN.len())],
            halt: rng.u64(1..200_000),
        }
    }
}

/// Instructions of a step beside its rounds.
#[derive(Clone, Copy)]
struct Overhead {
    step: u64,
    piece: u64,
}

pub struct Stressed {
    pub vcpu: Vcpu,
    _guest: Guest,
    overheads: Vec<Overhead>,
}

impl Stressed {
    pub fn new() -> Result<Self> {
        let guest = Guest::with_irqchip(step())?;
        let mut stressed = Stressed {
            vcpu: vcpu(&guest)?,
            _guest: guest,
            overheads: Vec::new(),
        };
        stressed.vcpu.resume()?;
        for between in BETWEEN {
            let overhead = stressed.measure(between)?;
            stressed.overheads.push(overhead);
        }
        Ok(stressed)
    }

    /// Instructions of one and of two pieces tell what is the step's and what the piece's.
    fn measure(&mut self, between: Between) -> Result<Overhead> {
        let mut instructions = |pieces| -> Result<u64> {
            let plan = Plan {
                division: Metrics([255, 0, 0, 0]),
                pieces,
                rounds: 1,
                between,
                halt: 100_000,
            };
            Ok(self.run(&plan)?.r14)
        };
        let (one, two) = (instructions(1)?, instructions(2)?);
        let piece = two - one - 2;
        let overhead = Overhead {
            step: one - 2 - piece,
            piece,
        };
        note!(
            "{between:?}: {} instructions, and {piece} a piece",
            overhead.step
        );
        Ok(overhead)
    }

    pub fn run(&mut self, plan: &Plan) -> Result<kvm_regs> {
        let mut regs = self.vcpu.regs()?;
        regs.rdi = plan.division.raw();
        regs.rsi = plan.rounds;
        regs.r8 = plan.pieces;
        regs.r9 = plan.between as u64;
        regs.r10 = plan.halt;
        self.vcpu.fd().set_regs(&regs).context("KVM_SET_REGS")?;
        if plan.between == Between::Exit {
            for _ in 0..plan.pieces {
                self.vcpu.resume()?;
            }
        }
        let regs = self.vcpu.run()?;
        ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);
        Ok(regs)
    }

    pub fn expect_metrics(&self, plan: &Plan, regs: &kvm_regs) -> Result<()> {
        let metrics = Metrics::from_raw(regs.r12)?;
        let Overhead { step, piece } = self.overheads[plan.between as usize];
        let instructions = step + plan.pieces * (2 * plan.rounds + piece);
        ensure!(
            metrics == plan.division && metrics.sum() == FULL_SCALE,
            "metrics {metrics}"
        );
        ensure!(
            regs.r14 == instructions,
            "{} instructions, expected {instructions}",
            regs.r14
        );
        for (index, value) in [(msr::PERF_METRICS, regs.r12), (msr::FIXED_CTR3, regs.r13)] {
            ensure!(
                self.vcpu.msr(index)? == Some(value),
                "user space sees another value of MSR {index:#x}"
            );
        }
        Ok(())
    }
}

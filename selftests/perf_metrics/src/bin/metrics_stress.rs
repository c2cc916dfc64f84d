// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! One guest has both: the pair, and slots with their metrics. It counts, exits, halts
//! and changes its CPU at random, beside another guest and a user of perf on the same
//! CPU. After each step the rules of both must hold:
//!
//! - its metrics are how its CPU divided slots, and user space sees the same: exact;
//! - it retired the instructions of its code: exact;
//! - MPERF keeps to its TSC unless it halted: one switch;
//! - APERF advances by what its cycles did, at least, and by what MPERF did, at most:
//!   the same;
//! - the other guest reads its own values: exact;
//! - the host pair is the true one: the same.
//!
//! `--seed=N` and `--steps=N` as arguments, such as
//! `make check T=perf_metrics:metrics_stress,--seed=7`; the seed is printed.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use fastrand::Rng;
use harness::guest::{Guest, Vcpu};
use harness::host::Msrs;
use harness::module::Module;
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio, event};
use harness::sample::{Distance, Sample};
use harness::{ONE_SWITCH, Pair, cpu, kernel, ktap, note, oracle};
use kvm_bindings::kvm_regs;
use perf_metrics::guest::vcpu;
use perf_metrics::metrics::{FULL_SCALE, Metrics, require};
use perf_metrics::perf::Topdown;
use perf_metrics::{msr, pmu_code};

/// Random steps of a guest
#[derive(Parser)]
struct Arguments {
    /// Where the random numbers start
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 300)]
    steps: u64,
}

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

pmu_code! {
    /// Holds slots and metrics, and on each run looks for strange ones 20 times, which
    /// it counts in R12, with halts in between.
    hold:
        "cli"
        "timer_one_shot"
        "mov rdi, 0x12345678"
        "mov rsi, 0x010203f9"
        "wrmsr64 0x30c, rdi"
        "wrmsr64 0x329, rsi"
        "mov r14, 100000"
        "2:"
        "mov r13, 20"
        "3:"
        "rdpmc64 0x40000003, r8"
        "rdmsr64 0x329, r9"
        "cmp r8, rdi"
        "je 4f"
        "inc r12"
        "4:"
        "cmp r9, rsi"
        "je 5f"
        "inc r12"
        "5:"
        "burn 2000"
        "sleep r14"
        "dec r13"
        "jnz 3b"
        "exit"
        "jmp 2b"
}

/// What comes after each piece of work.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Between {
    Nothing = 0,
    Exit = 1,
    Halt = 2,
}

const BETWEEN: [Between; 3] = [Between::Nothing, Between::Exit, Between::Halt];

/// What the guest does in a step.
#[derive(Clone, Copy, Debug)]
struct Plan {
    division: Metrics,
    pieces: u64,
    rounds: u64,
    between: Between,
    halt: u64,
}

impl Plan {
    fn random(rng: &mut Rng) -> Self {
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

struct Stressed {
    vcpu: Vcpu,
    _guest: Guest,
    overheads: Vec<Overhead>,
}

impl Stressed {
    fn new() -> Result<Self> {
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

    fn run(&mut self, plan: &Plan) -> Result<kvm_regs> {
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

    fn expect_metrics(&self, plan: &Plan, regs: &kvm_regs) -> Result<()> {
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

/// The pair, step by step.
struct Watched {
    last: Sample,
    distance: Distance,
}

fn sample(regs: &kvm_regs) -> Sample {
    Sample {
        pair: Pair {
            aperf: regs.rdi,
            mperf: regs.rsi,
        },
        tsc: (regs.rbp, regs.r11),
        end: regs.r11,
        exits: 0,
    }
}

impl Watched {
    fn new(first: Sample) -> Self {
        Watched {
            last: first,
            distance: Distance::of(&first),
        }
    }

    fn expect_pair(&mut self, plan: &Plan, regs: &kvm_regs) -> Result<()> {
        let sample = sample(regs);
        let advance = sample.pair - self.last.pair;
        let elapsed = sample.tsc.1 - self.last.tsc.0;
        let cycles = regs.r13 / 5;
        self.last = sample;
        if plan.between == Between::Halt {
            self.distance = Distance::of(&sample);
        } else {
            self.distance.narrow(&sample);
        }

        ensure!(
            self.distance.error() <= ONE_SWITCH,
            "MPERF strays from the TSC by {} ticks",
            self.distance.error()
        );
        ensure!(
            advance.mperf <= elapsed + ONE_SWITCH,
            "{advance} in {elapsed} ticks"
        );
        ensure!(
            advance.aperf + ONE_SWITCH >= cycles && advance.aperf <= advance.mperf + ONE_SWITCH,
            "{advance}, but {cycles} cycles"
        );
        Ok(())
    }
}

/// Something that user space or the host does between two steps.
fn disturb(rng: &mut Rng, vcpu: &Vcpu) -> Result<()> {
    match rng.u8(..6) {
        0 => cpu::spin(rng.u64(..100_000)),
        1 => thread::sleep(Duration::from_micros(rng.u64(..500))),
        2 => cpu::pin(rng.usize(..cpu::online()))?,
        3 => {
            let pair = vcpu.pair()?;
            let later = vcpu.pair()? - pair;
            ensure!(later.aperf == 0, "APERF runs without KVM_RUN");
        }
        4 => {
            oracle::set_ratio(ALL_CPUS, RATIO_ONE / rng.u64(1..4));
        }
        _ => {}
    }
    Ok(())
}

/// Another guest that looks until `stop`.
fn hold_until(stop: &AtomicBool) -> Result<u64> {
    let guest = Guest::with_irqchip(hold())?;
    let mut vcpu = vcpu(&guest)?;
    let mut looks = 0;
    while !stop.load(Ordering::Relaxed) {
        let regs = vcpu.run()?;
        ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);
        ensure!(regs.r12 == 0, "{} reads are not its own", regs.r12);
        looks += 20;
    }
    Ok(looks)
}

/// A user of perf that counts until `stop`, with pauses.
fn count_until(stop: &AtomicBool) -> Result<u64> {
    let topdown = Topdown::of_host()?;
    while !stop.load(Ordering::Relaxed) {
        cpu::spin(20_000);
        thread::sleep(Duration::from_micros(300));
    }
    Ok(topdown.read()?.0)
}

fn steps(arguments: &Arguments) -> Result<()> {
    let mut rng = Rng::with_seed(arguments.seed);
    let mut stressed = Stressed::new()?;
    let first = Plan::random(&mut rng);
    let mut watched = Watched::new(sample(&stressed.run(&first)?));
    for number in 0..arguments.steps {
        let plan = Plan::random(&mut rng);
        let regs = stressed.run(&plan)?;
        let step = || format!("step {number} of seed {}: {plan:?}", arguments.seed);
        stressed.expect_metrics(&plan, &regs).with_context(step)?;
        watched.expect_pair(&plan, &regs).with_context(step)?;
        disturb(&mut rng, &stressed.vcpu).with_context(step)?;
    }
    Ok(())
}

fn both() -> Result<()> {
    require()?;
    let arguments = Arguments::parse();
    note!("seed {}, {} steps", arguments.seed, arguments.steps);
    cpu::pin(0)?;
    let _module = Module::loaded()?;
    let _ratio = Ratio::set(ALL_CPUS, RATIO_ONE);

    let exits = oracle::count(ALL_CPUS, event::VM_EXIT);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let holder = scope.spawn(|| hold_until(&stop));
        let counter = scope.spawn(|| count_until(&stop));
        let result = steps(&arguments);
        stop.store(true, Ordering::Relaxed);
        let looks = holder.join().unwrap()?;
        let slots = counter.join().unwrap()?;
        note!("the other guest looked {looks} times, perf counted {slots} slots");
        result
    })?;
    let exits = oracle::count(ALL_CPUS, event::VM_EXIT) - exits;
    note!("{exits} VM exits");
    ensure!(exits >= 10 * arguments.steps, "too few exits");

    for number in 0..cpu::online() {
        cpu::pin(number)?;
        let error = Msrs::open(number)?.error()?;
        note!("CPU {number}: the host pair is off by {error} ticks");
        ensure!(error <= ONE_SWITCH, "the host pair is off");
    }
    kernel::expect_no_warning()
}

fn main() -> ExitCode {
    ktap::run(&[("the pair and the metrics under random steps", both)])
}

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

mod stressed;
mod watched;

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
use harness::{ONE_SWITCH, cpu, kernel, ktap, note, oracle};
use perf_metrics::guest::vcpu;
use perf_metrics::metrics::require;
use perf_metrics::perf::Topdown;
use perf_metrics::pmu_code;

use stressed::{Plan, Stressed};
use watched::{Watched, sample};

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

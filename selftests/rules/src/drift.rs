// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rules host-continuity, guest-mperf and guest-aperf over many switches in a random
//! order: what a switch leaves unaccounted does not add up.
//!
//! Five vCPUs hop over all CPUs, each in a thread of its own: two that only exit to user
//! space, one of the same with values so high that its reads are intercepted, one that
//! halts there, and one that halts in the kernel. The main thread has a higher priority and
//! preempts them, to read the host pair of its own CPU and of the others.
//!
//! Bounds, however many switches there were, from the first to the last: what the host reads
//! is the truth, but for one switch; in user space the MSRs differ from it, and MPERF of the
//! vCPUs that never halt from the TSC, by no more ticks than [`UNFORESEEN`]. In each run
//! APERF of a vCPU advances by something, and by no more than that of the CPU.
//!
//! But for APERF's [`roundings`].
//!
//!   drift [--switches=N] [--seed=S]
//!
//! The same seed on the same build is the same run.

mod life;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use fastrand::Rng;
use harness::host::Msrs;
use harness::module::Module;
use harness::oracle::{ALL_CPUS, Ratio, THIS_CPU, event};
use harness::sample::Sampler;
use harness::{ONE_SWITCH, Pair, UNFORESEEN, cpu, ktap, note, oracle, roundings, rules};

use life::{Awake, Halting, Life, RATIO, Sleeping};

/// Microseconds between two looks at the host pairs, at most.
const PAUSE: u64 = 300;

#[derive(Parser)]
struct Options {
    /// How often guest or host values are written to the MSRs, at least
    #[arg(long, default_value_t = 2000)]
    switches: u64,
    /// What the order of all events comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs a vCPU here and there until told to stop.
fn live(life: &mut dyn Life, mut random: Rng, stop: &AtomicBool) -> Result<()> {
    let cpus = cpu::online();
    while !stop.load(Ordering::Relaxed) {
        match random.u8(0..8) {
            0 => cpu::pin(random.usize(0..cpus))?,
            1 => thread::sleep(Duration::from_micros(random.u64(0..PAUSE))),
            _ => life.run()?,
        }
    }
    Ok(())
}

/// Writes of both MSRs on all CPUs.
fn switches() -> u64 {
    oracle::count(ALL_CPUS, event::PAIR_WRMSR) / 2
}

/// How far the MSRs of each CPU are ahead of the truth, in user space there.
fn ahead() -> Result<Vec<Pair>> {
    let ahead = |cpu| {
        cpu::pin(cpu)?;
        let truth = oracle::truth(THIS_CPU);
        Ok(truth.hardware - truth.host)
    };
    (0..cpu::online()).map(ahead).collect()
}

/// What APERF loses in a switch follows from the frequency before: each CPU has a few at
/// the frequency of now.
fn learn_frequency() -> Result<()> {
    for cpu in 0..cpu::online() {
        cpu::pin(cpu)?;
        let mut sampler = Sampler::new()?;
        for _ in 0..4 {
            sampler.take()?;
            cpu::spin(10_000);
        }
    }
    Ok(cpu::pin(0)?)
}

/// The largest of each counter.
#[derive(Default)]
struct Worst(Pair);

impl Worst {
    fn update(&mut self, off: Pair) {
        self.0.aperf = self.0.aperf.max(off.aperf);
        self.0.mperf = self.0.mperf.max(off.mperf);
    }
}

/// How often the host pairs were looked at, and the worst errors of what was read and
/// of what the MSRs held.
#[derive(Default)]
struct Looks {
    count: u64,
    read: Worst,
    held: Worst,
}

/// Looks at the host pairs from anywhere and at any time, until there were
/// `goal` switches or a vCPU failed.
fn look(goal: u64, mut random: Rng, stop: &AtomicBool) -> Result<Looks> {
    let cpus = cpu::online();
    let msrs: Vec<_> = (0..cpus).map(Msrs::open).collect::<Result<_>>()?;
    let at_first = ahead()?;
    let _priority = cpu::Alone::on(0)?;
    let start = switches();
    let roundings = roundings(goal);
    let mut looks = Looks::default();
    while switches() - start < goal && !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_micros(random.u64(0..PAUSE)));
        cpu::pin(random.usize(0..cpus))?;
        for (cpu, msrs) in msrs.iter().enumerate() {
            let off = msrs.errors()?;
            ensure!(
                off.aperf <= ONE_SWITCH + roundings && off.mperf <= ONE_SWITCH,
                "the host pair of CPU {cpu} is off by {off}"
            );
            looks.read.update(off);
        }
        looks.count += 1;
        ktap::alive();
    }
    for (cpu, (ahead, at_first)) in ahead()?.into_iter().zip(at_first).enumerate() {
        let off = (ahead - at_first).magnitude();
        ensure!(
            off.aperf <= UNFORESEEN + roundings && off.mperf <= UNFORESEEN,
            "what the MSRs of CPU {cpu} hold has strayed by {off}"
        );
        looks.held.update(off);
    }
    Ok(looks)
}

fn drift() -> Result<()> {
    let Options {
        switches: goal,
        seed,
    } = Options::parse();
    oracle::require()?;
    cpu::pin(0)?;
    let _module = Module::loaded()?;
    let _ratio = Ratio::set(ALL_CPUS, RATIO);
    rules::host_pair_may_be_off(ONE_SWITCH + roundings(goal));
    note!("seed {seed}");
    learn_frequency()?;

    let mut lives: Vec<Box<dyn Life>> = vec![
        Box::new(Awake::new()?),
        Box::new(Awake::new()?),
        Box::new(Awake::intercepted()?),
        Box::new(Halting::new()?),
        Box::new(Sleeping::new()?),
    ];
    let stop = AtomicBool::new(false);
    let start = switches();
    let result = thread::scope(|scope| {
        let threads: Vec<_> = (1..)
            .zip(&mut lives)
            .map(|(id, life)| {
                let random = Rng::with_seed(seed.wrapping_mul(1000) + id);
                let stop = &stop;
                scope.spawn(move || {
                    let result = live(life.as_mut(), random, stop);
                    stop.store(true, Ordering::Relaxed);
                    result.with_context(|| format!("vCPU {id}"))
                })
            })
            .collect();
        let result = look(goal, Rng::with_seed(seed), &stop);
        stop.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap())?;
        result
    });
    let looks = result.map_err(|error| {
        anyhow!(
            "after {} switches, seed {seed}: {error:#}",
            switches() - start
        )
    })?;

    note!(
        "{} switches, {} looks at the host pairs: reads are off by {}, the MSRs by {}",
        switches() - start,
        looks.count,
        looks.read.0,
        looks.held.0
    );
    lives.iter().try_for_each(|life| life.end())
}

pub fn main() -> ExitCode {
    ktap::run(&[("many switches in a random order", drift)])
}

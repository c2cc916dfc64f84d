// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rules host-continuity and guest-mperf over many switches in a random order:
//! what a switch leaves unaccounted does not add up.
//!
//! Four vCPUs hop over all CPUs, each in a thread of its own: two that only exit
//! to user space, one that halts there, and one that halts in the kernel. The main
//! thread has a higher priority and preempts them, to read the host pair of its own
//! CPU and of the others.
//!
//! Bound: that of one switch, however many there were. It holds for the host pair of
//! each CPU against the truth, and for MPERF of the vCPUs that never halt against the
//! TSC, both from the first switch to the last.
//!
//! But for a rounding: nobody knows how far a counter was on its way to the next tick
//! when it was written. MPERF takes the TSC's; APERF is off by less than a tick for each
//! switch, in either direction, so that next to nothing adds up. See [`ROUNDINGS`].
//!
//!   drift [--switches=N] [--seed=S]
//!
//! The same seed on the same build is the same run.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;
use fastrand::Rng;
use harness::guest::{Guest, Vcpu};
use harness::host::Msrs;
use harness::module::Module;
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio, event};
use harness::sample::{Distance, Sample, Sampler};
use harness::{ONE_SWITCH, Pair, cpu, guest_code, ktap, note, oracle, rules};
use kvm_ioctls::VcpuExit;

/// In how many switches APERF is off by one more tick, at most. With the truth random,
/// a million switches come to some 500 ticks; here timers give it a little direction.
const ROUNDINGS: u64 = 500;

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

guest_code! {
    halt_in_userspace:
        "2:"
        "hlt"
        "burn 500"
        "jmp 2b"
}

guest_code! {
    /// The timer of the local APIC ends each HLT.
    halt_in_kernel:
        "cli"
        "timer_one_shot"
        "mov r14, 20000"
        "2:"
        "sleep r14"
        "exit"
        "jmp 2b"
}

/// A vCPU between two of its runs, and what it has to keep to.
trait Life: Send {
    /// One KVM_RUN, and a look at its outcome.
    fn run(&mut self) -> Result<()>;

    /// What the guest pair is now.
    fn pair(&self) -> Result<Pair>;
}

/// Never halts: its MPERF keeps its distance from the TSC.
struct Awake {
    sampler: Sampler,
    distance: Distance,
}

impl Awake {
    fn new() -> Result<Self> {
        let mut sampler = Sampler::new()?;
        let distance = Distance::of(&sampler.take()?);
        Ok(Awake { sampler, distance })
    }
}

impl Life for Awake {
    fn run(&mut self) -> Result<()> {
        let sample: Sample = self.sampler.take()?;
        self.distance.narrow(&sample);
        let error = self.distance.error();
        ensure!(
            error <= ONE_SWITCH,
            "MPERF strayed from the TSC by {error} ticks"
        );
        Ok(())
    }

    fn pair(&self) -> Result<Pair> {
        self.sampler.vcpu.pair()
    }
}

/// Halts in user space: its pair stands still until the next KVM_RUN.
struct Halting {
    vcpu: Vcpu,
    halted: Option<Pair>,
    _guest: Guest,
}

impl Halting {
    fn new() -> Result<Self> {
        let guest = Guest::new(halt_in_userspace())?;
        Ok(Halting {
            vcpu: guest.vcpu(0)?,
            halted: None,
            _guest: guest,
        })
    }
}

impl Life for Halting {
    fn run(&mut self) -> Result<()> {
        let now = self.vcpu.pair()?;
        if let Some(halted) = self.halted {
            ensure!(now == halted, "halted, and advanced by {}", now - halted);
        }
        match self.vcpu.fd_mut().run().context("KVM_RUN")? {
            VcpuExit::Hlt => {}
            exit => bail!("guest stopped with {exit:?}"),
        }
        self.halted = Some(self.vcpu.pair()?);
        Ok(())
    }

    fn pair(&self) -> Result<Pair> {
        self.vcpu.pair()
    }
}

/// Halts in the kernel, in each KVM_RUN.
struct Sleeping {
    vcpu: Vcpu,
    last: Pair,
    /// Before `last` was read.
    tsc: u64,
    _guest: Guest,
}

impl Sleeping {
    fn new() -> Result<Self> {
        let tsc = cpu::tsc();
        let guest = Guest::with_irqchip(halt_in_kernel())?;
        Ok(Sleeping {
            vcpu: guest.vcpu(0)?,
            last: Pair::default(),
            tsc,
            _guest: guest,
        })
    }
}

impl Life for Sleeping {
    fn run(&mut self) -> Result<()> {
        self.vcpu.resume()?;
        let tsc = cpu::tsc();
        let now = self.vcpu.pair()?;
        let (advance, elapsed) = (now - self.last, cpu::tsc() - self.tsc);
        ensure!(
            advance.mperf <= elapsed + ONE_SWITCH,
            "{advance} in {elapsed} ticks"
        );
        (self.last, self.tsc) = (now, tsc);
        Ok(())
    }

    fn pair(&self) -> Result<Pair> {
        self.vcpu.pair()
    }
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

/// Looks at the host pairs from anywhere and at any time, until there were
/// `goal` switches or a vCPU failed. Returns how often it looked and the worst errors.
fn look(goal: u64, mut random: Rng, stop: &AtomicBool) -> Result<(u64, Pair)> {
    let cpus = cpu::online();
    let msrs: Vec<_> = (0..cpus).map(Msrs::open).collect::<Result<_>>()?;
    let _priority = cpu::Alone::on(0)?;
    let start = switches();
    let (mut looks, mut worst) = (0, Pair::default());
    while switches() - start < goal && !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_micros(random.u64(0..PAUSE)));
        cpu::pin(random.usize(0..cpus))?;
        for (cpu, msrs) in msrs.iter().enumerate() {
            let off = msrs.errors()?;
            ensure!(
                off.aperf <= ONE_SWITCH + goal / ROUNDINGS && off.mperf <= ONE_SWITCH,
                "the host pair of CPU {cpu} is off by {off}"
            );
            worst.aperf = worst.aperf.max(off.aperf);
            worst.mperf = worst.mperf.max(off.mperf);
        }
        looks += 1;
        ktap::alive();
    }
    Ok((looks, worst))
}

fn drift() -> Result<()> {
    let Options {
        switches: goal,
        seed,
    } = Options::parse();
    oracle::require()?;
    cpu::pin(0)?;
    let _module = Module::loaded()?;
    let _ratio = Ratio::set(ALL_CPUS, RATIO_ONE * 3 / 5);
    rules::host_pair_may_be_off(ONE_SWITCH + goal / ROUNDINGS);
    note!("seed {seed}");

    let mut lives: Vec<Box<dyn Life>> = vec![
        Box::new(Awake::new()?),
        Box::new(Awake::new()?),
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
    let (looks, worst) = result.map_err(|error| {
        anyhow!(
            "after {} switches, seed {seed}: {error:#}",
            switches() - start
        )
    })?;

    note!(
        "{} switches, {looks} looks at the host pairs, off by {worst}",
        switches() - start
    );
    for life in &lives {
        note!("a guest: {}", life.pair()?);
    }
    Ok(())
}

fn main() -> ExitCode {
    ktap::run(&[("many switches in a random order", drift)])
}

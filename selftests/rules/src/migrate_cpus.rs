// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A vCPU that hops over CPUs for long: its task does, or several tasks on
//! several CPUs run it in turn, or it is moved in the midst of KVM_RUN.
//!
//! Bounds: MPERF keeps to the guest's TSC but for one switch. Between two looks,
//! APERF advances by no more than the CPUs could at their frequency between the
//! TSC before the first look and that after the second, and one switch; so does
//! the sum of all. No read exits.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;

use anyhow::{Result, ensure};
use harness::guest::Vcpu;
use harness::module::Module;
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio};
use harness::sample::{Distance, Sample, Sampler};
use harness::{ONE_SWITCH, cpu, kernel, ktap, note, oracle};

const HOPS: usize = 2000;

/// Of all CPUs.
const RATIO: u64 = RATIO_ONE * 3 / 5;

/// All looks of one guest so far.
struct Watched {
    first: Sample,
    last: Sample,
    distance: Distance,
    looks: u64,
}

/// How far APERF went beyond what the CPUs could from `first` to `last`.
fn excess(first: &Sample, last: &Sample) -> u64 {
    let most = (last.end - first.tsc.1) * RATIO / RATIO_ONE;
    (last.pair - first.pair).aperf.saturating_sub(most)
}

impl Watched {
    fn begin(vcpu: &mut Vcpu) -> Result<Self> {
        let first = Sample::take(vcpu)?;
        Ok(Watched {
            first,
            last: first,
            distance: Distance::of(&first),
            looks: 1,
        })
    }

    fn look(&mut self, vcpu: &mut Vcpu) -> Result<()> {
        let next = Sample::take(vcpu)?;
        let (last, excess) = (self.last, excess(&self.last, &next));
        ensure!(next.exits == 0, "reads exited");
        ensure!(next.pair.mperf > last.pair.mperf, "MPERF stands still");
        ensure!(next.pair.aperf > last.pair.aperf, "APERF stands still");
        ensure!(excess <= ONE_SWITCH, "APERF jumped by {excess} ticks");
        self.distance.narrow(&next);
        self.looks += 1;
        self.last = next;
        Ok(())
    }

    fn expect_right(&self) -> Result<()> {
        let (strays, excess) = (self.distance.error(), excess(&self.first, &self.last));
        let advance = self.last.pair - self.first.pair;
        note!(
            "{} looks: {advance}, MPERF strays by {strays} ticks, APERF is {excess} too far",
            self.looks
        );
        ensure!(strays <= ONE_SWITCH, "MPERF does not keep to the TSC");
        ensure!(excess <= ONE_SWITCH, "APERF gains by hops");
        kernel::expect_no_warning()
    }
}

fn prepare() -> Result<(Module, Ratio, Sampler)> {
    oracle::require()?;
    cpu::require_two()?;
    cpu::pin(0)?;
    let module = Module::loaded()?;
    Ok((module, Ratio::set(ALL_CPUS, RATIO), Sampler::new()?))
}

fn one_task() -> Result<()> {
    let (_module, _ratio, mut sampler) = prepare()?;
    let mut watched = Watched::begin(&mut sampler.vcpu)?;
    for hop in 1..=HOPS {
        cpu::pin(hop % cpu::online())?;
        watched.look(&mut sampler.vcpu)?;
    }
    watched.expect_right()
}

fn several_tasks() -> Result<()> {
    let (_module, _ratio, mut sampler) = prepare()?;
    let watched = Watched::begin(&mut sampler.vcpu)?;
    let (turn, guest) = (Barrier::new(cpu::online()), Mutex::new((watched, sampler)));
    let cpus = cpu::online();

    thread::scope(|scope| {
        let tasks: Vec<_> = (0..cpus)
            .map(|cpu| {
                let (turn, guest) = (&turn, &guest);
                scope.spawn(move || {
                    cpu::pin(cpu).expect("that CPU is online");
                    let mut looked = Ok(());
                    for hop in 0..HOPS / 4 {
                        if hop % cpus == cpu && looked.is_ok() {
                            let (watched, sampler) = &mut *guest.lock().unwrap();
                            looked = watched.look(&mut sampler.vcpu);
                        }
                        turn.wait();
                    }
                    looked
                })
            })
            .collect();
        tasks.into_iter().try_for_each(|task| task.join().unwrap())
    })?;
    let (watched, _) = guest.into_inner().unwrap();
    watched.expect_right()
}

/// The scheduler moves the vCPU's task wherever it happens to be.
fn from_without() -> Result<()> {
    let (_module, _ratio, mut sampler) = prepare()?;
    let task = cpu::thread_id();
    let done = AtomicBool::new(false);
    let mut watched = Watched::begin(&mut sampler.vcpu)?;

    thread::scope(|scope| {
        scope.spawn(|| {
            for cpu in (0..cpu::online()).cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                cpu::pin_thread(task, cpu).expect("that CPU is online");
                cpu::spin(30_000);
            }
        });
        let looked = (0..HOPS).try_for_each(|_| watched.look(&mut sampler.vcpu));
        done.store(true, Ordering::Relaxed);
        looked
    })?;
    watched.expect_right()
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("a task hops from CPU to CPU", one_task),
        ("tasks on all CPUs take turns", several_tasks),
        ("a task is moved while it runs", from_without),
    ])
}

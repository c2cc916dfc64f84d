// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rules clean-exit, host-continuity and opt-in under whatever user space may ask of
//! KVM: a long random sequence of ioctls on VMs and vCPUs, valid or not.
//!
//! Any ioctl may fail, and any guest may die. What must hold all the time:
//!
//! - the kernel does not warn, and keeps frequency invariance;
//! - the module has exactly as many users as there are vCPUs with a pair;
//! - a pair exists exactly if the vCPU's CPUID says so, and between two looks of
//!   user space, if nobody set it, advances by no more than the time allows: MPERF by the
//!   TSC's, APERF in KVM_RUN by the CPUs';
//! - the host pair of each CPU is the truth, but for one switch, and for APERF what
//!   the changes of frequency leave;
//! - nothing is left in memory when all VMs are gone.
//!
//!   fuzz [--operations=N] [--seed=S]
//!
//! The same seed on the same build is the same run.

mod ask;
mod leak;
mod model;
mod operation;
mod program;

use std::collections::VecDeque;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use fastrand::Rng;
use harness::host::Msrs;
use harness::module::{self, Module};
use harness::{cpu, kernel, ktap, msr_device, note, oracle, rules};

use model::World;
use operation::Operation;

/// How many operations pass between two looks at everything.
const LOOK: u64 = 50;

/// How many pass between two signs of life.
const PROGRESS: u64 = 10_000;

/// How many of the last operations a failure tells.
const TOLD: usize = 20;

#[derive(Parser)]
struct Options {
    /// How many operations
    #[arg(long, default_value_t = 1500)]
    operations: u64,
    /// What their order and arguments come from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Looks at what must hold all the time.
fn look(world: &mut World, msrs: &[Msrs]) -> Result<()> {
    kernel::expect_no_warning()?;
    world.expect_users()?;
    world.expect_pairs()?;
    for (cpu, msrs) in msrs.iter().enumerate() {
        world
            .expect_host(msrs.errors()?)
            .with_context(|| format!("CPU {cpu}"))?;
    }
    Ok(())
}

fn random_operations(options: &Options) -> Result<()> {
    let mut random = Rng::with_seed(options.seed);
    let mut world = World::new()?;
    let msrs: Vec<_> = (0..cpu::online())
        .map(|cpu| {
            msr_device::make_true(cpu)?;
            Msrs::open(cpu)
        })
        .collect::<Result<_>>()?;

    let mut last = VecDeque::new();
    for number in 1..=options.operations {
        ktap::alive();
        let operation = Operation::draw(&mut random);
        if number % PROGRESS == 0 {
            note!("{number} operations");
        }
        last.truncate(TOLD - 1);
        last.push_front(format!("{operation:x?}"));
        operation
            .carry_out(&mut world, &mut random)
            .and_then(|()| match number % LOOK {
                0 => look(&mut world, &msrs),
                _ => Ok(()),
            })
            .map_err(|error| {
                anyhow!(
                    "seed {}, operation {number}: {error:#}; the last ones were {}",
                    options.seed,
                    last.make_contiguous().join(", ")
                )
            })?;
    }
    note!("{world}");
    world.clear();
    look(&mut world, &msrs)
}

fn fuzz() -> Result<()> {
    let options = Options::parse();
    oracle::require()?;
    let _module = Module::loaded()?;
    rules::guests_are_not_followed();
    note!("seed {}, {} operations", options.seed, options.operations);

    let before = leak::objects()?;
    random_operations(&options)?;
    leak::expect_none(before, options.operations)?;
    ensure!(module::users()? == 0, "the module still has users");
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("random operations", fuzz),
        (
            "the scheduler's frequency invariance stays on",
            kernel::expect_frequency_invariance,
        ),
    ])
}

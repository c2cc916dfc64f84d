// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule clean-exit when the module does not even load: the kernel is made to fail one
//! of the allocations on the way, each in turn (failslab). Whatever was registered
//! before must be gone, and the next attempt must succeed. A sleep of the host at the end
//! calls whoever has not gone.
//!
//! Bound: one switch between the MSRs and the true counters.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use harness::failslab::{FailNth, Log};
use harness::guest::cpuid;
use harness::module::{self, Module};
use harness::{ONE_SWITCH, cpu, kernel, ktap, msr_device, note, oracle};
use kvm_ioctls::Kvm;

/// More allocations than the kernel needs for any module.
const MOST: u64 = 1 << 11;

/// After so many in a row that are not the module's own, there are no more of these.
const OTHERS: usize = 4;

/// The steps that allocate: files, notices of sleep and shutdown, grants, KVM's hooks.
const STEPS: usize = 5;

/// What became of a load that lacked one allocation.
struct Outcome {
    loaded: bool,
    log: Log,
}

impl Outcome {
    /// Loads the module without allocation `nth`. Leaves no module behind.
    fn of(fail_nth: &FailNth, nth: u64) -> Result<Self> {
        let (loaded, log) = fail_nth.during(nth, module::insert)?;
        if loaded.is_ok() {
            module::remove()?;
        }
        Ok(Outcome {
            loaded: loaded.is_ok(),
            log,
        })
    }

    /// Whether the kernel had by then allocated what it needs for any module.
    fn in_init(&self) -> bool {
        self.log.is_empty() || self.log.names("do_init_module")
    }

    fn is_own(&self) -> bool {
        self.log.names("[kvm_aperfmperf]")
    }
}

/// The first allocation that is not the kernel's own for any module. Before it are
/// some without which a module loads, and their number differs by a few.
fn first_in_init(fail_nth: &FailNth) -> Result<u64> {
    let (mut before, mut in_init) = (0, MOST);
    while before + 1 < in_init {
        let nth = (before + in_init) / 2;
        if Outcome::of(fail_nth, nth)?.in_init() {
            in_init = nth;
        } else {
            before = nth;
        }
    }
    Ok(in_init)
}

/// How many callbacks the kernel has for CPUs that come and go. It panics here if one that
/// is left has its name in memory that is no longer the module's.
fn hotplug_states() -> Result<usize> {
    let path = "/sys/devices/system/cpu/hotplug/states";
    let states = fs::read(path).context(path)?;
    Ok(states.split(|&byte| byte == b'\n').count())
}

/// `states` are the [`hotplug_states`] without the module.
fn expect_nothing_left(states: usize) -> Result<()> {
    ensure!(!module::is_loaded(), "it is half loaded");
    ensure!(
        hotplug_states()? == states,
        "its hotplug callbacks are left"
    );
    ensure!(
        !cpuid::has_pair(&cpuid::supported(&Kvm::new()?)?),
        "KVM offers the feature"
    );
    for cpu in 0..cpu::online() as u64 {
        let truth = oracle::truth(cpu);
        let error = truth.hardware.distance(truth.host);
        ensure!(error <= ONE_SWITCH, "CPU {cpu} is off by {error} ticks");
    }
    kernel::expect_no_warning()
}

/// Suspends the host up to the power going off, where it turns round.
fn sleep() -> Result<()> {
    for (file, value) in [
        ("/sys/module/suspend/parameters/pm_test_delay", "0"),
        ("/sys/power/pm_test", "core"),
        ("/sys/power/mem_sleep", "deep"),
        ("/sys/power/state", "mem"),
        ("/sys/power/pm_test", "none"),
    ] {
        fs::write(file, value).context(file)?;
    }
    Ok(())
}

fn each_step() -> Result<()> {
    oracle::require()?;
    let fail_nth = FailNth::open()?;
    let _module = Module::unloaded()?;
    let states = hotplug_states()?;
    for cpu in (0..cpu::online()).rev() {
        msr_device::make_true(cpu)?;
    }
    let first = first_in_init(&fail_nth)?;
    let (mut own, mut fatal, mut others) = (0, 0, 0);
    for nth in first.. {
        let outcome = Outcome::of(&fail_nth, nth)?;
        expect_nothing_left(states)?;
        if outcome.is_own() {
            (own, others) = (own + 1, 0);
            fatal += usize::from(!outcome.loaded);
        } else {
            others += 1;
        }
        if others == OTHERS {
            break;
        }
    }
    drop(fail_nth);
    note!("{own} allocations are the module's, from {first} on; {fatal} fail the load");
    ensure!(
        fatal >= STEPS,
        "only {fatal} of its steps were seen to fail"
    );

    module::insert().context("it no longer loads")?;
    module::remove()?;
    sleep()?;
    expect_nothing_left(states)
}

pub fn main() -> ExitCode {
    ktap::run(&[("each of its allocations fails", each_step)])
}

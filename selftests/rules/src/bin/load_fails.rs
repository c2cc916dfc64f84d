// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule clean-exit when the module does not even load: the kernel is made to fail one
//! of the allocations on the way, each in turn (failslab). Whatever was registered
//! before must be gone, and the next attempt must succeed. A sleep of the host at the end
//! calls whoever has not gone.
//!
//! Bound: one switch between the MSRs and the true counters.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use harness::guest::cpuid;
use harness::ktap::Skip;
use harness::module::{self, Module};
use harness::{ONE_SWITCH, cpu, kernel, ktap, msr_device, note, oracle};
use kvm_ioctls::Kvm;

const FAILSLAB: &str = "/sys/kernel/debug/failslab";
const FAIL_NTH: &str = "/proc/self/fail-nth";

/// More allocations than a load takes.
const MOST: u64 = 1 << 14;

/// The module is the last to be asked on the way. So many allocations in a row that are
/// not its own come before it.
const OTHERS: usize = 4;

/// The steps that allocate: files, notices of sleep and shutdown, grants, KVM's hooks.
const STEPS: usize = 5;

fn failslab(file: &str, value: &str) -> Result<()> {
    let path = format!("{FAILSLAB}/{file}");
    fs::write(&path, value).context(path)
}

/// What became of a load of which allocation `nth` failed. Leaves no module behind.
fn load_without(nth: u64) -> Result<bool> {
    ktap::alive();
    fs::write(FAIL_NTH, nth.to_string()).context(FAIL_NTH)?;
    let loaded = module::insert();
    fs::write(FAIL_NTH, "0").context(FAIL_NTH)?;
    if loaded.is_ok() {
        module::remove()?;
    }
    Ok(loaded.is_ok())
}

/// The first allocation whose failure does not fail the load.
fn first_harmless() -> Result<u64> {
    let (mut fails, mut loads) = (0, MOST);
    while fails + 1 < loads {
        let nth = (fails + loads) / 2;
        if load_without(nth)? {
            loads = nth;
        } else {
            fails = nth;
        }
    }
    Ok(loads)
}

fn expect_nothing_left() -> Result<()> {
    ensure!(!module::is_loaded(), "it is half loaded");
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
    if fs::metadata(FAILSLAB).is_err() {
        bail!(Skip("the kernel has no failslab".into()));
    }
    let _module = Module::unloaded()?;
    for cpu in (0..cpu::online()).rev() {
        msr_device::make_true(cpu)?;
    }
    // Not only allocations that must not sleep, and no word about it yet.
    failslab("ignore-gfp-wait", "N")?;
    failslab("verbose", "0")?;

    let loads = first_harmless()?;
    failslab("verbose", "2")?;
    let (mut own, mut others) = (0, 0);
    for nth in (1..loads).rev() {
        let before = kernel::count_in_log("[kvm_aperfmperf]")?;
        load_without(nth)?;
        expect_nothing_left()?;
        if kernel::count_in_log("[kvm_aperfmperf]")? > before {
            (own, others) = (own + 1, 0);
        } else {
            others += 1;
        }
        if others == OTHERS {
            break;
        }
    }
    failslab("verbose", "0")?;
    note!("a load fails without any of {loads} allocations, {own} of them the module's");
    ensure!(own >= STEPS, "only {own} of its steps were seen to fail");

    ensure!(load_without(MOST)?, "it no longer loads");
    sleep()?;
    expect_nothing_left()
}

fn main() -> ExitCode {
    ktap::run(&[("each of its allocations fails", each_step)])
}

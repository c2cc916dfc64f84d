// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule clean-exit when the module does not even load: the kernel is made to fail one
//! of the allocations on the way, each in turn (failslab). Whatever was registered
//! before must be gone, and the next attempt must succeed. A sleep of the host at the end
//! calls whoever has not gone.
//!
//! Bound: one switch between the MSRs and the true counters.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use harness::guest::cpuid;
use harness::ktap::Skip;
use harness::module::{self, Module};
use harness::{ONE_SWITCH, cpu, kernel, ktap, log, msr_device, note, oracle};
use kvm_ioctls::Kvm;

const FAILSLAB: &str = "/sys/kernel/debug/failslab";

/// More allocations than the kernel needs for any module.
const MOST: u64 = 1 << 11;

/// After so many in a row that are not the module's own, there are no more of these.
const OTHERS: usize = 4;

/// The steps that allocate: files, notices of sleep and shutdown, grants, KVM's hooks.
const STEPS: usize = 5;

fn failslab(file: &str, value: &str) -> Result<()> {
    let path = format!("{FAILSLAB}/{file}");
    fs::write(&path, value).context(path)
}

/// What became of a load that lacked one allocation.
struct Outcome {
    loaded: bool,
    /// What the kernel had to say, such as where the allocation was asked for.
    log: String,
}

impl Outcome {
    /// Whether the kernel had by then allocated what it needs for any module.
    fn in_init(&self) -> bool {
        !self.log.contains("FAULT_INJECTION") || self.log.contains("do_init_module")
    }

    fn is_own(&self) -> bool {
        self.log.contains("[kvm_aperfmperf]")
    }
}

/// What makes an allocation of this thread fail. It stays open, as to open it takes an
/// allocation, too.
struct FailNth(File);

impl FailNth {
    fn open() -> Result<Self> {
        let path = "/proc/self/fail-nth";
        let file = OpenOptions::new().write(true).open(path).context(path)?;
        Ok(FailNth(file))
    }

    /// Loads the module without allocation `nth`. Leaves no module behind.
    fn load(&self, nth: u64) -> Result<Outcome> {
        ktap::alive();
        let mut tail = log::Tail::new()?;
        self.0.write_all_at(nth.to_string().as_bytes(), 0)?;
        let loaded = module::insert();
        self.0.write_all_at(b"0", 0)?;
        let log = tail.read()?;
        if loaded.is_ok() {
            module::remove()?;
        }
        Ok(Outcome {
            loaded: loaded.is_ok(),
            log,
        })
    }

    /// The first allocation that is not the kernel's own for any module. Before it are
    /// some without which a module loads, and their number differs by a few.
    fn first_in_init(&self) -> Result<u64> {
        let (mut before, mut in_init) = (0, MOST);
        while before + 1 < in_init {
            let nth = (before + in_init) / 2;
            if self.load(nth)?.in_init() {
                in_init = nth;
            } else {
                before = nth;
            }
        }
        Ok(in_init)
    }
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
    // Not only allocations that must not sleep.
    failslab("ignore-gfp-wait", "N")?;
    failslab("verbose", "2")?;
    let _traces_off_console = log::traces_off_console()?;
    let fail_nth = FailNth::open()?;
    let first = fail_nth.first_in_init()?;
    let (mut own, mut fatal, mut others) = (0, 0, 0);
    for nth in first.. {
        let outcome = fail_nth.load(nth)?;
        expect_nothing_left()?;
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
    failslab("verbose", "0")?;
    note!("{own} allocations are the module's, from {first} on; {fatal} fail the load");
    ensure!(
        fatal >= STEPS,
        "only {fatal} of its steps were seen to fail"
    );

    module::insert().context("it no longer loads")?;
    module::remove()?;
    sleep()?;
    expect_nothing_left()
}

fn main() -> ExitCode {
    ktap::run(&[("each of its allocations fails", each_step)])
}

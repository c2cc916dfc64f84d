// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What all other tests rely on: the emulated machine notices where a rule is broken that
//! it watches. Each is broken on purpose, in copies of the machine, which end there; they
//! go on if only others are watched. All bounds are exact.
//!
//! With `--for-real`, a rule is broken in the machine itself, which must end. That is for
//! scripts/check.sh.

use std::cell::Cell;
use std::env;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use harness::guest::{Guest, Vcpu};
use harness::host::Msrs;
use harness::ktap::Skip;
use harness::module::Module;
use harness::oracle::{Event, Outcome, rule};
use harness::pair::MSR_IA32_APERF;
use harness::sweep::{self, Plan, Which};
use harness::{ONE_SWITCH, cpu, guest_code, ktap, msr_device, note, oracle, rules};
use kvm_bindings::{Msrs as MsrList, kvm_msr_entry};

/// A copy of the machine is where so many ticks are missing.
const STALL: u32 = 10_000_000;

/// Copies are made at each of so many instructions of a host read by the module.
const STRIDE: u64 = 16;

/// Far from what any counter is.
const FAR: u64 = 1 << 50;

/// Has copies of this machine do `deed` while it watches `watched`. Returns what became of
/// them.
fn in_copies(watched: u64, deed: impl FnOnce() -> Result<()>) -> Result<Vec<Outcome>> {
    let msrs = Msrs::open(0)?;
    let plan = Plan {
        event: Event::Stall { ticks: STALL },
        times: 1,
        within: sweep::module_text()?,
        which: Which::Every(STRIDE),
        boundaries: 1,
    };
    let elapsed = Cell::new(0);
    oracle::watch(watched, ONE_SWITCH);
    let points = sweep::run(
        &plan,
        || {
            let start = cpu::tsc();
            msrs.error()?;
            elapsed.set(cpu::tsc() - start);
            Ok(())
        },
        || {
            let is_copy = elapsed.get() >= STALL.into();
            Ok(u32::from(is_copy && deed().is_err()))
        },
    );
    rules::forget_guests();
    let outcomes: Vec<_> = points?.iter().map(|point| point.outcome).collect();
    note!("watching {watched:#b}: {outcomes:?}");
    ensure!(!outcomes.is_empty(), "there were no copies");
    Ok(outcomes)
}

/// `deed` breaks one of `broken`, and none of `kept`. It is done in copies only.
fn expect_broken(broken: u64, kept: u64, mut deed: impl FnMut() -> Result<()>) -> Result<()> {
    for (watched, expected) in [(broken, Outcome::Broken), (kept, Outcome::Failures(0))] {
        let outcomes = in_copies(watched, &mut deed)?;
        ensure!(
            outcomes.iter().all(|outcome| *outcome == expected),
            "watching {watched:#b} does not lead to {expected:?}"
        );
    }
    Ok(())
}

/// What the rules are about is as it should be.
fn prepare() -> Result<Module> {
    if oracle::require()?.cpus > 1 {
        bail!(Skip("copies are made of machines with 1 CPU".into()));
    }
    cpu::pin(0)?;
    let module = Module::loaded()?;
    msr_device::make_true(0)?;
    Ok(module)
}

fn nothing_broken() -> Result<()> {
    let _module = prepare()?;
    let outcomes = in_copies(rule::ALL, || Ok(()))?;
    ensure!(
        outcomes
            .iter()
            .all(|outcome| *outcome == Outcome::Failures(0)),
        "the machine sees what is not there"
    );
    Ok(())
}

/// Writes the host's APERF without a word to the harness.
fn write_aperf() -> Result<()> {
    let device = OpenOptions::new().write(true).open("/dev/cpu/0/msr")?;
    Ok(device.write_all_at(&FAR.to_le_bytes(), MSR_IA32_APERF.into())?)
}

fn user_isolation() -> Result<()> {
    let _module = prepare()?;
    expect_broken(rule::USER, rule::ALL & !rule::USER, write_aperf)
}

guest_code! {
    /// Sets its pair far from the host's.
    set_pair:
        "far"
        "2:"
        "exit"
        "jmp 2b"
}

/// Sets a guest's APERF without a word to the harness.
fn set_aperf(vcpu: &Vcpu) -> Result<()> {
    let msrs = MsrList::from_entries(&[kvm_msr_entry {
        index: MSR_IA32_APERF,
        data: FAR,
        ..Default::default()
    }])?;
    let set = vcpu.fd().set_msrs(&msrs).context("KVM_SET_MSRS")?;
    ensure!(set == 1, "KVM_SET_MSRS does not know APERF");
    Ok(())
}

fn guest_isolation() -> Result<()> {
    let _module = prepare()?;
    let guest = Guest::new(set_pair())?;
    let mut vcpu = guest.vcpu(0)?;
    vcpu.resume()?;
    expect_broken(rule::GUEST, rule::USER, || {
        vcpu.resume()?;
        set_aperf(&vcpu)?;
        vcpu.resume()
    })
}

guest_code! {
    only_exit:
        "2:"
        "exit"
        "jmp 2b"
}

fn guest_is_not_host() -> Result<()> {
    let _module = prepare()?;
    let guest = Guest::new(only_exit())?;
    guest.disable_exits_on_pair()?;
    let mut vcpu = guest.vcpu(0)?;
    let isolation = rule::GUEST | rule::GUEST_IS_NOT_HOST;
    expect_broken(isolation, rule::USER | rule::GUEST, || vcpu.resume())
}

fn for_real() -> Result<()> {
    let _module = prepare()?;
    write_aperf()?;
    bail!("the machine goes on")
}

pub fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some("--for-real") {
        return ktap::run(&[("a rule is broken", for_real)]);
    }
    ktap::run(&[
        ("no rule is broken", nothing_broken),
        ("user-isolation", user_isolation),
        ("guest-isolation", guest_isolation),
        ("guest-isolation, with the host's pair", guest_is_not_host),
    ])
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A vCPU's pair starts at zero when its CPUID gets the bit. From then on MPERF
//! counts, as a new vCPU is in C0, and APERF from the first KVM_RUN on.
//!
//! The bounds are what the TSC advanced meanwhile, at ratio 1.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::guest::Guest;
use harness::module::Module;
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio};
use harness::{Pair, cpu, guest_code, ktap, note, oracle};

guest_code! {
    read_first:
        "rdpair r8, r9"
        "exit"
}

fn prepare() -> Result<(Module, Ratio)> {
    oracle::require()?;
    cpu::pin(0)?;
    Ok((Module::loaded()?, Ratio::set(ALL_CPUS, RATIO_ONE)))
}

fn seen_by_user_space() -> Result<()> {
    let _setup = prepare()?;
    let guest = Guest::new(read_first())?;

    let start = cpu::tsc();
    let vcpu = guest.vcpu(0)?;
    let pair = vcpu.pair()?;
    let elapsed = cpu::tsc() - start;

    note!("{pair}, TSC ticks since before KVM_CREATE_VCPU {elapsed}");
    ensure!(pair.aperf == 0, "APERF counts before KVM_RUN");
    ensure!(pair.mperf <= elapsed, "MPERF did not start at zero");
    Ok(())
}

fn seen_by_guest() -> Result<()> {
    let _setup = prepare()?;
    let guest = Guest::new(read_first())?;

    let created = cpu::tsc();
    let mut vcpu = guest.vcpu(0)?;
    let running = cpu::tsc();
    let regs = vcpu.run()?;
    let end = cpu::tsc();

    let pair = Pair {
        aperf: regs.r8,
        mperf: regs.r9,
    };
    note!(
        "{pair}, TSC ticks in KVM_RUN {}, in all {}",
        end - running,
        end - created
    );
    ensure!(regs.r15 == 0, "{} reads faulted", regs.r15);
    ensure!(
        (1..=end - running).contains(&pair.aperf),
        "APERF did not start at zero"
    );
    ensure!(
        (1..=end - created).contains(&pair.mperf),
        "MPERF did not start at zero"
    );
    Ok(())
}

/// The MSRs of the CPU are anything but zero now, and the first VM left its
/// values behind: the second must not find them.
fn seen_by_next_guest() -> Result<()> {
    let _setup = prepare()?;
    seen_by_guest()?;
    seen_by_guest()
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("zero for user space", seen_by_user_space),
        ("zero for the guest's first instructions", seen_by_guest),
        (
            "zero for the next guest on the same CPU",
            seen_by_next_guest,
        ),
    ])
}

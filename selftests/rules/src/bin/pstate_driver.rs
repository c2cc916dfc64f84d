// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule host-continuity for the driver that chooses the CPU's frequency:
//! intel_pstate samples the counters in the scheduler's context, whenever the
//! scheduler looks at the load, and so also while a vCPU's thread is current.
//!
//! The driver is made to ask for one frequency, and each of its samples must show
//! it, within 1 %. It binds only where scripts/boot.sh is asked for this test.

use std::fs;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::guest::Guest;
use harness::ktap::Skip;
use harness::module::Module;
use harness::tracefs::Tracing;
use harness::{cpu, guest_code, kernel, ktap, note, oracle};

/// Where the vCPU runs.
const CPU: usize = 0;
/// One and a half of the emulated CPU's base frequency.
const KHZ: u64 = 300_000;
const TURNS: u64 = 300;

guest_code! {
    /// Makes its values as different from the host's as can be.
    write_and_exit:
        "mov rdi, 1 << 60"
        "wrmsr64 0xe8, rdi"
        "wrmsr64 0xe7, rdi"
        "2:"
        "burn 200000"
        "exit"
        "jmp 2b"
}

fn cpufreq(cpu: usize, file: &str) -> String {
    format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/{file}")
}

/// Lets the driver ask for [`KHZ`] on all CPUs, whatever the load.
fn fix_frequency() -> Result<()> {
    let driver = fs::read_to_string(cpufreq(CPU, "scaling_driver")).unwrap_or_default();
    if driver.trim() != "intel_pstate" {
        bail!(Skip("needs the driver intel_pstate".into()));
    }
    for cpu in 0..cpu::online() {
        for limit in ["scaling_max_freq", "scaling_min_freq"] {
            let file = cpufreq(cpu, limit);
            fs::write(&file, KHZ.to_string()).context(file)?;
        }
    }
    thread::sleep(Duration::from_millis(50));
    Ok(())
}

fn near(khz: u64, percent: u64) -> bool {
    khz.abs_diff(KHZ) <= KHZ * percent / 100
}

fn samples() -> Result<()> {
    let machine = oracle::require()?;
    fix_frequency()?;
    cpu::pin(CPU)?;
    let _module = Module::loaded()?;
    let guest = Guest::new(write_and_exit())?;
    let mut vcpu = guest.vcpu(0)?;

    let tracing = Tracing::of("power/pstate_sample")?;
    let start = cpu::tsc();
    for _ in 0..TURNS {
        vcpu.resume()?;
    }
    let elapsed = cpu::tsc() - start;
    let samples = tracing.stop()?;

    let mut shown = Vec::new();
    for sample in &samples {
        let (pair, tsc) = (sample.pair()?, sample.number("tsc")?);
        ensure!(
            pair.mperf <= tsc + tsc / 100,
            "MPERF overtakes the TSC: {sample:?}"
        );
        shown.push(sample.number("freq")?);
    }
    let (slowest, fastest) = (shown.iter().min(), shown.iter().max());
    let milliseconds = elapsed / (machine.tsc_hz / 1000);
    note!(
        "{} samples in {milliseconds} ms, {slowest:?} to {fastest:?} kHz",
        shown.len()
    );
    // One in 10 ms.
    ensure!(
        shown.len() as u64 >= milliseconds / 20,
        "the driver does not sample"
    );
    ensure!(
        shown.iter().all(|&khz| near(khz, 1)),
        "the driver sees another frequency"
    );
    kernel::expect_no_warning()
}

fn scaling_cur_freq() -> Result<()> {
    oracle::require()?;
    fix_frequency()?;
    cpu::pin(CPU)?;
    let _module = Module::loaded()?;
    let guest = Guest::new(write_and_exit())?;
    let mut vcpu = guest.vcpu(0)?;

    let mut worst = KHZ;
    for _ in 0..TURNS / 10 {
        vcpu.resume()?;
        let khz = fs::read_to_string(cpufreq(CPU, "scaling_cur_freq"))?;
        let khz: u64 = khz.trim().parse()?;
        if khz.abs_diff(KHZ) > worst.abs_diff(KHZ) {
            worst = khz;
        }
    }
    note!("{} reads, furthest off {worst} kHz", TURNS / 10);
    ensure!(near(worst, 10), "the host sees another frequency");
    Ok(())
}

fn main() -> ExitCode {
    ktap::run(&[
        ("what the driver samples", samples),
        ("scaling_cur_freq", scaling_cur_freq),
    ])
}

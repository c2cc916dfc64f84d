// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule host-continuity for the host's other readers: /dev/cpu/N/msr in all its
//! ways, the helpers for MSRs of other CPUs that no device uses, what the module exports,
//! ACPI's feedback counters, perf's view of a vCPU's task, and the scheduler's tick.
//!
//! A read by device, helper or ACPI is bracketed by two looks at the true counters, and may lie
//! outside of its bracket by one switch. What perf counted for a task is compared
//! with the scheduler's account of it, within 1 %: the scheduler's clock stops at
//! another point of a switch than perf does. A frequency may be off by 10 %: it is
//! the average over the last tick only.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::guest::Guest;
use harness::host::{PerfMsr, outside};
use harness::ktap::Skip;
use harness::module::{Helper, Module};
use harness::msr_device::{MsrDevice, Way, make_true};
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio};
use harness::{ONE_SWITCH, cpu, cpufreq, foreign, kernel, ktap, note, oracle};

/// Where the vCPU runs.
const CPU: usize = 0;

const THROTTLED: u64 = RATIO_ONE * 3 / 5;
const READS: u64 = 100;
const MEASURED_NS: u64 = 40_000_000;

fn prepare(ratio: u64) -> Result<(Module, Ratio)> {
    let machine = oracle::require()?;
    // The first switch at another frequency leaves some ticks of APERF for good, and each
    // case has one.
    make_true(CPU)?;
    if cpufreq::driver().is_some() {
        cpufreq::hold(machine.tsc_hz / 1000)?;
    }
    Ok((Module::loaded()?, Ratio::set(ALL_CPUS, ratio)))
}

/// Whether the MSRs of [`CPU`] hold a guest's values.
fn holds_guest_values() -> bool {
    let truth = oracle::truth(CPU as u64);
    truth.hardware.distance(truth.host) > ONE_SWITCH
}

/// Reads from `reader_cpu` while a guest with `code` runs on [`CPU`]. `error` reads and
/// returns how far that was from the truth.
fn read(reader_cpu: usize, code: &[u8], error: impl Fn() -> Result<u64>) -> Result<()> {
    let _setup = prepare(THROTTLED)?;
    let guest = Guest::with_irqchip(code)?;
    let mut vcpu = guest.vcpu(0)?;

    let (worst, found) = foreign::beside(&mut vcpu, CPU, || {
        cpu::pin(reader_cpu)?;
        let (mut worst, mut found) = (0, 0);
        for _ in 0..READS {
            thread::sleep(Duration::from_micros(20));
            let before = holds_guest_values();
            worst = worst.max(error()?);
            found += u64::from(before && holds_guest_values());
        }
        Ok((worst, found))
    })?;

    note!("{READS} reads, worst error {worst} ticks; {found} beside a guest's values");
    ensure!(worst <= ONE_SWITCH, "the host pair is off by {worst} ticks");
    // A reader on the same CPU comes from user space, with the host's values.
    ensure!(
        reader_cpu == CPU || found >= READS / 10,
        "there were no guest values to be confused by"
    );
    Ok(())
}

fn by_device(way: Way, reader_cpu: usize, code: &[u8]) -> Result<()> {
    oracle::require()?;
    let _module = Module::loaded()?;
    let _helpers = Helper::msr_helpers()?;
    let device = MsrDevice::open(CPU)?;
    read(reader_cpu, code, || Ok(device.error(way)?))
}

fn by_device_from_afar(way: Way, code: &[u8]) -> Result<()> {
    cpu::require_two()?;
    by_device(way, 1, code)
}

/// How far what the module exports is from the truth, in ticks, or its TSC from when that
/// was read.
fn exported_error(device: &MsrDevice) -> Result<u64> {
    let now = || (oracle::truth(CPU as u64).host, cpu::tsc());
    let (before, started) = now();
    let (pair, tsc) = device.exported()?;
    let (after, ended) = now();
    Ok(outside(pair.aperf, (before.aperf, after.aperf))
        .max(outside(pair.mperf, (before.mperf, after.mperf)))
        .max(outside(tsc, (started, ended))))
}

fn by_export(reader_cpu: usize, code: &[u8]) -> Result<()> {
    oracle::require()?;
    let _module = Module::loaded()?;
    let _helpers = Helper::msr_helpers()?;
    let device = MsrDevice::open(CPU)?;
    read(reader_cpu, code, || exported_error(&device))
}

fn by_export_from_afar(code: &[u8]) -> Result<()> {
    cpu::require_two()?;
    by_export(1, code)
}

/// How far ACPI's feedback counters are from the truth, in ticks. The reference counter
/// is MPERF, and the delivered one APERF, see scripts/initramfs/cppc.asl.
fn feedback_error() -> Result<u64> {
    let path = format!("/sys/devices/system/cpu/cpu{CPU}/acpi_cppc/feedback_ctrs");
    let before = oracle::truth(CPU as u64).host;
    let counters = fs::read_to_string(path)?;
    let after = oracle::truth(CPU as u64).host;
    let counter = |name: &str| -> Result<u64> {
        let value = counters
            .split_whitespace()
            .find_map(|word| word.strip_prefix(name));
        Ok(value
            .with_context(|| format!("no {name} in {counters}"))?
            .parse()?)
    };
    Ok(outside(counter("del:")?, (before.aperf, after.aperf))
        .max(outside(counter("ref:")?, (before.mperf, after.mperf))))
}

fn by_cppc(reader_cpu: usize, code: &[u8]) -> Result<()> {
    if !Path::new(&format!("/sys/devices/system/cpu/cpu{CPU}/acpi_cppc")).exists() {
        bail!(Skip("this machine's BIOS has no CPPC".into()));
    }
    read(reader_cpu, code, feedback_error)
}

/// Counts a vCPU's thread that shares its CPU with another one.
fn perf_of_a_task() -> Result<()> {
    let machine = oracle::require()?;
    let _setup = prepare(THROTTLED)?;
    let guest = Guest::new(foreign::exits())?;
    let mut vcpu = guest.vcpu(0)?;
    vcpu.resume()?;

    let stop = AtomicBool::new(false);
    let (aperf, mperf, nanoseconds, switches) = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop()
            }
        });
        let counted = (|| -> Result<_> {
            let switches = cpu::thread_switches();
            let aperf = PerfMsr::of_this_thread("aperf")?;
            let mperf = PerfMsr::of_this_thread("mperf")?;
            let read = || -> Result<_> { Ok((aperf.read()?, mperf.read()?, cpu::thread_time())) };
            let start = read()?;
            while cpu::thread_time() - start.2 < MEASURED_NS {
                vcpu.resume()?;
            }
            let end = read()?;
            let switches = cpu::thread_switches() - switches;
            Ok((end.0 - start.0, end.1 - start.1, end.2 - start.2, switches))
        })();
        stop.store(true, Ordering::Relaxed);
        counted
    })?;

    let expected = nanoseconds * (machine.tsc_hz / 1_000_000) / 1_000;
    note!("APERF {aperf}, MPERF {mperf}, by the scheduler {expected}, {switches} switches");
    let bound = kernel::cost(expected / 100);
    ensure!(switches >= 4, "the threads did not take turns");
    ensure!(
        mperf.abs_diff(expected) <= bound,
        "MPERF is not the task's time"
    );
    ensure!(
        aperf.abs_diff(expected * THROTTLED / RATIO_ONE) <= bound,
        "APERF is not what the CPU did for the task"
    );
    Ok(())
}

/// `shown` must follow the true frequency while a guest runs.
fn frequency(shown: fn(usize) -> Result<u64>) -> Result<()> {
    let machine = oracle::require()?;
    for ratio in [THROTTLED, RATIO_ONE / 2, RATIO_ONE] {
        let _setup = prepare(ratio)?;
        let guest = Guest::new(foreign::exits())?;
        let mut vcpu = guest.vcpu(0)?;
        let khz = foreign::beside(&mut vcpu, CPU, || {
            thread::sleep(Duration::from_millis(30));
            shown(CPU)
        })?;

        let expected = machine.tsc_hz / 1000 * ratio / RATIO_ONE;
        note!("{khz} kHz, the CPU runs at {expected} kHz");
        ensure!(
            khz.abs_diff(expected) <= expected / 10,
            "the host sees another frequency"
        );
    }
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("offset, on the same CPU", || {
            by_device(Way::Offset, CPU, foreign::halts())
        }),
        ("registers, on the same CPU", || {
            by_device(Way::Registers, CPU, foreign::halts())
        }),
        ("offset, from another CPU", || {
            by_device_from_afar(Way::Offset, foreign::exits())
        }),
        ("registers, from another CPU", || {
            by_device_from_afar(Way::Registers, foreign::exits())
        }),
        ("registers, from another CPU, while it halts", || {
            by_device_from_afar(Way::Registers, foreign::halts())
        }),
        ("plain helper, on the same CPU", || {
            by_device(Way::OneCpu, CPU, foreign::halts())
        }),
        ("plain helper, from another CPU", || {
            by_device_from_afar(Way::OneCpu, foreign::exits())
        }),
        ("plain helper, from another CPU, while it halts", || {
            by_device_from_afar(Way::OneCpu, foreign::halts())
        }),
        ("plain helper for many CPUs, on the same CPU", || {
            by_device(Way::ManyCpus, CPU, foreign::halts())
        }),
        ("plain helper for many CPUs, from another CPU", || {
            by_device_from_afar(Way::ManyCpus, foreign::exits())
        }),
        ("the module's function, on the same CPU", || {
            by_export(CPU, foreign::halts())
        }),
        ("the module's function, from another CPU", || {
            by_export_from_afar(foreign::exits())
        }),
        (
            "the module's function, from another CPU, while it halts",
            || by_export_from_afar(foreign::halts()),
        ),
        ("feedback counters of ACPI, on the same CPU", || {
            by_cppc(CPU, foreign::halts())
        }),
        ("feedback counters of ACPI, from another CPU", || {
            by_cppc(1, foreign::exits())
        }),
        (
            "feedback counters of ACPI, from another CPU, while it halts",
            || by_cppc(1, foreign::halts()),
        ),
        ("perf of the vCPU's task", perf_of_a_task),
        ("cpu MHz in /proc/cpuinfo", || {
            frequency(cpufreq::cpuinfo_khz)
        }),
        ("scaling_cur_freq", || frequency(cpufreq::scaling_khz)),
        (
            "the scheduler's frequency invariance stays on",
            kernel::expect_frequency_invariance,
        ),
    ])
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! CPUs going offline and coming back under a running VM: an offline CPU holds the
//! host pair, one that came back does its part again, and the guest notices nothing.
//!
//! Bounds: the host pair is right but for one switch. The guest's MPERF keeps to the
//! host's TSC within one switch, and APERF grows by no more than the TSC. Not to the
//! guest's TSC: KVM moves it when a CPU comes online while a vCPU is put, whose TSC it
//! then takes for one ahead of the CPU's, see kvm_arch_enable_virtualization_cpu().

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::guest::Vcpu;
use harness::hotplug::{CPU, Second};
use harness::module::{self, Module};
use harness::msr_device::{self, MsrDevice, Way};
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio};
use harness::sample::{Distance, Sample, Sampler};
use harness::{ONE_SWITCH, cpu, kernel, ktap, note, oracle};

const ROUNDS: u64 = 5;

fn prepare() -> Result<(Second, Ratio)> {
    oracle::require()?;
    cpu::require_two()?;
    for cpu in [CPU, 0] {
        msr_device::make_true(cpu)?;
    }
    Ok((Second, Ratio::set(ALL_CPUS, RATIO_ONE * 3 / 5)))
}

/// Distance of the MSRs of a CPU that runs no guest from the host pair.
fn hardware_error(cpu: usize) -> u64 {
    let truth = oracle::truth(cpu as u64);
    truth.hardware.distance(truth.host)
}

/// What the guest saw over all rounds.
struct Watched {
    samples: u64,
    distance: Distance,
    /// By how many ticks KVM moved its TSC.
    moved: u64,
}

/// A sample by the host's TSC.
fn take(vcpu: &mut Vcpu) -> Result<Sample> {
    loop {
        let offset = vcpu.tsc_offset()?;
        let sample = Sample::take(vcpu)?;
        if vcpu.tsc_offset()? == offset {
            return Ok(sample.by_host_tsc(offset));
        }
    }
}

fn watch(vcpu: &mut Vcpu, stop: &AtomicBool) -> Result<Watched> {
    let offset = vcpu.tsc_offset()?;
    let mut last = take(vcpu)?;
    let mut watched = Watched {
        samples: 1,
        distance: Distance::of(&last),
        moved: 0,
    };
    while !stop.load(Ordering::Relaxed) {
        let next = take(vcpu)?;
        let aperf = (next.pair - last.pair).aperf;
        // APERF is read after MPERF.
        let tsc = next.end - last.tsc.1;
        ensure!((1..=tsc).contains(&aperf), "APERF jumped by {aperf}");
        watched.samples += 1;
        watched.distance.narrow(&next);
        last = next;
    }
    watched.moved = vcpu.tsc_offset()?.wrapping_sub(offset);
    Ok(watched)
}

/// Takes the CPU away from under the vCPU's thread, and brings it back. Returns the
/// worst error of a host pair.
fn round(second: &Second, vcpu_thread: i32) -> Result<u64> {
    let moment = Duration::from_millis(5);
    cpu::pin_thread(vcpu_thread, CPU)?;
    thread::sleep(moment);
    let mut worst = MsrDevice::open(CPU)?.error(Way::Offset)?;

    second.set_online(false)?;
    worst = worst.max(hardware_error(CPU));
    thread::sleep(moment);
    worst = worst.max(hardware_error(CPU));
    worst = worst.max(MsrDevice::open(0)?.error(Way::Offset)?);

    second.set_online(true)?;
    Ok(worst.max(MsrDevice::open(CPU)?.error(Way::Offset)?))
}

fn rounds(vcpu_thread: &AtomicI32, second: &Second) -> Result<u64> {
    while vcpu_thread.load(Ordering::Relaxed) == 0 {
        thread::yield_now();
    }
    let mut worst = 0;
    for _ in 0..ROUNDS {
        worst = worst.max(round(second, vcpu_thread.load(Ordering::Relaxed))?);
    }
    Ok(worst)
}

fn under_a_running_vm() -> Result<()> {
    let (second, _ratio) = prepare()?;
    let _module = Module::loaded()?;
    let mut sampler = Sampler::new()?;
    let vcpu = &mut sampler.vcpu;

    let stop = AtomicBool::new(false);
    let vcpu_thread = AtomicI32::new(0);
    let (watched, worst) = thread::scope(|scope| {
        let runner = scope.spawn(|| {
            vcpu_thread.store(cpu::thread_id(), Ordering::Relaxed);
            watch(vcpu, &stop)
        });
        let worst = rounds(&vcpu_thread, &second);
        stop.store(true, Ordering::Relaxed);
        (runner.join().unwrap(), worst)
    });
    let (watched, worst) = (watched?, worst?);

    let error = watched.distance.error();
    note!("{ROUNDS} rounds, worst error {worst} ticks");
    note!(
        "{} samples, MPERF strays by {error} ticks, KVM moved the TSC by {}",
        watched.samples,
        watched.moved
    );
    ensure!(worst <= ONE_SWITCH, "a host pair was off by {worst} ticks");
    ensure!(error <= ONE_SWITCH, "MPERF does not keep to the TSC");
    kernel::expect_no_warning()
}

fn expect_host_pair(when: &str) -> Result<()> {
    cpu::pin(CPU)?;
    let error = hardware_error(CPU);
    note!("{when} without CPU {CPU}: error {error} ticks");
    ensure!(error <= ONE_SWITCH, "CPU {CPU} is off by {error} ticks");
    Ok(cpu::pin(0)?)
}

/// The module comes and goes while the CPU is offline.
fn without_the_cpu() -> Result<()> {
    let (second, _ratio) = prepare()?;
    let _module = Module::unloaded()?;

    second.set_online(false)?;
    module::insert()?;
    second.set_online(true)?;
    cpu::pin(CPU)?;
    Sampler::new()?.take()?;
    expect_host_pair("loaded")?;

    second.set_online(false)?;
    module::remove()?;
    second.set_online(true)?;
    expect_host_pair("unloaded")?;
    kernel::expect_no_warning()
}

pub fn main() -> ExitCode {
    ktap::run(&[
        (
            "a CPU goes and comes under a running VM",
            under_a_running_vm,
        ),
        ("the module comes and goes without the CPU", without_the_cpu),
    ])
}

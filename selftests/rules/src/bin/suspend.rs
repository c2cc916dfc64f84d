// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The host goes to sleep under a running VM, and comes back: suspend-to-idle up to
//! its last step, and S3 up to the power going off. That is as far as a machine gets
//! that nothing can wake: /sys/power/pm_test turns round there. (Linux has the alarm of
//! the clock wake it by an ACPI event that the emulated chip set lacks.) Tasks are
//! frozen as in a real sleep, and the TSC goes on as in a real suspend-to-idle.
//!
//! Bounds: the host pair is right but for one switch. The guest's pair does not go
//! back, and advances by no more than its TSC and one switch. Over the sleep, it
//! advances by what the guest and the system calls around it take. Afterwards its MPERF
//! keeps to the TSC within one switch, also while the vCPU does not run: a sleep of whose
//! end nobody told would go on to be forgotten.

use std::fs;
use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::cpu::Alone;
use harness::guest::{Guest, Vcpu};
use harness::ktap::Skip;
use harness::module::Module;
use harness::msr_device::{self, MsrDevice, Way};
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio};
use harness::sample::{Distance, Sample, Sampler};
use harness::{ONE_SWITCH, Pair, cpu, guest_code, kernel, ktap, note, oracle, rules};

const STATE: &str = "/sys/power/state";
const MEM_SLEEP: &str = "/sys/power/mem_sleep";
const PM_TEST: &str = "/sys/power/pm_test";
const PM_TEST_DELAY: &str = "/sys/module/suspend/parameters/pm_test_delay";

/// How long the host stays where it turns round.
const SECONDS: &str = "1";

/// Skips a test if `file` does not list `word`.
fn require(file: &str, word: &str) -> Result<()> {
    let words = fs::read_to_string(file).unwrap_or_default();
    if !words.contains(word) {
        bail!(Skip(format!("no {word} in {file}: {}", words.trim())));
    }
    Ok(())
}

/// Suspends to `state` up to `level`, and returns when the host is awake again.
fn suspend(state: &str, level: &str) -> Result<()> {
    fs::write(PM_TEST_DELAY, SECONDS).context(PM_TEST_DELAY)?;
    fs::write(PM_TEST, level).context(PM_TEST)?;
    let slept = fs::write(STATE, state).with_context(|| format!("suspend to {state}"));
    fs::write(PM_TEST, "none").context(PM_TEST)?;
    slept
}

/// The guest looks this often.
const MOMENT: Duration = Duration::from_millis(1);

/// From a guest's look before the sleep to the end of KVM_RUN, and from the next one
/// to its look after: measured are 5,000 to 15,000 ticks, of the 200 millions of the sleep.
const RUN_BOUND: u64 = 150_000;

/// The longest time for which a guest did not look.
#[derive(Default)]
struct Sleep {
    /// Ticks of its TSC.
    tsc: u64,
    advance: Pair,
}

/// Lets the guest look until it is told to stop. Says when it has begun.
fn watch(vcpu: &mut Vcpu, begun: &Barrier, stop: &AtomicBool) -> Result<Sleep> {
    let last = Sample::take(vcpu);
    begun.wait();
    let mut last = last?;
    let mut longest = Sleep::default();
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(MOMENT);
        let next = Sample::take(vcpu)?;
        let advance = next.pair - last.pair;
        let tsc = next.tsc.1 - last.tsc.0;
        for ticks in [advance.aperf, advance.mperf] {
            ensure!(
                (1..=tsc + ONE_SWITCH).contains(&ticks),
                "from {} to {} while the TSC advanced by {tsc}",
                last.pair,
                next.pair
            );
        }
        if tsc > longest.tsc {
            longest = Sleep { tsc, advance };
        }
        last = next;
    }
    Ok(longest)
}

/// How often the guest looks when the sleep is over.
const LOOKS: usize = 20;

/// Fails if the time between two KVM_RUNs is not in the guest's MPERF.
fn expect_awake(sampler: &mut Sampler) -> Result<()> {
    let mut distance = Distance::of(&sampler.take()?);
    for _ in 1..LOOKS {
        thread::sleep(MOMENT);
        distance.narrow(&sampler.take()?);
    }
    let error = distance.error();
    note!("awake, MPERF strays from the TSC by {error} ticks");
    ensure!(error <= ONE_SWITCH, "the sleep has no end");
    Ok(())
}

fn under_a_running_vm(state: &str, level: &str) -> Result<()> {
    let machine = oracle::require()?;
    require(STATE, state)?;
    require(PM_TEST, level)?;
    for cpu in (0..cpu::online()).rev() {
        msr_device::make_true(cpu)?;
    }
    let _module = Module::loaded()?;
    let _ratio = Ratio::set(ALL_CPUS, RATIO_ONE * 3 / 5);
    let mut sampler = Sampler::new()?;
    let vcpu = &mut sampler.vcpu;

    let begun = Barrier::new(2);
    let stop = AtomicBool::new(false);
    let (longest, slept) = thread::scope(|scope| {
        let runner = scope.spawn(|| {
            cpu::pin(cpu::online() - 1).expect("that CPU is online");
            watch(vcpu, &begun, &stop)
        });
        begun.wait();
        thread::sleep(10 * MOMENT);
        let slept = suspend(state, level);
        thread::sleep(10 * MOMENT);
        stop.store(true, Ordering::Relaxed);
        (runner.join().unwrap(), slept)
    });
    slept?;

    let Sleep { tsc, advance } = longest?;
    note!("the guest did not run for {tsc} ticks: {advance}");
    ensure!(tsc >= machine.tsc_hz / 2, "the host did not sleep");
    ensure!(
        advance.aperf.max(advance.mperf) <= RUN_BOUND,
        "the sleep is in the guest's pair"
    );
    expect_awake(&mut sampler)?;
    for cpu in 0..cpu::online() {
        let error = MsrDevice::open(cpu)?.error(Way::Offset)?;
        note!("host pair of CPU {cpu} is off by {error} ticks");
        ensure!(error <= ONE_SWITCH, "the host pair of CPU {cpu} is wrong");
    }
    kernel::expect_no_warning()
}

fn suspend_to_ram() -> Result<()> {
    require(MEM_SLEEP, "deep")?;
    fs::write(MEM_SLEEP, "deep").context(MEM_SLEEP)?;
    under_a_running_vm("mem", "core")
}

/// How long after the beginning of a suspend to RAM its CPU loses its counters: it then
/// waits where the host turns round.
const OFF: Duration = Duration::from_millis(500);

/// Suspends to RAM, in which CPU 0 loses its counters.
fn suspend_and_clear() -> Result<()> {
    let machine = oracle::require()?;
    oracle::clear_pair(0, machine.tsc_hz / 1000 * OFF.as_millis() as u64);
    let before = oracle::truth(0).hardware;
    suspend("mem", "core")?;
    let after = oracle::truth(0).hardware;
    note!("the counters were {before}, and are {after}");
    ensure!(after.mperf < before.mperf, "the counters were not reset");
    Ok(())
}

/// What the MSRs of CPU 0 are apart from what the CPU did.
fn apart() -> Pair {
    let truth = oracle::truth(0);
    truth.host - truth.hardware
}

/// Allows to suspend to RAM as often as wanted. The caller is on CPU 0.
fn prepare_to_clear() -> Result<Cleared> {
    oracle::require()?;
    require(STATE, "mem")?;
    require(MEM_SLEEP, "deep")?;
    require(PM_TEST, "core")?;
    fs::write(MEM_SLEEP, "deep").context(MEM_SLEEP)?;
    cpu::pin(0)?;
    rules::host_pair_is_untrue();
    Ok(Cleared)
}

/// In a real S3 the counters are reset. What they were before must not make up a
/// frequency with what they are after: MPERF has just passed it, in no time as it seems.
fn counters_are_reset() -> Result<()> {
    let _cleared = prepare_to_clear()?;
    let _alone = Alone::on(0)?;
    let _unloaded = Module::unloaded()?;
    // For the counters to be low before, too.
    suspend_and_clear()?;

    let slow = Ratio::set(ALL_CPUS, RATIO_ONE / 8);
    let _module = Module::loaded()?;
    let mut sampler = Sampler::new()?;
    sampler.take()?;
    drop(slow);
    let passed = oracle::truth(0).hardware.mperf + 10_000;
    suspend_and_clear()?;
    while oracle::truth(0).hardware.mperf < passed {
        ktap::alive();
    }

    let before = apart();
    for _ in 0..100 {
        sampler.take()?;
    }
    let lost = apart().distance(before);
    note!("the host pair lost {lost} ticks");
    ensure!(lost <= ONE_SWITCH, "a frequency was made up");
    kernel::expect_no_warning()
}

guest_code! {
    spin:
        "2:"
        "jmp 2b"
}

/// A vCPU that is frozen in KVM_RUN leaves its values on its CPU, where nobody returns to
/// user space any more. What the host's counters are apart from them must not outlive the
/// reset: with the module, too, they have been reset.
fn counters_are_reset_under_a_guest() -> Result<()> {
    let _cleared = prepare_to_clear()?;
    let _module = Module::loaded()?;
    let guest = Guest::new(spin())?;
    let mut vcpu = guest.vcpu(0)?;
    let (slept, end) = thread::scope(|scope| {
        let runner = scope.spawn(|| vcpu.fd_mut().run().err().map(|error| error.errno()));
        thread::sleep(10 * MOMENT);
        (suspend_and_clear(), runner.join().unwrap())
    });
    ensure!(end == Some(libc::EINTR), "KVM_RUN: {end:?}, not EINTR");
    slept?;
    kernel::expect_no_warning()
}

/// Has the MSRs hold the truth again when this is dropped.
struct Cleared;

impl Drop for Cleared {
    fn drop(&mut self) {
        msr_device::make_true(0).expect("the MSRs can be written");
    }
}

fn main() -> ExitCode {
    ktap::run(&[
        ("suspend-to-idle", || {
            under_a_running_vm("freeze", "platform")
        }),
        ("S3", suspend_to_ram),
        ("S3 that resets the counters", counters_are_reset),
        (
            "S3 that resets the counters under a guest",
            counters_are_reset_under_a_guest,
        ),
    ])
}

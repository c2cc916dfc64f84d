// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The host goes to sleep under a running VM, and comes back: suspend-to-idle until the
//! clock's alarm, and S3, in which the CPUs go through a reset and the BIOS. The emulated
//! machine has no S3 that lasts, it resets at once. So S3 is also tried up to the power
//! going off, where /sys/power/pm_test waits and turns round.
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
use harness::{ONE_SWITCH, Pair, cpu, guest_code, kernel, ktap, note, oracle};

const STATE: &str = "/sys/power/state";
const MEM_SLEEP: &str = "/sys/power/mem_sleep";
const PM_TEST: &str = "/sys/power/pm_test";
const ALARM: &str = "/sys/class/rtc/rtc0/wakealarm";
const PM_TEST_DELAY: &str = "/sys/module/suspend/parameters/pm_test_delay";

/// How long the host stays where it turns round.
const SECONDS: &str = "1";

/// No turning round.
const WHOLLY: &str = "none";

/// When the alarm of the clock rings.
const ALARM_AFTER: &str = "+3";

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
    fs::write(PM_TEST, WHOLLY).context(PM_TEST)?;
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

/// Sleeps while a guest runs. Returns for how many ticks of its TSC the guest did not.
fn under_a_running_vm(state: &str, level: &str) -> Result<u64> {
    oracle::require()?;
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
    kernel::expect_no_warning()?;
    Ok(tsc)
}

fn suspend_to_idle() -> Result<()> {
    let machine = oracle::require()?;
    fs::write(ALARM, "0").context(ALARM)?;
    fs::write(ALARM, ALARM_AFTER).context(ALARM)?;
    let slept = under_a_running_vm("freeze", WHOLLY)?;
    ensure!(slept >= machine.tsc_hz, "the host did not sleep");
    Ok(())
}

fn suspend_to_ram(level: &str) -> Result<u64> {
    require(MEM_SLEEP, "deep")?;
    fs::write(MEM_SLEEP, "deep").context(MEM_SLEEP)?;
    under_a_running_vm("mem", level)
}

fn suspend_until_power_off() -> Result<()> {
    let machine = oracle::require()?;
    let slept = suspend_to_ram("core")?;
    ensure!(slept >= machine.tsc_hz / 2, "the host did not sleep");
    Ok(())
}

/// Allows to suspend to RAM as often as wanted. The caller is on CPU 0.
fn prepare_to_reset() -> Result<()> {
    oracle::require()?;
    require(STATE, "mem")?;
    require(MEM_SLEEP, "deep")?;
    fs::write(MEM_SLEEP, "deep").context(MEM_SLEEP)?;
    Ok(cpu::pin(0)?)
}

/// What `suspend` to RAM does, which CPU 0 goes through a reset in.
fn resetting(suspend: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = oracle::truth(0).hardware;
    suspend()?;
    let after = oracle::truth(0).hardware;
    note!("the counters were {before}, and are {after}");
    ensure!(after.mperf < before.mperf, "the counters were not reset");
    Ok(())
}

fn suspend_and_reset() -> Result<()> {
    resetting(|| suspend("mem", WHOLLY))
}

/// What the MSRs of CPU 0 are apart from what the CPU did.
fn apart() -> Pair {
    let truth = oracle::truth(0);
    truth.host - truth.hardware
}

/// What the counters were before a reset must not make up a frequency with what they are
/// after it: MPERF has just passed it, in no time as it seems.
fn counters_are_reset() -> Result<()> {
    prepare_to_reset()?;
    let _alone = Alone::on(0)?;
    let _unloaded = Module::unloaded()?;
    // For the counters to be low before, too.
    suspend_and_reset()?;

    let slow = Ratio::set(ALL_CPUS, RATIO_ONE / 8);
    let _module = Module::loaded()?;
    let mut sampler = Sampler::new()?;
    sampler.take()?;
    drop(slow);
    let passed = oracle::truth(0).hardware.mperf + 10_000;
    suspend_and_reset()?;
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
    prepare_to_reset()?;
    let _module = Module::loaded()?;
    let guest = Guest::new(spin())?;
    let mut vcpu = guest.vcpu(0)?;
    let (slept, end) = thread::scope(|scope| {
        let runner = scope.spawn(|| vcpu.fd_mut().run().err().map(|error| error.errno()));
        thread::sleep(10 * MOMENT);
        (suspend_and_reset(), runner.join().unwrap())
    });
    ensure!(end == Some(libc::EINTR), "KVM_RUN: {end:?}, not EINTR");
    slept?;
    kernel::expect_no_warning()
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("suspend-to-idle", suspend_to_idle),
        ("S3 until the power goes off", suspend_until_power_off),
        ("S3 with a reset", || {
            resetting(|| suspend_to_ram(WHOLLY).map(drop))
        }),
        ("S3 with a reset to low values", counters_are_reset),
        (
            "S3 that resets the counters under a guest",
            counters_are_reset_under_a_guest,
        ),
    ])
}

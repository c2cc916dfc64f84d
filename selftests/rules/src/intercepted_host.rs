// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Intercepted mode on a host that has a CPU whose MPERF does not tick with its TSC.
//! All guests' reads exit then, whether the CPU was there when the module was loaded or
//! comes later. While there are guests that read the MSRs it cannot come.
//!
//! Bounds: MPERF keeps to the guest's TSC but for the rounding of its start and of two
//! values of the TSC. Over ten million instructions, APERF is what the CPU did but for a
//! thousandth: the host's tick may come between the exits of two reads. The host's
//! counters are as if there were no module, as nobody writes them: exact.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::cpu::Alone;
use harness::guest::Guest;
use harness::hotplug::{CPU, Second};
use harness::module::{self, Anew, Module};
use harness::msr_device::{MsrDevice, Way};
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio, event};
use harness::sample::{Distance, Sampler};
use harness::{ONE_SWITCH, Pair, cpu, guest_code, kernel, ktap, note, oracle};

const SAMPLES: u64 = 100;
const ROUNDING: u64 = 3;

/// MPERF at half of the TSC's frequency, and the CPU at three fifths.
const MPERF: u64 = RATIO_ONE / 2;
const APERF: u64 = RATIO_ONE * 3 / 5;

const INTERCEPTED: &str = "MPERF does not tick with the TSC here: all guest reads are intercepted";
const LOADED: &str = "loaded; guest reads are intercepted";
const STAYS_OFFLINE: &str = "this CPU stays offline: MPERF does not tick with the TSC";

/// Fails unless `work` has the kernel say `text` once.
fn expect_log<T>(text: &str, work: impl FnOnce() -> T) -> Result<T> {
    let before = kernel::count_in_log(text)?;
    let done = work();
    let said = kernel::count_in_log(text)? - before;
    ensure!(said == 1, "\"{text}\" is in the log {said} times");
    Ok(done)
}

/// Each of the guest's reads takes so many exits, and MPERF keeps to the TSC.
fn expect_samples(sampler: &mut Sampler, exits: u64) -> Result<()> {
    let mut last = sampler.take()?;
    let mut distance = Distance::of(&last);
    let mut taken = 0;
    for _ in 0..SAMPLES {
        let next = sampler.take()?;
        ensure!(next.pair.aperf > last.pair.aperf, "APERF ran backwards");
        ensure!(next.pair.mperf > last.pair.mperf, "MPERF ran backwards");
        distance.narrow(&next);
        taken += next.exits;
        last = next;
    }
    let error = distance.error();
    note!("{SAMPLES} samples: MPERF strays by {error} ticks, {taken} exits");
    let allowed = if exits == 0 { ONE_SWITCH } else { ROUNDING };
    ensure!(error <= allowed, "MPERF does not keep to the TSC");
    ensure!(taken == exits * 2 * SAMPLES, "{taken} exits");
    Ok(())
}

guest_code! {
    /// Exits once, so that all pages are there. Reads to R8 and R9, and ten million ticks
    /// later to R10 and R11.
    burn_between_reads:
        "exit"
        "rdpair r8, r9"
        "burn 10000000"
        "rdpair r10, r11"
        "exit"
}

/// The guest reads how fast the CPU runs, whatever MPERF of the CPU does.
fn expect_frequency(cpu: usize) -> Result<()> {
    let _alone = Alone::on(cpu)?;
    let guest = Guest::new(burn_between_reads())?;
    let mut vcpu = guest.vcpu(0)?;
    vcpu.resume()?;
    let regs = vcpu.run()?;
    let pair = |aperf, mperf| Pair { aperf, mperf };
    let advance = pair(regs.r10, regs.r11) - pair(regs.r8, regs.r9);
    let expected = advance.mperf * APERF / RATIO_ONE;
    note!("on CPU {cpu}, the guest sees {advance}");
    ensure!(
        advance.mperf >= 10_000_000
            && advance.aperf.abs_diff(expected) <= kernel::cost(expected / 1000),
        "the guest does not see the CPU's frequency"
    );
    Ok(())
}

/// What has been written to the MSRs of a CPU.
#[derive(PartialEq)]
struct Written {
    apart: Pair,
    writes: u64,
}

impl Written {
    fn to(cpu: usize) -> Self {
        let truth = oracle::truth(cpu as u64);
        Written {
            apart: truth.host - truth.hardware,
            writes: oracle::count(cpu as u64, event::PAIR_WRMSR),
        }
    }
}

/// Guests' reads are intercepted on `cpu`, and the host's counters are left alone.
fn expect_intercepted(cpu: usize) -> Result<()> {
    cpu::pin(cpu)?;
    let before = Written::to(cpu);
    expect_samples(&mut Sampler::new()?, 1)?;
    expect_frequency(cpu)?;
    let error = MsrDevice::open(cpu)?.error(Way::Offset)?;
    note!("host pair of CPU {cpu} is off by {error} ticks");
    ensure!(error <= ONE_SWITCH, "the host reads a wrong pair");
    ensure!(Written::to(cpu) == before, "somebody wrote the MSRs");
    Ok(cpu::pin(0)?)
}

/// The MSRs of a CPU that is not as it should be have not been written since, nor when the
/// module measured it.
fn expect_unwritten(cpu: usize, since: &Written) -> Result<()> {
    ensure!(
        Written::to(cpu) == *since,
        "the module wrote the MSRs of CPU {cpu}"
    );
    Ok(())
}

fn at_load() -> Result<()> {
    oracle::require()?;
    cpu::pin(0)?;
    let _module = Module::unloaded()?;
    let _ratio = Ratio::set(ALL_CPUS, APERF);
    {
        let _erratum = Ratio::set_mperf(0, MPERF);
        let before = Written::to(0);
        expect_log(INTERCEPTED, || expect_log(LOADED, module::insert))???;
        for cpu in 0..cpu::online() {
            expect_intercepted(cpu)?;
        }
        expect_unwritten(0, &before)?;
    }

    // With a CPU as it should be, the next load passes reads through.
    module::remove()?;
    module::insert()?;
    expect_samples(&mut Sampler::new()?, 0)?;
    kernel::expect_no_warning()
}

/// Two CPUs as they should be, and a module that thinks so.
fn prepare_two() -> Result<(Second, Anew, Ratio)> {
    oracle::require()?;
    cpu::require_two()?;
    cpu::pin(0)?;
    Ok((Second, Anew::loaded()?, Ratio::set(ALL_CPUS, APERF)))
}

/// CPU 1 is offline, and will come back with an MPERF that does not tick with its TSC.
fn take_away(second: &Second) -> Result<Ratio> {
    second.set_online(false)?;
    Ok(Ratio::set_mperf(CPU as u64, MPERF))
}

fn comes_online() -> Result<()> {
    let (second, _module, _ratio) = prepare_two()?;
    expect_samples(&mut Sampler::new()?, 0)?;

    let _erratum = take_away(&second)?;
    let before = Written::to(CPU);
    expect_log(INTERCEPTED, || second.set_online(true))??;
    for cpu in [0, CPU] {
        expect_intercepted(cpu)?;
    }
    expect_unwritten(CPU, &before)?;
    kernel::expect_no_warning()
}

fn stays_offline() -> Result<()> {
    let (second, _module, _ratio) = prepare_two()?;
    let mut sampler = Sampler::new()?;

    let _erratum = take_away(&second)?;
    let before = Written::to(CPU);
    let error = expect_log(STAYS_OFFLINE, || second.set_online(true))?.err();
    let error = error.and_then(|error| error.raw_os_error());
    ensure!(
        error == Some(libc::EOPNOTSUPP),
        "the CPU did not stay offline: {error:?}"
    );
    ensure!(cpu::online() == 1, "the CPU is online");
    expect_samples(&mut sampler, 0)?;

    drop(sampler);
    expect_log(INTERCEPTED, || second.set_online(true))??;
    expect_intercepted(CPU)?;
    expect_unwritten(CPU, &before)?;
    kernel::expect_no_warning()
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("the module is loaded on such a CPU", at_load),
        ("such a CPU comes online", comes_online),
        ("guests keep such a CPU offline", stays_offline),
    ])
}

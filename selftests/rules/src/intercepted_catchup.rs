// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Intercepted mode for a guest that asked for a TSC faster than the host's where KVM
//! cannot scale it: KVM moves it forward at each VM entry, unless it has a master clock,
//! which it does not have for vCPUs whose TSCs differ. MPERF must tick at the frequency
//! that was asked for all the same. Needs kvm-amd, which can be told not to scale;
//! kvm-intel scales if the CPU can, and the emulated one can.
//!
//! Bounds: MPERF fits to the host's TSC at that frequency, each read taken between the
//! beginning and the end of its KVM_RUN, but for a tick of rounding for each of MPERF and
//! the two values of the TSC. Passed through, one switch more.

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use harness::ktap::Skip;
use harness::module::{KvmWithoutTscScaling, Module};
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::sample::{Distance, Sample, Sampler};
use harness::{ONE_SWITCH, cpu, ktap, note, oracle};
use kvm_ioctls::{Cap, Kvm};

const SAMPLES: u64 = 100;
const ROUNDING: u64 = 3;

const MSR_IA32_TSC: u32 = 0x10;

/// Ticks of the host's TSC between two samples.
const PAUSE: u64 = 500_000;

/// Samples at `percent` of the host's frequency, which go on from `last`.
fn expect(sampler: &mut Sampler, percent: u64, mut last: Sample) -> Result<Sample> {
    let scale = |host: u64| (u128::from(host) * u128::from(percent) / 100) as u64;
    let start = cpu::tsc();
    let mut distance: Option<Distance> = None;
    let (mut exits, mut guest) = (0, 0);
    for _ in 0..SAMPLES {
        let before = cpu::tsc() - start;
        let next = sampler.take()?;
        let after = cpu::tsc() - start;
        ensure!(next.pair.aperf > last.pair.aperf, "APERF ran backwards");
        ensure!(next.pair.mperf > last.pair.mperf, "MPERF ran backwards");
        let by_host = Sample {
            tsc: (scale(before), scale(after)),
            ..next
        };
        match &mut distance {
            Some(distance) => {
                distance.narrow(&by_host);
                guest += next.tsc.0 - last.tsc.0;
            }
            None => distance = Some(Distance::of(&by_host)),
        }
        exits += next.exits;
        last = next;
        cpu::spin(PAUSE);
    }

    let error = distance.map_or(0, |distance| distance.error());
    let host = (SAMPLES - 1) * PAUSE;
    note!("at {percent} %: MPERF strays by {error} ticks, {exits} exits, TSC {guest} in {host}");
    let (allowed, expected) = if percent == 100 {
        (ROUNDING + ONE_SWITCH, 0)
    } else {
        (ROUNDING, 2 * SAMPLES)
    };
    ensure!(guest >= scale(host), "KVM does not catch up");
    ensure!(error <= allowed, "MPERF does not keep to the frequency");
    ensure!(exits == expected, "{exits} exits instead of {expected}");
    Ok(last)
}

fn catch_up() -> Result<()> {
    oracle::require()?;
    cpu::pin(0)?;
    if !cpu::is_amd() {
        bail!(Skip("kvm-intel cannot be told not to scale".into()));
    }
    let _module = Module::loaded()?;
    let _kvm = KvmWithoutTscScaling::loaded()?;
    ensure!(
        !Kvm::new()?.check_extension(Cap::TscControl),
        "KVM scales all the same"
    );
    let _ratio = Ratio::set(THIS_CPU, RATIO_ONE);

    let mut sampler = Sampler::new()?;
    let mut other = sampler.guest.vcpu(1)?;
    other.set_msr(MSR_IA32_TSC, 1 << 50)?;
    other.resume()?;
    let host = sampler.vcpu.fd().get_tsc_khz()?;
    let mut last = sampler.take()?;
    for percent in [100, 150, 100, 250, 100] {
        let khz = (u64::from(host) * percent / 100) as u32;
        sampler.vcpu.fd().set_tsc_khz(khz)?;
        last = expect(&mut sampler, percent, last)?;
    }
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[("KVM catches up with a faster TSC", catch_up)])
}

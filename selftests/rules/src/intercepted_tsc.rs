// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Intercepted mode for a guest whose TSC runs at another frequency than the
//! host's: MPERF ticks with the guest's TSC, reads exit, and no longer than needed.
//!
//! Bounds: intercepted, MPERF is exact but for what rounding takes, which is a tick
//! for each of MPERF, its start and the TSC. Passed through, it is off by at most one
//! switch. Over a change, it advances by what lies between the two frequencies. Where
//! the change interrupts the guest, by the sum of what both make of their part of the
//! time, but for the ways into KVM_RUN and out of it. At the base frequency, APERF is
//! the time that KVM_RUN takes, but for these ways.

use std::io;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use harness::cpu::Alone;
use harness::guest::{Guest, Vcpu};
use harness::ktap::Skip;
use harness::module::Module;
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::sample::{Distance, Sample, Sampler};
use harness::signal::Kick;
use harness::{ONE_SWITCH, cpu, guest_code, kernel, ktap, note, oracle};
use kvm_bindings::{KVM_CAP_VM_TSC_CONTROL, kvm_regs};
use kvm_ioctls::{Cap, Kvm};

/// `_IO(KVMIO, 0xa2)`: for a VM, it takes effect for vCPUs to come.
const KVM_SET_TSC_KHZ: u64 = 0xaea2;

const SAMPLES: u64 = 100;
const ROUNDING: u64 = 3;

/// A time at one frequency.
struct Phase {
    khz: u64,
    first: Sample,
    last: Sample,
    /// Host TSC before and after the first sample, and the last.
    host: [u64; 4],
}

/// Ticks of a TSC at `khz` in `host` ticks of one at `host_khz`.
fn scale(host: u64, khz: u64, host_khz: u64) -> u64 {
    (u128::from(host) * u128::from(khz) / u128::from(host_khz)) as u64
}

impl Phase {
    /// Lets the guest look for a while, at `khz`.
    fn run(sampler: &mut Sampler, khz: u64, host_khz: u64) -> Result<Self> {
        let start = cpu::tsc();
        let first = sampler.take()?;
        let started = cpu::tsc();
        let mut distance = Distance::of(&first);
        let (mut last, mut exits) = (first, first.exits);
        let (mut ending, mut ended) = (start, started);
        for _ in 1..SAMPLES {
            ending = cpu::tsc();
            let next = sampler.take()?;
            ended = cpu::tsc();
            distance.narrow(&next);
            ensure!(next.pair.aperf > last.pair.aperf, "APERF ran backwards");
            ensure!(next.pair.mperf > last.pair.mperf, "MPERF ran backwards");
            exits += next.exits;
            last = next;
        }

        let error = distance.error();
        let reads = 2 * SAMPLES;
        note!("at {khz} kHz: MPERF strays by {error} ticks, {exits} exits by {reads} reads");
        let guest = last.tsc.0 - first.tsc.0;
        let least = scale(ending - started, khz, host_khz);
        let most = scale(ended - start, khz, host_khz) + 1;
        ensure!(
            (least..=most).contains(&guest),
            "the guest's TSC does not run at {khz} kHz"
        );
        let (allowed, expected) = if khz == host_khz {
            (ONE_SWITCH, 0)
        } else {
            (ROUNDING, reads)
        };
        ensure!(error <= allowed, "MPERF does not keep to the TSC");
        ensure!(exits == expected, "{exits} exits instead of {expected}");
        Ok(Phase {
            khz,
            first,
            last,
            host: [start, started, ending, ended],
        })
    }

    /// Nothing jumped since `before`, which had another frequency.
    fn expect_continues(&self, before: &Phase, host_khz: u64) -> Result<()> {
        let shortest = self.host[0] - before.host[3];
        let longest = self.host[1] - before.host[2];
        let advance = self.first.pair - before.last.pair;
        note!(
            "from {} to {} kHz: {advance}, host TSC {shortest} to {longest}",
            before.khz,
            self.khz
        );
        let least = scale(shortest, before.khz.min(self.khz), host_khz);
        let most = scale(longest, before.khz.max(self.khz), host_khz) + ONE_SWITCH;
        ensure!((least..=most).contains(&advance.mperf), "MPERF jumped");
        ensure!((1..=longest).contains(&advance.aperf), "APERF jumped");
        Ok(())
    }
}

/// Kilohertz of the host's TSC, as KVM knows it, if KVM can scale it.
fn prepare() -> Result<(Module, Ratio, u64)> {
    oracle::require()?;
    cpu::pin(0)?;
    if !Kvm::new()?.check_extension(Cap::TscControl) {
        bail!(Skip("this CPU cannot scale a guest's TSC".into()));
    }
    let module = Module::loaded()?;
    let khz = Sampler::new()?.vcpu.fd().get_tsc_khz()?;
    Ok((module, Ratio::set(THIS_CPU, RATIO_ONE), khz.into()))
}

/// Changes the frequency of a vCPU that has already run, there and back.
fn of_a_vcpu(sampler: fn() -> Result<Sampler>) -> Result<()> {
    let (_module, _ratio, host) = prepare()?;
    let mut sampler = sampler()?;

    let mut before = Phase::run(&mut sampler, host, host)?;
    for khz in [host / 2, host * 3 / 2, 123_457, host, host * 2, host] {
        sampler.vcpu.fd().set_tsc_khz(khz as u32)?;
        let after = Phase::run(&mut sampler, khz, host)?;
        after.expect_continues(&before, host)?;
        before = after;
    }
    Ok(())
}

/// Four ways into KVM_RUN or out of it, with fewer than 15,000 instructions each.
const RUN_BOUND: u64 = 60_000;

guest_code! {
    /// Reads MPERF to R8, runs for 40 ms, and reads it to R9.
    run_long:
        "2:"
        "exit"
        "rdmsr64 0xe7, r8"
        "burn 8000000"
        "rdmsr64 0xe7, r9"
        "exit"
        "jmp 2b"
}

/// How long a guest waits for its next KVM_RUN, in ticks.
const WAIT: u64 = 1_000_000;

/// A signal ends KVM_RUN in the midst of the guest's code, another thread changes the
/// frequency at once, and later the guest goes on there.
fn during_a_run() -> Result<()> {
    let (_module, _ratio, host) = prepare()?;
    let guest = Guest::new(run_long())?;
    let mut vcpu = guest.vcpu(0)?;
    let kick = Kick::new()?;
    let mut from = host;
    for to in [host / 2, host * 3 / 2, host, host * 2] {
        vcpu.resume()?;
        kick.after(10_000);
        let start = cpu::tsc();
        let error = vcpu.fd_mut().run().err().map(|error| error.errno());
        let kicked = cpu::tsc();
        ensure!(error == Some(libc::EINTR), "KVM_RUN: {error:?}, not EINTR");
        thread::scope(|scope| {
            let other = scope.spawn(|| vcpu.fd().set_tsc_khz(to as u32));
            other.join().unwrap()
        })?;
        let changed = cpu::tsc();
        cpu::spin(WAIT);
        let regs = vcpu.run()?;
        let end = cpu::tsc();

        let advance = regs.r9 - regs.r8;
        let before = scale(kicked - start, from, host);
        let least = before + scale(end - changed, to, host);
        let most = least + scale(changed - kicked, from.max(to), host);
        note!("from {from} to {to} kHz in the midst: MPERF {advance}, of {least} to {most}");
        ensure!(
            (least - kernel::cost(RUN_BOUND)..=most).contains(&advance),
            "MPERF does not keep to the frequencies"
        );
        from = to;
    }
    Ok(())
}

/// MPERF ticks with L1's TSC, also if KVM thinks about intercepts anew while L1's guest
/// runs. What that guest reads is up to the CPU: AMD's scales it like the TSC, Intel's
/// leaves it as it is.
fn scaled_by_l1() -> Result<()> {
    let (_module, _ratio, _host) = prepare()?;
    let mut sampler = Sampler::nested_scaled()?;
    sampler.take()?;
    sampler.vcpu.set_pair(sampler.vcpu.pair()?)?;

    let start = cpu::tsc();
    let before = sampler.vcpu.pair()?;
    let started = cpu::tsc();
    let first = sampler.take()?;
    let (mut last, mut distance) = (first, Distance::of(&first));
    let mut unscaled = true;
    for _ in 0..SAMPLES {
        let earliest = sampler.vcpu.pair()?.mperf;
        last = sampler.take()?;
        let latest = sampler.vcpu.pair()?.mperf;
        ensure!(last.exits == 0, "reads of L1's guest exit");
        unscaled &= (earliest..=latest).contains(&last.pair.mperf);
        distance.narrow(&last);
    }
    let ending = cpu::tsc();
    let mperf = (sampler.vcpu.pair()? - before).mperf;
    let ended = cpu::tsc();

    let error = distance.error();
    let tsc = last.tsc.0 - first.tsc.1;
    let (least, most) = (ending - started, ended - start);
    note!("L1's MPERF {mperf}, of {least} to {most}");
    note!("its guest's strays by {error} ticks, while its TSC advanced by {tsc}");
    ensure!(tsc < most * 2 / 3, "L1 does not scale the TSC");
    ensure!(
        (least - ONE_SWITCH..=most + ONE_SWITCH).contains(&mperf),
        "MPERF does not tick with L1's TSC"
    );
    if cpu::is_amd() {
        ensure!(error <= ONE_SWITCH, "MPERF is not scaled as the TSC");
    } else {
        ensure!(unscaled, "L1's guest does not read L1's MPERF");
    }
    Ok(())
}

guest_code! {
    /// Counts event RDI in a sample, after RBP looks at the pair.
    look_often:
        "2:"
        "mov rsi, rbp"
        "3:"
        "rdpair r8, r9"
        "dec rsi"
        "jnz 3b"
        "sample rdi"
        "exit"
        "jmp 2b"
}

/// Each read has something to round off and to begin anew from: nothing gets lost over
/// many, nor counts twice.
fn many_reads() -> Result<()> {
    let (_module, _ratio, _host) = prepare()?;
    let _alone = Alone::on(0)?;
    let guest = Guest::new(look_often())?;
    let mut vcpu = guest.vcpu(0)?;
    // In as much time in each kernel: others run in the meantime.
    let regs = kvm_regs {
        rdi: cpu::exits().rdmsr,
        rbp: 8000 / kernel::cost(8),
        ..vcpu.regs()?
    };
    vcpu.fd().set_regs(&regs).context("KVM_SET_REGS")?;
    vcpu.fd().set_tsc_khz(123_457)?;

    let mut last = Sample::take(&mut vcpu)?;
    let mut ended = cpu::tsc();
    let mut distance = Distance::of(&last);
    let mut worst = 0;
    for _ in 0..20 {
        let next = Sample::take(&mut vcpu)?;
        let now = cpu::tsc();
        distance.narrow(&next);
        worst = worst.max((next.pair - last.pair).aperf.abs_diff(now - ended));
        (last, ended) = (next, now);
    }
    let error = distance.error();
    note!("many reads: MPERF strays by {error} ticks, APERF by {worst} between two samples");
    ensure!(error <= ROUNDING, "MPERF does not keep to the TSC");
    ensure!(
        worst <= kernel::cost(RUN_BOUND),
        "APERF is not the time in KVM_RUN"
    );
    Ok(())
}

fn set_tsc_khz(guest: &Guest, khz: u64) -> Result<()> {
    // SAFETY: KVM_SET_TSC_KHZ takes a number.
    let ret = unsafe { libc::ioctl(guest.vm().as_raw_fd(), KVM_SET_TSC_KHZ, khz) };
    ensure!(ret == 0, "KVM_SET_TSC_KHZ: {}", io::Error::last_os_error());
    Ok(())
}

/// The MPERF of a vCPU at `khz` that has not run yet, as user space reads it.
fn expect_scaled(vcpu: &Vcpu, khz: u64, host_khz: u64) -> Result<()> {
    let start = cpu::tsc();
    let before = vcpu.pair()?;
    let started = cpu::tsc();
    cpu::spin(WAIT);
    let ending = cpu::tsc();
    let mperf = (vcpu.pair()? - before).mperf;
    let ended = cpu::tsc();
    let least = scale(ending - started, khz, host_khz);
    let most = scale(ended - start, khz, host_khz) + ROUNDING;
    note!("before KVM_RUN, at {khz} kHz: MPERF {mperf}, of {least} to {most}");
    ensure!(
        (least - ROUNDING..=most).contains(&mperf),
        "MPERF does not run at {khz} kHz before KVM_RUN"
    );
    Ok(())
}

/// Sets the frequency of a VM before it has vCPUs.
fn of_a_vm(percent: u64) -> Result<()> {
    let (_module, _ratio, host) = prepare()?;
    if Kvm::new()?.check_extension_raw(KVM_CAP_VM_TSC_CONTROL.into()) == 0 {
        bail!(Skip("KVM cannot set the frequency of a VM's TSC".into()));
    }
    let khz = host * percent / 100;
    let mut sampler = Sampler::with_vm(|guest| set_tsc_khz(guest, khz))?;
    expect_scaled(&sampler.vcpu, khz, host)?;
    let before = Phase::run(&mut sampler, khz, host)?;
    sampler.vcpu.fd().set_tsc_khz(host as u32)?;
    Phase::run(&mut sampler, host, host)?.expect_continues(&before, host)
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("a vCPU's TSC changes its frequency", || {
            of_a_vcpu(Sampler::new)
        }),
        ("a vCPU's TSC changes while a nested guest runs", || {
            of_a_vcpu(Sampler::nested)
        }),
        ("a vCPU's TSC changes in the midst of a run", during_a_run),
        ("L1 scales the TSC of its guest", scaled_by_l1),
        ("a guest reads many times in a run", many_reads),
        ("a VM's TSC is slower", || of_a_vm(40)),
        ("a VM's TSC is faster", || of_a_vm(250)),
    ])
}

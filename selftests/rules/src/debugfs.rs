// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What the module shows in debugfs is what happened: each KVM_RUN is one load,
//! put and restore, each WRMSR of the pair is counted, and so is why reads are
//! intercepted. The files come and go with what they are of.
//!
//! All counts are exact, but for the times that the vCPU's thread was preempted.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{self, ExitCode};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use harness::cpu::Alone;
use harness::debugfs::{self, Snapshot};
use harness::guest::Guest;
use harness::module::{self, Module};
use harness::oracle::{THIS_CPU, event};
use harness::pair::MSR_IA32_APERF;
use harness::{ONE_SWITCH, cpu, guest_code, ktap, note, oracle};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags};

const RUNS: u64 = 200;

guest_code! {
    exit_for_ever:
        "2:"
        "exit"
        "jmp 2b"
}

guest_code! {
    /// Runs for 40 ms.
    exit_and_burn:
        "exit"
        "burn 8000000"
        "exit"
}

fn switches() -> Result<()> {
    oracle::require()?;
    let _module = Module::loaded()?;
    let _alone = Alone::on(0)?;
    let guest = Guest::new(exit_for_ever())?;
    let (mut vcpu, name) = debugfs::vcpu_with_name(&guest, 0)?;
    vcpu.resume()?;

    let (cpu_before, vcpu_before) = (Snapshot::of("cpu0")?, Snapshot::of(&name)?);
    let preempted = cpu::thread_switches();
    let writes = oracle::count(THIS_CPU, event::PAIR_WRMSR);
    let instructions = oracle::count(THIS_CPU, event::INSTRUCTIONS);
    for _ in 0..RUNS {
        vcpu.resume()?;
    }
    let instructions = oracle::count(THIS_CPU, event::INSTRUCTIONS) - instructions;
    let writes = oracle::count(THIS_CPU, event::PAIR_WRMSR) - writes;
    let preempted = cpu::thread_switches() - preempted;
    let (cpu_after, vcpu_after) = (Snapshot::of("cpu0")?, Snapshot::of(&name)?);
    note!(
        "{} instructions a KVM_RUN that loads, puts and restores",
        instructions / RUNS
    );

    let expected = RUNS..=RUNS + preempted;
    for (key, before, after) in [
        ("loads", &vcpu_before, &vcpu_after),
        ("puts", &vcpu_before, &vcpu_after),
        ("loads", &cpu_before, &cpu_after),
        ("restores", &cpu_before, &cpu_after),
    ] {
        let count = after.advance(before, key)?;
        note!("{key} {count}, expected {expected:?}");
        ensure!(expected.contains(&count), "{key} {count}");
    }
    let exchanges = cpu_after.advance(&cpu_before, "exchanges")?;
    let lost = cpu_after.advance(&cpu_before, "lost_ticks")?;
    note!("{exchanges} exchanges, {writes} WRMSRs of the pair, {lost} ticks lost and made good");
    ensure!(writes == 2 * exchanges, "{writes} WRMSRs");
    ensure!(exchanges >= 2 * RUNS, "{exchanges} exchanges");
    ensure!(
        (exchanges..exchanges * ONE_SWITCH).contains(&lost),
        "{lost} ticks lost"
    );
    Ok(())
}

/// In user space the CPU has its own pair, and the vCPU is put.
fn at_rest() -> Result<()> {
    let _module = Module::loaded()?;
    let _alone = Alone::on(0)?;
    let guest = Guest::with_irqchip(exit_for_ever())?;
    let (mut vcpu, name) = debugfs::vcpu_with_name(&guest, 0)?;
    for _ in 0..10 {
        vcpu.resume()?;
        let cpu = Snapshot::of("cpu0")?;
        cpu.expect("state", "host")?;
        for offset in ["aperf_offset", "mperf_offset"] {
            let ticks = cpu.number(offset)?;
            ensure!(ticks.unsigned_abs() <= ONE_SWITCH, "{offset} is {ticks}");
        }
    }

    let shown = Snapshot::of(&name)?;
    shown.expect("pid", &process::id().to_string())?;
    shown.expect("mode", "passthrough")?;
    shown.expect("mode_changes", "0")?;
    shown.expect("c0", "1")?;
    shown.expect("advancing", "0")?;
    shown.expect("aperf_at_put", &vcpu.pair()?.aperf.to_string())?;
    vcpu.set_halted(true)?;
    Snapshot::of(&name)?.expect("c0", "0")
}

fn while_it_runs() -> Result<()> {
    oracle::require()?;
    cpu::require_two()?;
    let _module = Module::loaded()?;
    cpu::pin(0)?;
    let guest = Guest::new(exit_and_burn())?;
    let (mut vcpu, name) = debugfs::vcpu_with_name(&guest, 0)?;
    vcpu.resume()?;
    let before = Snapshot::of(&name)?;

    let (cpu, shown) = thread::scope(|scope| {
        let running = scope.spawn(|| {
            cpu::pin(1)?;
            vcpu.resume()
        });
        while Snapshot::of(&name)?.advance(&before, "loads")? == 0 {
            thread::yield_now();
        }
        let shown = (Snapshot::of("cpu1")?, Snapshot::of(&name)?);
        running.join().unwrap()?;
        Ok::<_, anyhow::Error>(shown)
    })?;
    cpu.expect("state", "live")?;
    shown.expect("advancing", "1")?;
    // The guest is much younger than the CPU.
    let offset = cpu.number("mperf_offset")?;
    note!("MPERF of CPU 1 was {offset} ticks ahead of the guest's");
    ensure!(offset > ONE_SWITCH as i64, "MPERF's offset is {offset}");
    Snapshot::of(&name)?.expect("advancing", "0")?;
    Snapshot::of("cpu1")?.expect("state", "host")
}

fn modes() -> Result<()> {
    let _module = Module::loaded()?;
    cpu::pin(0)?;
    let guest = Guest::new(exit_for_ever())?;
    let (mut vcpu, name) = debugfs::vcpu_with_name(&guest, 0)?;
    vcpu.resume()?;

    let writes = Snapshot::of(&name)?.number("writes")?;
    vcpu.set_msr(MSR_IA32_APERF, 1 << 62)?;
    Snapshot::of(&name)?.expect("mode", "intercepted:high_value")?;
    vcpu.set_msr(MSR_IA32_APERF, 0)?;
    let shown = Snapshot::of(&name)?;
    shown.expect("mode", "passthrough")?;
    shown.expect("mode_changes", "2")?;
    shown.expect("writes", &(writes + 2).to_string())?;

    let reads = shown.number("reads")?;
    vcpu.pair()?;
    Snapshot::of(&name)?.expect("reads", &(reads + 2).to_string())?;

    let deny = MsrFilterRange {
        flags: MsrFilterRangeFlags::READ,
        base: MSR_IA32_APERF,
        msr_count: 1,
        bitmap: &[0],
    };
    guest
        .vm()
        .set_msr_filter(MsrFilterDefaultAction::ALLOW, &[deny])
        .context("KVM_X86_SET_MSR_FILTER")?;
    vcpu.resume()?;
    Snapshot::of(&name)?.expect("mode", "intercepted:kvm")
}

fn expect_root_only(name: &str) -> Result<()> {
    let mode = fs::metadata(debugfs::path(name))?.permissions().mode() & 0o777;
    ensure!(mode == 0o400, "{name} has mode {mode:o}");
    Ok(())
}

/// Files come and go with CPUs, vCPUs and the module. An open one keeps the module,
/// and nothing of a vCPU.
fn lifetimes() -> Result<()> {
    let _module = Module::unloaded()?;
    ensure!(
        !Path::new(debugfs::DIRECTORY).exists(),
        "a directory without the module"
    );
    module::insert()?;
    let cpus: Vec<_> = (0..cpu::online()).map(|cpu| format!("cpu{cpu}")).collect();
    let shown = debugfs::names("cpu")?;
    ensure!(cpus.iter().all(|cpu| shown.contains(cpu)), "{shown:?}");
    expect_root_only("cpu0")?;

    let guest = Guest::new(exit_for_ever())?;
    let (vcpu, name) = debugfs::vcpu_with_name(&guest, 0)?;
    expect_root_only(&name)?;
    let mut open = File::open(debugfs::path(&name))?;
    drop((vcpu, guest));
    ensure!(debugfs::names("vcpu")?.is_empty(), "a file without a vCPU");
    ensure!(
        open.read(&mut [0; 16]).is_err(),
        "a vCPU that is gone can be read"
    );
    match module::remove() {
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
        Err(error) => bail!("refused for another reason: {error}"),
        Ok(()) => bail!("unloaded with a file open"),
    }
    drop(open);
    module::remove()?;
    ensure!(
        !Path::new(debugfs::DIRECTORY).exists(),
        "the directory stayed"
    );
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("each switch and each write is counted", switches),
        ("CPU and vCPU at rest", at_rest),
        ("CPU and vCPU while it runs", while_it_runs),
        ("mode, and why", modes),
        ("files come and go", lifetimes),
    ])
}

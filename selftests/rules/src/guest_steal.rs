// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rules guest-aperf and guest-mperf of vCPUs that share a CPU: each gets half
//! of it, and reports half of the frequency.
//!
//! The scheduler decides who runs when, in slices of some milliseconds. So
//! "half" is bounded by a slice, but what each vCPU reports is compared with
//! the scheduler's own account of its thread, within 1 % of the measured time:
//! the ways into and out of KVM_RUN, and the switches.

use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;

use anyhow::{Result, ensure};
use harness::guest::{Guest, Vcpu};
use harness::module::Module;
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::{ONE_SWITCH, Pair, cpu, guest_code, kernel, ktap, note, oracle};

const MEASURED_MS: u64 = 40;

guest_code! {
    /// Exits once, so that all pages are there. Then runs for RDI ticks of the
    /// TSC; TSC and pair before are in R10, R8 and R9, and after in R13, R11
    /// and R12.
    run_long:
        "exit"
        "rdtsc64 r10"
        "rdpair r8, r9"
        "2:"
        "rdtsc64 r13"
        "mov rax, r13"
        "sub rax, r10"
        "cmp rax, rdi"
        "jb 2b"
        "rdtsc64 r13"
        "rdpair r11, r12"
        "exit"
}

struct Report {
    advance: Pair,
    tsc: u64,
    /// CPU time of the thread, in TSC ticks.
    thread: u64,
}

fn run(vcpu: &mut Vcpu, tsc_hz: u64, start: &Barrier) -> Result<Report> {
    cpu::pin(0)?;
    start.wait();

    let before = cpu::thread_time();
    let regs = vcpu.run()?;
    let nanoseconds = cpu::thread_time() - before;

    ensure!(regs.r15 == 0, "{} reads faulted", regs.r15);
    Ok(Report {
        advance: Pair {
            aperf: regs.r11,
            mperf: regs.r12,
        } - Pair {
            aperf: regs.r8,
            mperf: regs.r9,
        },
        tsc: regs.r13 - regs.r10,
        thread: (u128::from(nanoseconds) * u128::from(tsc_hz) / 1_000_000_000) as u64,
    })
}

/// Runs `vcpus` of one VM on one CPU and checks what each reports.
fn share(vcpus: u8) -> Result<()> {
    let machine = oracle::require()?;
    cpu::pin(0)?;
    let _module = Module::loaded()?;
    let _ratio = Ratio::set(THIS_CPU, RATIO_ONE);

    let ticks = machine.tsc_hz / 1000 * MEASURED_MS;
    let guest = Guest::new(run_long())?;
    let mut all: Vec<_> = (0..vcpus).map(|id| guest.vcpu(id)).collect::<Result<_>>()?;
    for vcpu in &mut all {
        vcpu.resume()?;
        vcpu.set_argument(ticks)?;
    }

    let start = Barrier::new(vcpus.into());
    let reports: Vec<Report> = thread::scope(|scope| {
        let threads: Vec<_> = all
            .iter_mut()
            .map(|vcpu| scope.spawn(|| run(vcpu, machine.tsc_hz, &start)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect::<Result<_>>()
    })?;

    let share = 1.0 / f64::from(vcpus);
    for Report {
        advance,
        tsc,
        thread,
    } in &reports
    {
        let ratio = advance.ratio();
        note!("{advance}, TSC {tsc}, thread's CPU time {thread}: ratio {ratio:.3}");
        ensure!(
            advance.mperf.abs_diff(*tsc) <= ONE_SWITCH,
            "MPERF does not keep to the TSC"
        );
        ensure!(
            advance.aperf.abs_diff(*thread) <= kernel::cost(ticks / 100),
            "APERF is not what the scheduler gave"
        );
        ensure!(
            (share / 2.0..=1.0).contains(&ratio),
            "ratio {ratio:.3} is far from {share:.3}"
        );
    }
    let sum: f64 = reports.iter().map(|report| report.advance.ratio()).sum();
    note!("sum of the ratios: {sum:.3}");
    ensure!(sum < 1.5, "the vCPUs report more than one CPU");
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("one vCPU has its CPU", || share(1)),
        ("two vCPUs on one CPU get half each", || share(2)),
    ])
}

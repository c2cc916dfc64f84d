// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule host-continuity for writers: what is written by /dev/cpu/N/msr, or by a helper for
//! MSRs of other CPUs that no device uses, becomes the host pair, which goes on from there, and no guest's.
//!
//! Bound: one switch outside of what the true counters advanced since the write.
//! The guest sees no step, and its MPERF keeps to its TSC within one switch.
//!
//! A tick of the scheduler that found the written values would rightly give up
//! frequency invariance. So they are there only between two ticks, with no task that
//! could preempt the writer in between.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::cpu::Alone;
use harness::guest::Guest;
use harness::host::{bracket, outside};
use harness::module::{Helper, Module};
use harness::msr_device::{self, COUNTERS, Counter, MsrDevice, Way};
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio};
use harness::{ONE_SWITCH, cpu, guest_code, kernel, ktap, note, oracle};
use kvm_bindings::kvm_regs;

/// Whose pair is written, and where the vCPU runs.
const CPU: usize = 0;

/// Values to write, far from the truth, and from each other.
const VALUES: [u64; 3] = [77, 1 << 50, 1 << 61];

/// How long a written value stays, in ticks.
const SPIN_TICKS: u64 = 10_000;

/// How long the guest looks after itself, in ticks: 24 writes, each after a tick
/// of the kernel's clock, 250 of which are in a second; where the kernel takes longer, in
/// proportion.
const GUEST_TICKS: u64 = 30_000_000;

guest_code! {
    /// Sets both counters to 2^58, reads TSC R10 and pair R8 and R9, and then looks for
    /// steps of 2^36 and more for RDI ticks, with a sleep of RSI ns before each look if
    /// that is not 0. Counts steps in R12; the last TSC less R10 is in R11, the last pair
    /// in R13 and R14.
    watch_itself:
        "cli"
        "timer_one_shot"
        "mov r8, 1 << 58"
        "wrmsr64 0xe8, r8"
        "wrmsr64 0xe7, r8"
        "rdtsc64 r10"
        "rdpair r8, r9"
        "mov r13, r8"
        "mov r14, r9"
        "2:"
        "test rsi, rsi"
        "jz 3f"
        "sleep rsi"
        "3:"
        "rdtsc64 r11"
        "sub r11, r10"
        "rdpair rbx, rbp"
        "mov rax, rbx"
        "sub rax, r13"
        "shr rax, 36"
        "jz 4f"
        "inc r12"
        "4:"
        "mov rax, rbp"
        "sub rax, r14"
        "shr rax, 36"
        "jz 5f"
        "inc r12"
        "5:"
        "mov r13, rbx"
        "mov r14, rbp"
        "cmp r11, rdi"
        "jb 2b"
        "exit"
}

/// Brings the true values back into the MSRs of [`CPU`] when this is dropped, as
/// other tests compare the two.
struct TrueAgain;

impl Drop for TrueAgain {
    fn drop(&mut self) {
        let left = msr_device::make_true(CPU).expect("the MSRs were writable before");
        note!("true again but for {left} ticks");
    }
}

/// What each test needs, dropped in this order.
struct Setup {
    _true_again: TrueAgain,
    _ratio: Ratio,
    _helpers: Helper,
    _module: Module,
}

fn prepare() -> Result<Setup> {
    oracle::require()?;
    cpu::pin(CPU)?;
    let module = Module::loaded()?;
    let helpers = Helper::msr_helpers()?;
    kernel::wait_for_console()?;
    Ok(Setup {
        _true_again: TrueAgain,
        _ratio: Ratio::set(ALL_CPUS, RATIO_ONE),
        _helpers: helpers,
        _module: module,
    })
}

/// The worst error of all writes, how many there were, and how many of these to a
/// CPU with a guest's values.
#[derive(Default)]
struct Written {
    worst: u64,
    writes: u64,
    found: u64,
}

impl Written {
    /// Writes `value`, reads at once and later, and writes the truth again.
    fn one(&mut self, device: &MsrDevice, way: Way, counter: Counter, value: u64) -> Result<()> {
        let truth = || (counter.of)(oracle::truth(CPU as u64).host);

        // The tick may have had to wait on another CPU, but not for longer than this read.
        device.read(way, counter.msr)?;
        cpu::spin(SPIN_TICKS);
        let hardware = oracle::truth(CPU as u64).hardware;
        self.writes += 1;
        self.found += u64::from(hardware.aperf >> 58 == 1 && hardware.mperf >> 58 == 1);

        let (written, (before, after)) = bracket(truth, || device.write(way, counter.msr, value));
        written?;
        for pause in [0, SPIN_TICKS] {
            cpu::spin(pause);
            let (read, (low, high)) = bracket(truth, || device.read(way, counter.msr));
            let low = value.wrapping_add(low.wrapping_sub(after));
            let high = value.wrapping_add(high.wrapping_sub(before));
            self.worst = self.worst.max(outside(read?, (low, high)));
        }
        Ok(device.write(way, counter.msr, truth() + (after - before))?)
    }

    /// Writes each of the values to each counter in each way, from `writer_cpu`.
    fn all(writer_cpu: usize) -> Result<Self> {
        let device = MsrDevice::open(CPU)?;
        let mut written = Written::default();
        for way in Way::ALL {
            for counter in COUNTERS {
                for value in VALUES {
                    // A guest on the same CPU has it meanwhile.
                    thread::sleep(Duration::from_millis(1));
                    let alone = Alone::on(writer_cpu)?;
                    kernel::wait_for_tick(&alone);
                    written.one(&device, way, counter, value)?;
                }
            }
        }
        let Written {
            worst,
            writes,
            found,
        } = written;
        note!("{writes} writes, {found} beside a guest's values, worst error {worst} ticks");
        ensure!(worst <= ONE_SWITCH, "the host pair is off by {worst} ticks");
        Ok(written)
    }
}

fn without_guest(writer_cpu: usize) -> Result<()> {
    let _setup = prepare()?;
    Written::all(writer_cpu).map(|_| ())
}

/// Checks what a guest saw that halted for `sleep` ns at a time.
fn expect_untouched(regs: &kvm_regs, sleep: u64) -> Result<()> {
    let mperf = regs.r14.wrapping_sub(regs.r9);
    note!("guest: MPERF advanced by {mperf}, TSC by {}", regs.r11);
    ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);
    ensure!(regs.r12 == 0, "the guest saw {} steps", regs.r12);
    ensure!(
        sleep != 0 || mperf.abs_diff(regs.r11) <= ONE_SWITCH,
        "guest MPERF left its TSC"
    );
    Ok(())
}

/// Writes from `writer_cpu` while a guest runs on [`CPU`] that halts for `sleep` ns at a
/// time, if that is not 0.
fn beside_guest(writer_cpu: usize, sleep: u64) -> Result<()> {
    let _setup = prepare()?;
    let guest = Guest::with_irqchip(watch_itself())?;
    let mut vcpu = guest.vcpu(0)?;
    let regs = kvm_regs {
        rdi: kernel::cost(GUEST_TICKS),
        rsi: sleep,
        ..vcpu.regs()?
    };
    vcpu.fd().set_regs(&regs).context("KVM_SET_REGS")?;

    let (regs, written) = thread::scope(|scope| -> Result<_> {
        let runner = scope.spawn(|| -> Result<_> {
            cpu::pin(CPU)?;
            vcpu.run()
        });
        cpu::pin(writer_cpu)?;
        thread::sleep(Duration::from_millis(3));
        let written = Written::all(writer_cpu);
        let regs = runner.join().unwrap()?;
        Ok((regs, written?))
    })?;

    expect_untouched(&regs, sleep)?;
    // A writer on the same CPU comes from user space, with the host's values.
    ensure!(
        writer_cpu == CPU || written.found >= written.writes / 2,
        "there were no guest values to be confused by"
    );
    Ok(())
}

fn from_afar(test: fn(usize) -> Result<()>) -> Result<()> {
    cpu::require_two()?;
    test(1)
}

fn beside_running(writer_cpu: usize) -> Result<()> {
    beside_guest(writer_cpu, 0)
}

fn beside_halting(writer_cpu: usize) -> Result<()> {
    beside_guest(writer_cpu, 2_000_000)
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("no guest, on the same CPU", || without_guest(CPU)),
        ("no guest, from another CPU", || from_afar(without_guest)),
        ("beside a running guest, on the same CPU", || {
            beside_running(CPU)
        }),
        ("beside a running guest, from another CPU", || {
            from_afar(beside_running)
        }),
        ("beside a halting guest, on the same CPU", || {
            beside_halting(CPU)
        }),
        ("beside a halting guest, from another CPU", || {
            from_afar(beside_halting)
        }),
        (
            "the scheduler's frequency invariance stays on",
            kernel::expect_frequency_invariance,
        ),
    ])
}

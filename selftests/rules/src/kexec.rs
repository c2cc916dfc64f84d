// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule user-isolation across kexec: the kernel that is started finds the host pair on
//! the CPU that starts it, although a guest had that CPU until then, and has it once more
//! after the module's hook has put the host pair back.
//!
//! The first half runs in the host: a guest with values far from the host's sleeps and
//! wakes on CPU 0, and a task on CPU 1 has the kernel started, which moves it to CPU 0. The
//! module's hook stalls there at each of its instructions, for longer than the guest
//! sleeps. With the argument "asleep" it does not stall, and the guest sleeps on, so that
//! the hook alone puts the host pair back. The second half is the first process of that
//! kernel, and asks the oracle. The run ends there; so it has a machine of its own, and
//! scripts/boot.sh must be asked for this test.
//!
//! Bound: one switch.

use std::env;
use std::fs;
use std::ops::Range;
use std::process::{self, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use harness::cpu::Alone;
use harness::guest::Guest;
use harness::ktap::Skip;
use harness::module::Module;
use harness::oracle::{Event, From};
use harness::{ONE_SWITCH, cpu, guest_code, kexec, ktap, oracle, sweep};

/// What the guest sets its pair to.
const FAR: u64 = 1 << 60;

guest_code! {
    /// Sleeps for 100 ms again and again: for longer than the kernel takes from the
    /// module's hook to its end, as the guest's next run would fail, and the return to user
    /// space restore the host pair.
    write_and_sleep:
        "cli"
        "timer_one_shot"
        "far"
        "mov r14, 100000000"
        "2:"
        "sleep r14"
        "jmp 2b"
}

/// 110 ms: the guest has to wake.
const STALL_TICKS: u32 = 22_000_000;

/// More than the instructions of the hook.
const STALLS: u16 = 1000;

/// Runs the guest on CPU 0, in front of ordinary tasks, with stalls in the module's hook
/// there if it is to wake meanwhile.
fn run_guest(hook: Range<u64>, wakes: bool) -> Result<()> {
    let _alone = Alone::on(0)?;
    if wakes {
        oracle::within(hook);
        oracle::inject(Event::Stall { ticks: STALL_TICKS }, STALLS, From::Now, 0);
    }
    let guest = Guest::with_irqchip(write_and_sleep())?;
    guest.vcpu(0)?.resume()
}

/// The result goes on in the other kernel, which is the same program.
fn start_kernel() -> Result<()> {
    oracle::require()?;
    if !fs::read_to_string("/proc/cmdline")?.contains("one:aperfmperf:kexec") {
        bail!(Skip("needs a machine of its own".into()));
    }
    cpu::require_two()?;
    let _module = Module::loaded()?;
    kexec::load("kexec")?;

    let hook = sweep::function("syscore8shutdown")?;
    let wakes = env::args().nth(1).as_deref() != Some("asleep");
    thread::spawn(move || run_guest(hook, wakes));
    cpu::pin(1)?;
    // What was printed so far gets out of this kernel, and the guest is in the middle of a
    // sleep.
    thread::sleep(Duration::from_millis(250));
    let deadline = Instant::now() + Duration::from_secs(1);
    // Who reads what was printed may have returned to user space on CPU 0 since it last woke.
    while oracle::truth(0).hardware.mperf < FAR {
        ensure!(Instant::now() < deadline, "the guest does not run");
    }
    bail!("kexec: {}", kexec::start())
}

/// The first process of the kernel that was started: what remains to be said of the test.
fn look() -> ! {
    let truth = oracle::truth(0);
    let error = truth.hardware.distance(truth.host);
    let (verdict, status) = if error <= ONE_SWITCH {
        ("ok", 0)
    } else {
        ("not ok", 10)
    };
    oracle::put(
        format!("# # CPU 0 is off by {error} ticks\n{verdict} 1 selftests: aperfmperf: kexec\n")
            .as_bytes(),
    );
    oracle::stop(status)
}

pub fn main() -> ExitCode {
    if process::id() == 1 {
        look();
    }
    ktap::run(&[("another kernel is started beside a guest", start_kernel)])
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule user-isolation across kexec: the kernel that is started finds the host pair on
//! the CPU that starts it, although a guest had that CPU until then.
//!
//! The first half runs in the host: a guest with values far from the host's spins on
//! CPU 0, and a task on CPU 1 has the kernel started, which moves it to CPU 0. The second
//! half is the first process of that kernel, and asks the oracle. The run ends there;
//! so it has a machine of its own, and scripts/boot.sh must be asked for this test.
//!
//! Bound: one switch.

use std::fs;
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use harness::cpu::Alone;
use harness::guest::Guest;
use harness::ktap::Skip;
use harness::module::Module;
use harness::{ONE_SWITCH, cpu, guest_code, kexec, ktap, note, oracle};

/// What the guest sets its pair to.
const FAR: u64 = 1 << 60;

guest_code! {
    write_and_spin:
        "far"
        "2:"
        "jmp 2b"
}

/// The result goes on in the other kernel, which is the same program.
fn start_kernel() -> Result<()> {
    oracle::require()?;
    if !fs::read_to_string("/proc/cmdline")?.contains("one:aperfmperf:kexec") {
        bail!(Skip("needs a machine of its own".into()));
    }
    cpu::require_two()?;
    let _module = Module::loaded()?;
    kexec::load(&fs::read("/proc/self/exe")?)?;

    thread::spawn(|| -> Result<()> {
        cpu::pin(0)?;
        let guest = Guest::new(write_and_spin())?;
        guest.vcpu(0)?.resume()
    });
    // An ordinary task would let the vCPU run on when KVM has turned virtualization off.
    // Then VM entry fails, and the return to user space restores the host pair.
    let _alone = Alone::on(1)?;
    // Also for what was printed so far to get out of this kernel.
    thread::sleep(Duration::from_millis(200));
    let truth = oracle::truth(0);
    note!(
        "CPU 0 has {}, its host pair is {}",
        truth.hardware,
        truth.host
    );
    ensure!(truth.hardware.mperf >= FAR, "the guest does not run");
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

fn main() -> ExitCode {
    if process::id() == 1 {
        look();
    }
    ktap::run(&[("another kernel is started beside a guest", start_kernel)])
}

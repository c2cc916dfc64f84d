// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Guests whose values are as different from the host's as can be.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::cpu;
use crate::guest::{Guest, Vcpu};
use crate::guest_code;

guest_code! {
    /// Exits again and again.
    pub exits:
        "far"
        "2:"
        "burn 10000"
        "exit"
        "jmp 2b"
}

guest_code! {
    /// Exits, and after that halts 10 times for 200 us before each exit, so that its
    /// values stay behind while the CPU idles or runs others.
    pub halts:
        "cli"
        "timer_one_shot"
        "far"
        "mov r14, 200000"
        "2:"
        "exit"
        "mov r13, 10"
        "3:"
        "burn 4000"
        "sleep r14"
        "dec r13"
        "jnz 3b"
        "jmp 2b"
}

/// Runs `vcpu` in a thread of its own on `cpu`, for as long as `work` takes.
pub fn beside<T>(vcpu: &mut Vcpu, cpu: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
    vcpu.resume()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let runner = scope.spawn(|| -> Result<()> {
            cpu::pin(cpu)?;
            while !stop.load(Ordering::Relaxed) {
                vcpu.resume()?;
            }
            Ok(())
        });
        let result = work();
        stop.store(true, Ordering::Relaxed);
        runner.join().unwrap()?;
        result
    })
}

/// The worst `error` in a task that preempts a vCPU on the same CPU, `wakeups` times.
pub fn worst_in_another_task(wakeups: u64, error: fn() -> u64) -> Result<u64> {
    cpu::pin(0)?;
    let guest = Guest::new(exits())?;
    beside(&mut guest.vcpu(0)?, 0, || {
        let mut worst = 0;
        for _ in 0..wakeups {
            thread::sleep(Duration::from_micros(50));
            worst = worst.max(error());
        }
        Ok(worst)
    })
}

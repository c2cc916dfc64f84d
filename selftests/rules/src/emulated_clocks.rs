// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What the bounds of all other tests rely on where two CPUs are emulated, which
//! take turns: an instruction takes one tick of the CPU that executes it, whatever
//! the other CPU does, and the clocks of two CPUs seem to be one clock.
//!
//! Bound: exact, but for what an interrupt takes.

use std::arch::asm;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use harness::{cpu, ktap, note, oracle};

const SAMPLES: usize = 10_000;

/// Ticks between two RDTSC, and the instructions from one to the other.
fn loop_ticks() -> (u32, u32) {
    const ROUNDS: u32 = 100;
    let ticks: u32;
    // SAFETY: Changes nothing but the registers that are named.
    unsafe {
        asm!(
            "rdtsc",
            "mov {start:e}, eax",
            "mov {left:e}, {rounds}",
            "2:",
            "dec {left:e}",
            "jnz 2b",
            "rdtsc",
            "sub eax, {start:e}",
            start = out(reg) _,
            left = out(reg) _,
            rounds = const ROUNDS,
            out("eax") ticks,
            out("edx") _,
            options(nomem, nostack),
        );
    }
    (ticks, 3 + 2 * ROUNDS)
}

fn one_tick_each() -> Result<()> {
    oracle::require()?;
    cpu::require_two()?;
    cpu::pin(0)?;
    let stop = AtomicBool::new(false);

    let exact = thread::scope(|scope| {
        scope.spawn(|| {
            cpu::pin(1).expect("CPU 1 is online");
            let mut buffer = [0u8; 10_000];
            while !stop.load(Ordering::Relaxed) {
                // With a REP, which is the longest turn.
                std::hint::black_box(&mut buffer).fill(1);
                std::hint::black_box(loop_ticks());
            }
        });
        let exact = (0..SAMPLES)
            .filter(|_| {
                let (ticks, instructions) = loop_ticks();
                ticks == instructions
            })
            .count();
        stop.store(true, Ordering::Relaxed);
        exact
    });

    note!("{exact} of {SAMPLES} samples took as many ticks as instructions");
    ensure!(
        exact >= SAMPLES / 100 * 99,
        "another CPU's instructions take ticks of this one"
    );
    Ok(())
}

fn one_clock() -> Result<()> {
    oracle::require()?;
    cpu::require_two()?;
    let latest = Mutex::new(0_u64);

    let reads = |cpu| {
        cpu::pin(cpu).expect("both CPUs are online");
        let mut behind = 0;
        for _ in 0..SAMPLES {
            let mut latest = latest.lock().expect("no holder panics");
            let now = cpu::tsc();
            behind = behind.max(latest.saturating_sub(now));
            *latest = now;
        }
        behind
    };
    let worst = thread::scope(|scope| {
        let other = scope.spawn(|| reads(1));
        reads(0).max(other.join().expect("does not panic"))
    });

    note!("{SAMPLES} reads by each of two CPUs, at most {worst} ticks behind the other's");
    ensure!(worst == 0, "a TSC is behind what another CPU has read");
    Ok(())
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("an instruction takes one tick", one_tick_each),
        ("the TSCs of two CPUs are in step", one_clock),
    ])
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The emulator's oracle: facts about the emulated machine that no code
//! inside it can forge, asked for by CPUID with a magic leaf.
//!
//! The emulator answers before any VMX or SVM intercept, so the question works
//! at every privilege level, in host and guest, and never exits a VM.

use std::arch::asm;

use anyhow::{Result, bail};

use crate::Pair;
use crate::ktap::Skip;

const LEAF: u32 = 0x4f52_4143;
const MAGIC: u64 = 0x4652_5045_504d_4150;
const VERSION: u64 = 1;

/// Stands for the CPU that asks.
pub const THIS_CPU: u64 = u64::MAX;
/// Stands for all CPUs: their sum, or each of them.
pub const ALL_CPUS: u64 = u64::MAX - 1;

/// Scale of [`set_ratio`]: APERF ticks per this many MPERF ticks.
pub const RATIO_ONE: u64 = 1024;

#[repr(u32)]
enum Function {
    Present = 0,
    Truth = 1,
    Count = 2,
    SetRatio = 3,
    Put = 4,
    Stop = 5,
}

struct Answer {
    rax: u64,
    rbx: u64,
    rcx: u64,
    rdx: u64,
}

fn ask(function: Function, rbx: u64, rdx: u64) -> Answer {
    let mut answer = Answer {
        rax: LEAF.into(),
        rbx,
        rcx: function as u64,
        rdx,
    };

    // SAFETY: CPUID is available and harmless at every privilege level. RBX
    // belongs to the compiler, and is as it was after the second exchange.
    unsafe {
        asm!(
            "xchg rbx, {rbx}",
            "cpuid",
            "xchg rbx, {rbx}",
            rbx = inout(reg) answer.rbx,
            inout("rax") answer.rax,
            inout("rcx") answer.rcx,
            inout("rdx") answer.rdx,
            options(nostack),
        );
    }
    answer
}

/// The emulated machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    pub cpus: u64,
    /// Frequency of the TSC, of MPERF, and of APERF at ratio 1, in Hz.
    pub tsc_hz: u64,
}

/// The machine, if this is one that has an oracle.
pub fn machine() -> Option<Machine> {
    let answer = ask(Function::Present, 0, 0);
    (answer.rax == MAGIC && answer.rbx == VERSION).then_some(Machine {
        cpus: answer.rcx,
        tsc_hz: answer.rdx,
    })
}

/// The machine, or a reason to skip a test.
pub fn require() -> Result<Machine> {
    match machine() {
        Some(machine) => Ok(machine),
        None => bail!(Skip("this machine has no oracle".into())),
    }
}

/// The counters of one CPU, all sampled at the same tick.
#[derive(Clone, Copy, Debug)]
pub struct Truth {
    /// What the MSRs would hold had nobody ever written them.
    pub host: Pair,
    /// What RDMSR in the host would return now.
    pub hardware: Pair,
}

/// The counters of `cpu`, which is an index or [`THIS_CPU`].
pub fn truth(cpu: u64) -> Truth {
    let answer = ask(Function::Truth, cpu, 0);
    Truth {
        host: Pair {
            aperf: answer.rax,
            mperf: answer.rbx,
        },
        hardware: Pair {
            aperf: answer.rcx,
            mperf: answer.rdx,
        },
    }
}

/// How often an `event`, one of [`event`]'s, happened on `cpu` since reset.
pub fn count(cpu: u64, event: u64) -> u64 {
    ask(Function::Count, cpu, event).rax
}

/// Events that [`count`] knows.
pub mod event {
    pub const INSTRUCTIONS: u64 = 0;
    pub const RDMSR: u64 = 1;
    pub const WRMSR: u64 = 2;
    pub const PAIR_RDMSR: u64 = 3;
    pub const PAIR_WRMSR: u64 = 4;
    pub const VM_ENTRY: u64 = 5;
    pub const VM_EXIT: u64 = 6;

    /// VM exits with basic exit reason `reason` (SDM, "VMX Basic Exit Reasons").
    pub const fn vmx_exit(reason: u64) -> u64 {
        0x100 + reason
    }

    /// #VMEXITs with `code` below 0x400 (APM, "SVM Intercept Exit Codes").
    pub const fn svm_exit(code: u64) -> u64 {
        0x1000 + code
    }
}

/// Makes `cpu` run at `ratio` / [`RATIO_ONE`] of the TSC's frequency, at once.
/// Returns the previous ratio.
pub fn set_ratio(cpu: u64, ratio: u64) -> u64 {
    ask(Function::SetRatio, cpu, ratio).rax
}

/// Appends `text` to the verdict, the channel out of the machine that the
/// console cannot disturb. NUL bytes are dropped.
pub fn put(text: &[u8]) {
    for chunk in text.chunks(16) {
        let mut bytes = [0; 16];
        bytes[..chunk.len()].copy_from_slice(chunk);
        let word = u128::from_le_bytes(bytes);
        ask(Function::Put, word as u64, (word >> 64) as u64);
    }
}

/// Leaves the emulator with exit status `status`.
pub fn stop(status: u8) -> ! {
    ask(Function::Stop, status.into(), 0);
    unreachable!("the emulator did not stop")
}

/// A ratio of the machine's CPUs that lasts until this is dropped.
#[must_use]
pub struct Ratio {
    cpu: u64,
    previous: u64,
}

impl Ratio {
    /// Makes `cpu` run at `ratio` / [`RATIO_ONE`] of the TSC's frequency.
    pub fn set(cpu: u64, ratio: u64) -> Self {
        Ratio {
            cpu,
            previous: set_ratio(cpu, ratio),
        }
    }
}

impl Drop for Ratio {
    fn drop(&mut self) {
        set_ratio(self.cpu, self.previous);
    }
}

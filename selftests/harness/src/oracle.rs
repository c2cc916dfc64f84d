// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The emulator's oracle: facts about the emulated machine that no code
//! inside it can forge, asked for by CPUID with a magic leaf.
//!
//! The emulator answers before any VMX or SVM intercept, so the question works
//! at every privilege level, in host and guest, and never exits a VM.

use std::arch::asm;
use std::array;
use std::ops::Range;

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

/// Scale of [`set_ratio`] and [`set_mperf_ratio`]: ticks per this many TSC ticks in C0.
pub const RATIO_ONE: u64 = 1024;

#[repr(u32)]
enum Function {
    Present = 0,
    Truth = 1,
    Count = 2,
    SetRatio = 3,
    Put = 4,
    Stop = 5,
    SetMperfRatio = 7,
    SetTopdown = 16,
    Inject = 32,
    Sweep = 33,
    Within = 34,
    Disarm = 35,
    Measure = 36,
    PointDone = 37,
    Point = 38,
    Watch = 40,
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

/// Makes MPERF of `cpu` tick at `ratio` / [`RATIO_ONE`] of the TSC's frequency, at once.
/// Returns the previous ratio.
pub fn set_mperf_ratio(cpu: u64, ratio: u64) -> u64 {
    ask(Function::SetMperfRatio, cpu, ratio).rax
}

/// Makes `cpu` divide its slots into `parts`, a value of IA32_PERF_METRICS, at once.
/// Returns the previous parts, or nothing if `parts` do not add up to 255.
pub fn set_topdown(cpu: u64, parts: u32) -> Option<u32> {
    u32::try_from(ask(Function::SetTopdown, cpu, parts.into()).rax).ok()
}

/// Something that comes to a CPU from outside.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Nmi,
    /// Time passes, as in an SMI on real hardware, and nothing else happens.
    Stall {
        ticks: u32,
    },
    /// An SMI for the BIOS of the emulated machine.
    Smi,
    Interrupt {
        vector: u8,
    },
}

impl Event {
    fn encode(self, times: u16) -> u64 {
        let kind = match self {
            Event::Nmi => 1,
            Event::Stall { ticks } => 2 | (u64::from(ticks) << 32),
            Event::Smi => 3,
            Event::Interrupt { vector } => 4 | (u64::from(vector) << 8),
        };
        kind | (u64::from(times) << 16)
    }
}

/// From when on the boundaries between instructions are counted.
#[derive(Clone, Copy, Debug)]
pub enum From {
    Now,
    /// The first RDMSR or WRMSR of APERF or MPERF, which is yet to come.
    Access,
}

/// Has `event` come `times` to the CPU that asks, at the boundary after `boundaries`
/// others, and then an instruction or more apart.
pub fn inject(event: Event, times: u16, from: From, boundaries: u64) {
    let from = match from {
        From::Now => 0,
        From::Access => 1 << 63,
    };
    ask(Function::Inject, event.encode(times), boundaries | from);
}

/// Tries `event` at every `stride`th boundary from now on, each in a copy of this
/// machine that nobody sees, until that says [`point_done`].
pub fn sweep(event: Event, times: u16, stride: u64) {
    ask(Function::Sweep, event.encode(times), stride);
}

/// Lets only boundaries before instructions of the host at these addresses count for
/// [`inject`] and [`sweep`]; all do again if the range is empty.
pub fn within(addresses: Range<u64>) {
    ask(Function::Within, addresses.start, addresses.end);
}

/// Ends [`inject`] and [`sweep`]. Returns the number of boundaries that counted.
pub fn disarm() -> u64 {
    ask(Function::Disarm, 0, 0).rax
}

/// Measures that a point of a sweep has.
pub const MEASURES: usize = 16;

/// Adds `value` to the largest of `measure` at this point of a sweep, and returns it.
pub fn measure(measure: usize, value: u64) -> u64 {
    ask(Function::Measure, measure as u64, value).rax
}

/// Ends this point of a sweep; `failures` says what was wrong, and is 0 if nothing
/// was. Returns outside of sweeps only: the number of points tried so far.
pub fn point_done(failures: u32) -> u64 {
    ask(Function::PointDone, failures.into(), 0).rax
}

/// A point of a sweep that has been tried.
#[derive(Clone, Debug)]
pub struct Point {
    /// Number of its boundary.
    pub boundary: u64,
    /// Address of the next instruction there.
    pub rip: u64,
    pub outcome: Outcome,
    pub measures: [u64; MEASURES],
}

/// What became of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What was told to [`point_done`].
    Failures(u32),
    /// The emulator ended.
    Lost,
    /// It took too long.
    Hung,
    /// A rule that [`watch`] watches was broken.
    Broken,
}

/// The point `index` of all that have been tried.
pub fn point(index: u64) -> Point {
    let answer = ask(Function::Point, index, 0);
    Point {
        boundary: answer.rdx,
        rip: answer.rbx,
        outcome: match (answer.rax >> 32, answer.rax as u32) {
            (0, failures) => Outcome::Failures(failures),
            (1, _) => Outcome::Lost,
            (2, _) => Outcome::Hung,
            _ => Outcome::Broken,
        },
        measures: array::from_fn(|measure| ask(Function::Point, index, measure as u64).rcx),
    }
}

/// Rules that the machine itself can watch, to be added.
pub mod rule {
    /// user-isolation, at each return to user space.
    pub const USER: u64 = 1 << 0;
    /// guest-isolation, at each VM entry: the pair is the one from the last exit, and
    /// may have advanced.
    pub const GUEST: u64 = 1 << 1;
    /// And it is not the host's.
    pub const GUEST_IS_NOT_HOST: u64 = 1 << 2;
    pub const ALL: u64 = USER | GUEST | GUEST_IS_NOT_HOST;
}

/// Has the machine stop where one of `rules`, of [`rule`]'s, is broken by more than
/// `tolerance` ticks. Returns the rules so far. What is known of guests is forgotten, as
/// it must be when their pair was changed from outside.
pub fn watch(rules: u64, tolerance: u64) -> u64 {
    ask(Function::Watch, tolerance, rules).rax
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
    set: fn(u64, u64) -> u64,
    cpu: u64,
    previous: u64,
}

impl Ratio {
    /// Makes `cpu` run at `ratio` / [`RATIO_ONE`] of the TSC's frequency.
    pub fn set(cpu: u64, ratio: u64) -> Self {
        Self::set_with(set_ratio, cpu, ratio)
    }

    /// Makes MPERF of `cpu` tick at `ratio` / [`RATIO_ONE`] of the TSC's frequency.
    pub fn set_mperf(cpu: u64, ratio: u64) -> Self {
        Self::set_with(set_mperf_ratio, cpu, ratio)
    }

    fn set_with(set: fn(u64, u64) -> u64, cpu: u64, ratio: u64) -> Self {
        let previous = set(cpu, ratio);
        Ratio { set, cpu, previous }
    }
}

impl Drop for Ratio {
    fn drop(&mut self) {
        (self.set)(self.cpu, self.previous);
    }
}

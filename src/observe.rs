// SPDX-License-Identifier: GPL-2.0

//! What an administrator may see of CPUs and vCPUs: statistics in debugfs, and tracepoints.
//!
//! Each statistic has one writer, which runs with IRQs disabled. So counting takes no lock and no
//! locked instruction; who reads a file may see the middle of a step.

use core::sync::atomic::{
    AtomicBool,
    AtomicU64,
    AtomicU8,
    Ordering::Relaxed, //
};

use aperfmperf_hal::{
    debugfs::View,
    trace, //
};
use kernel::fmt;

use crate::switch::{
    Event,
    Mode,
    Pair,
    Reason, //
};

/// A number that one context changes and anybody reads.
struct Statistic(AtomicU64);

impl Statistic {
    const fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    fn add(&self, more: u64) {
        self.set(self.get().wrapping_add(more));
    }

    fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What a CPU has done since the module was loaded.
pub(crate) struct CpuStats {
    loads: Statistic,
    restores: Statistic,
    exchanges: Statistic,
    interrupted: Statistic,
    lost: Statistic,
    collisions: Statistic,
}

impl CpuStats {
    pub(crate) const fn new() -> Self {
        Self {
            loads: Statistic::new(0),
            restores: Statistic::new(0),
            exchanges: Statistic::new(0),
            interrupted: Statistic::new(0),
            lost: Statistic::new(0),
            collisions: Statistic::new(0),
        }
    }
}

impl fmt::Display for CpuStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "loads {}", self.loads.get())?;
        writeln!(f, "restores {}", self.restores.get())?;
        writeln!(f, "exchanges {}", self.exchanges.get())?;
        writeln!(f, "interrupted {}", self.interrupted.get())?;
        writeln!(f, "lost_ticks {}", self.lost.get())?;
        writeln!(f, "nmi_collisions {}", self.collisions.get())
    }
}

/// What a vCPU has done since it was created.
pub(crate) struct VcpuStats {
    number: u32,
    creator: i32,
    c0: AtomicBool,
    mode: AtomicU8,
    mode_changes: Statistic,
    loads: Statistic,
    puts: Statistic,
    reads: Statistic,
    writes: Statistic,
    aperf: Statistic,
    mperf: Statistic,
}

impl VcpuStats {
    /// Of a new vCPU, `number` of this module, that process `creator` has made.
    pub(crate) fn new(number: u32, creator: i32, mode: Mode) -> Self {
        Self {
            number,
            creator,
            c0: AtomicBool::new(false),
            mode: AtomicU8::new(code(mode)),
            mode_changes: Statistic::new(0),
            loads: Statistic::new(0),
            puts: Statistic::new(0),
            reads: Statistic::new(0),
            writes: Statistic::new(0),
            aperf: Statistic::new(0),
            mperf: Statistic::new(0),
        }
    }

    /// KVM has read a counter, for the guest or for user space.
    pub(crate) fn count_read(&self) {
        self.reads.add(1);
    }

    /// KVM has written a counter, for the guest or for user space.
    pub(crate) fn count_write(&self) {
        self.writes.add(1);
    }
}

impl fmt::Display for VcpuStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (loads, puts) = (self.loads.get(), self.puts.get());
        writeln!(f, "pid {}", self.creator)?;
        writeln!(f, "mode {}", name(self.mode.load(Relaxed)))?;
        writeln!(f, "mode_changes {}", self.mode_changes.get())?;
        writeln!(f, "c0 {}", u8::from(self.c0.load(Relaxed)))?;
        writeln!(f, "advancing {}", u8::from(loads != puts))?;
        writeln!(f, "loads {loads}")?;
        writeln!(f, "puts {puts}")?;
        writeln!(f, "reads {}", self.reads.get())?;
        writeln!(f, "writes {}", self.writes.get())?;
        writeln!(f, "aperf_at_put {}", self.aperf.get())?;
        writeln!(f, "mperf_at_put {}", self.mperf.get())
    }
}

impl View for VcpuStats {
    type OwnerModule = crate::LocalModule;
}

/// A mode as the tracepoint has it.
fn code(mode: Mode) -> u8 {
    match mode {
        Mode::Passthrough => 0,
        Mode::Intercepted(Reason::Host) => 1,
        Mode::Intercepted(Reason::Kvm) => 2,
        Mode::Intercepted(Reason::TscRatio) => 3,
        Mode::Intercepted(Reason::HighValue) => 4,
    }
}

/// A mode as `rust/trace.h` names it.
fn name(code: u8) -> &'static str {
    match code {
        0 => "passthrough",
        1 => "intercepted:host",
        2 => "intercepted:kvm",
        3 => "intercepted:tsc_ratio",
        _ => "intercepted:high_value",
    }
}

/// Takes note of an event on a CPU.
#[inline(always)]
pub(crate) fn on_cpu(stats: &CpuStats, event: Event) {
    match event {
        Event::Load(_) => stats.loads.add(1),
        Event::Restore(Pair { aperf, mperf }) => {
            stats.restores.add(1);
            trace::restore(aperf, mperf);
        }
        Event::Exchange { lost, interrupted } => {
            stats.exchanges.add(1);
            stats.interrupted.add(u64::from(interrupted));
            stats.lost.add(lost.mperf);
            trace::exchange(lost.aperf, lost.mperf, interrupted);
        }
        Event::Collision => stats.collisions.add(1),
        Event::Put(_) | Event::Mode(_) | Event::C0(_) => {}
    }
}

/// Takes note of an event that is a vCPU's.
#[inline(always)]
pub(crate) fn on_vcpu(stats: &VcpuStats, event: Event) {
    match event {
        Event::Load(Pair { aperf, mperf }) => {
            stats.loads.add(1);
            trace::load(stats.number, aperf, mperf);
        }
        Event::Put(Pair { aperf, mperf }) => {
            stats.aperf.set(aperf);
            stats.mperf.set(mperf);
            stats.puts.add(1);
            trace::put(stats.number, aperf, mperf);
        }
        Event::Mode(mode) => {
            stats.mode.store(code(mode), Relaxed);
            stats.mode_changes.add(1);
            trace::mode(stats.number, code(mode));
        }
        Event::C0(c0) => stats.c0.store(c0, Relaxed),
        Event::Restore(_) | Event::Exchange { .. } | Event::Collision => {}
    }
}

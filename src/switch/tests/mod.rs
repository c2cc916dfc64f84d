// SPDX-License-Identifier: GPL-2.0

//! The rules, held against a simulated CPU.

mod calibration;
mod cost;
mod event;
mod guest;
mod host;
mod mode;
mod overflow;
mod pause;
mod permit;
mod sleep;

use super::{
    calibration::Calibration,
    cpu::Cpu,
    hardware::{
        Counter::{
            self,
            Aperf,
            Mperf, //
        },
        Pair, //
    },
    permit::Permits,
    simulator::Simulator,
    vcpu::Vcpu, //
};

/// More ticks than any switch takes on the simulated CPU, uninterrupted.
const WINDOW: u64 = 200;

/// More ticks than one sample takes, NMIs at each of its accesses included.
const SAMPLE: u64 = 64;

/// Never closed.
static PERMITS: Permits = Permits::new();

/// Calibrates `cpu`. Returns whether guest values may be loaded there.
fn calibrated(sim: &Simulator<'_>, cpu: &Cpu) -> bool {
    cpu.calibrate(sim, sim) == Calibration::Steady
}

/// A vCPU that is ready to run.
fn in_c0(sim: &Simulator<'_>, cpu: &Cpu) -> Vcpu {
    let mut vcpu = Vcpu::new(PERMITS.issue());
    cpu.configure(sim, &mut vcpu, 1 << 48, 48, false);
    cpu.set_c0(sim, &mut vcpu, true);
    vcpu
}

/// How far `counter`, as the host reads it, is from the truth.
fn host_error(sim: &Simulator<'_>, cpu: &Cpu, counter: Counter) -> u64 {
    let read = cpu.host_read(sim, counter);
    read.abs_diff(sim.truth().get(counter))
}

/// What the guest would read.
fn guest_pair(sim: &Simulator<'_>, cpu: &Cpu, vcpu: &mut Vcpu) -> Pair {
    Pair {
        aperf: cpu.guest_read(sim, vcpu, Aperf),
        mperf: cpu.guest_read(sim, vcpu, Mperf),
    }
}

// SPDX-License-Identifier: GPL-2.0

//! **host-continuity** for an NMI at any point of any switch.
//!
//! Readers of the host pair run on the CPU whose pair it is: a task or an IPI with IRQs disabled,
//! as switches are, or an NMI. So there is nothing for loom to find, which reorders the accesses
//! of threads; what there is to explore are the points of one thread at which an NMI may come.
//! These tests take each one in turn, and each two, and compare what the NMIs read, and what is
//! read after them, with the true counters.

use std::{
    cell::{
        Cell,
        RefCell, //
    },
    rc::Rc, //
};

use super::{
    super::{
        cpu::Cpu,
        hardware::Counter::{
            Aperf,
            Mperf, //
        },
        permit::Permits,
        vcpu::Vcpu, //
    },
    machine::{
        Counters,
        Machine, //
    }, //
};
use crate::interrupt;

static PERMITS: Permits = Permits::new();

/// APERF ticks per 1024 of MPERF: unlike each other, so that they are not taken for each other.
const RATIO: u64 = 3 * 1024;

/// What an NMI in a switch may see MPERF ahead, in ticks: less than a sample takes.
const AHEAD: u64 = 21;

/// TSC ticks that an NMI takes beside its reads.
const NMI: u64 = 2000;

type Switch = fn(&Cpu, &Counters, &mut Vcpu);

/// Everything that writes the MSRs or the CPU's state, and what has to happen before.
const SWITCHES: [(&str, &[Switch], Switch); 8] = [
    ("load", &[], Cpu::load),
    (
        "load of another guest's CPU",
        &[Cpu::load, Cpu::put],
        Cpu::load,
    ),
    ("put", &[Cpu::load], Cpu::put),
    ("halt", &[Cpu::load], |cpu, hw, vcpu| {
        cpu.set_c0(hw, vcpu, false)
    }),
    ("write", &[Cpu::load], |cpu, hw, vcpu| {
        cpu.guest_write(hw, vcpu, Mperf, 1 << 40)
    }),
    ("restore", &[Cpu::load, Cpu::put], |cpu, hw, _| {
        cpu.restore(hw)
    }),
    ("leave", &[Cpu::load, Cpu::put], |cpu, hw, _| cpu.leave(hw)),
    ("intercept", &[Cpu::load], |cpu, hw, vcpu| {
        cpu.configure(hw, vcpu, 1, 0, true)
    }),
];

/// How far the host pair, as it is read now, is from the truth, as signed numbers.
fn error(cpu: &Cpu, counters: &Counters) -> (i64, i64) {
    let aperf = cpu.host_read(counters, Aperf);
    let aperf = aperf.wrapping_sub(counters.sim().truth().aperf) as i64;
    let mperf = cpu.host_read(counters, Mperf);
    (
        aperf,
        mperf.wrapping_sub(counters.sim().truth().mperf) as i64,
    )
}

/// What came of a switch: how many points it had, and errors as [`error`] has them, relative to
/// what was known before.
struct Outcome {
    points: u64,
    /// Those that the NMIs saw.
    seen: Vec<(i64, i64)>,
    /// The one that remained.
    after: (i64, i64),
}

impl Outcome {
    fn check(&self, at: &str) {
        for (aperf, mperf) in &self.seen {
            assert!(
                (0..=AHEAD as i64).contains(mperf),
                "{at}: MPERF is ahead by {mperf}"
            );
            assert!(
                (-2..=(AHEAD * RATIO / 1024) as i64).contains(aperf),
                "{at}: APERF is ahead by {aperf}"
            );
        }
        let (aperf, mperf) = self.after;
        assert_eq!(mperf, 0, "{at}: MPERF afterwards");
        assert!(aperf.abs() <= 2, "{at}: APERF afterwards by {aperf}");
    }
}

/// Does a switch with NMIs at these points.
fn interrupt(before: &[Switch], switch: Switch, nmis: &[u64]) -> Outcome {
    let mut machine = Machine::new(1);
    let here = &mut machine.processors[0];
    here.set_frequency(RATIO);
    let (cpu, counters) = (here.cpu.clone(), here.counters.clone());
    let mut vcpu = Vcpu::new(PERMITS.issue());
    cpu.set_c0(&counters, &mut vcpu, true);
    // Values that are not the host's, and a frequency that is known.
    for value in [1 << 50, 1 << 51] {
        cpu.guest_write(&counters, &mut vcpu, Aperf, value);
        cpu.guest_write(&counters, &mut vcpu, Mperf, value / 2);
        cpu.load(&counters, &mut vcpu);
        counters.sim().run(1 << 16);
        cpu.put(&counters, &mut vcpu);
        cpu.restore(&counters);
    }
    for step in before {
        step(&cpu, &counters, &mut vcpu);
        counters.sim().run(10_000);
    }
    let known = error(&cpu, &counters);
    let relative = move |(aperf, mperf): (i64, i64)| (aperf - known.0, mperf - known.1);

    let points = Rc::new(Cell::new(0));
    let seen = Rc::new(RefCell::new(Vec::new()));
    let handler = {
        let (points, seen, cpu, counters) =
            (points.clone(), seen.clone(), cpu.clone(), counters.clone());
        let nmis = nmis.to_vec();
        move || {
            if nmis.contains(&points.get()) {
                seen.borrow_mut().push(relative(error(&cpu, &counters)));
                counters.sim().run(NMI);
            }
            points.set(points.get() + 1);
        }
    };
    interrupt::at_each_point(handler, || switch(&cpu, &counters, &mut vcpu));
    counters.sim().run(100);
    Outcome {
        points: points.get(),
        seen: seen.take(),
        after: relative(error(&cpu, &counters)),
    }
}

#[test]
fn an_nmi_at_any_point_of_a_switch_reads_the_host_pair() {
    for (name, before, switch) in SWITCHES {
        let points = interrupt(before, switch, &[]).points;
        assert!(points > 4, "{name}: {points} points");
        for point in 0..points {
            interrupt(before, switch, &[point]).check(&format!("{name}, NMI at {point}"));
        }
    }
}

/// The second one hits what the first one has had done again.
#[test]
fn nmis_at_any_two_points_of_a_switch_read_the_host_pair() {
    for (name, before, switch) in SWITCHES {
        for first in 0..interrupt(before, switch, &[]).points {
            let points = interrupt(before, switch, &[first]).points;
            for second in first + 1..points {
                let outcome = interrupt(before, switch, &[first, second]);
                assert_eq!(outcome.seen.len(), 2);
                outcome.check(&format!("{name}, NMIs at {first} and {second} of {points}"));
            }
        }
    }
}

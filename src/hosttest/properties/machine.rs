// SPDX-License-Identifier: GPL-2.0

//! The machine under test: CPUs with the logic on them, in one time.

use std::{
    cell::RefCell,
    rc::Rc, //
};

use super::{
    super::{
        calibration::Calibration,
        cpu::Cpu,
        event::{
            Event,
            Observer, //
        },
        hardware::{
            Counter::{
                self,
                Aperf,
                Mperf, //
            },
            Hardware,
            Pair, //
        },
        simulator::Simulator, //
    },
    guest::Passed,
    host::{
        Host,
        WINDOW, //
    },
    Check, //
};
use crate::interrupt;

/// The TSC of each CPU is behind that of the one before, in ticks.
const SKEW: u64 = 700;

/// What an NMI in a switch may see MPERF ahead: less than a sample takes.
const AHEAD: u64 = 32;

/// APERF ticks per 1024 of MPERF to begin with.
const RATIO: u64 = 1024;

/// The counters of one CPU, where an NMI may arrive at each access.
#[derive(Clone)]
pub(super) struct Counters(Rc<Simulator<'static>>);

impl Counters {
    /// The simulated CPU, without interruption.
    pub(super) fn sim(&self) -> &Simulator<'static> {
        &self.0
    }
}

impl Observer for Counters {
    fn observe(&self, event: Event) {
        self.0.observe(event);
    }
}

impl Hardware for Counters {
    fn tsc(&self) -> u64 {
        interrupt::point();
        self.0.tsc()
    }

    fn read(&self, counter: Counter) -> u64 {
        interrupt::point();
        self.0.read(counter)
    }

    fn write(&self, counter: Counter, value: u64) {
        interrupt::point();
        self.0.write(counter, value);
    }

    fn relax(&self) {
        self.0.relax();
    }
}

/// One CPU, and what is expected of its host pair.
pub(super) struct Processor {
    pub(super) cpu: Rc<Cpu>,
    pub(super) counters: Counters,
    pub(super) host: Host,
}

impl Processor {
    fn new(skew: u64) -> Self {
        let sim = Simulator::new(RATIO);
        sim.tsc_behind(skew);
        let counters = Counters(Rc::new(sim));
        let cpu = Rc::new(Cpu::new());
        assert_eq!(cpu.calibrate(&counters, &counters), Calibration::Steady);
        Self {
            cpu,
            counters,
            host: Host::new(RATIO),
        }
    }

    pub(super) fn sim(&self) -> &Simulator<'static> {
        self.counters.sim()
    }

    /// The CPU changes its frequency, and takes no SMI for now.
    pub(super) fn set_frequency(&mut self, ratio: u64) {
        self.sim().stall_after(u64::MAX, 0);
        self.sim().set_ratio(ratio);
        self.host.set_frequency(ratio);
    }

    /// An SMI is to come.
    pub(super) fn smi(&mut self, accesses: u64, ticks: u64) {
        self.sim().stall_after(accesses, ticks);
        self.host.interrupted(ticks);
    }

    /// A host write of `value` has just ended.
    pub(super) fn written(&mut self, counter: Counter, value: u64) {
        let truth = self.sim().truth();
        self.host.write(truth, counter, value);
    }

    /// Both counters become zero.
    pub(super) fn reset(&mut self) {
        self.sim().reset();
        self.host.reset(self.counters.0.truth());
    }

    /// **user-isolation**: the MSRs hold the host pair.
    pub(super) fn check_user_isolation(&self) -> Check {
        let (truth, msrs) = (self.sim().truth(), self.sim().msrs());
        self.host.check(truth, Aperf, msrs.aperf, WINDOW)?;
        self.host.check(truth, Mperf, msrs.mperf, WINDOW)
    }
}

/// **host-continuity**: reads the host pair.
fn check_host(cpu: &Cpu, counters: &Counters, host: &Host, slack: u64) -> Check {
    for counter in [Aperf, Mperf] {
        let value = cpu.host_read(counters, counter);
        host.check(counters.0.truth(), counter, value, slack)?;
    }
    Ok(())
}

/// An NMI that is to come: at which point, and how long it takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nmi {
    pub(super) point: u64,
    pub(super) ticks: u64,
}

impl Nmi {
    /// Reads the host pair when it is time.
    fn handler(self, here: &Processor, outcome: Rc<RefCell<Check>>) -> impl FnMut() {
        let (cpu, counters, host) = (here.cpu.clone(), here.counters.clone(), here.host);
        let mut points = 0;
        move || {
            if points == self.point {
                *outcome.borrow_mut() = check_host(&cpu, &counters, &host, AHEAD)
                    .map_err(|error| format!("in an NMI: {error}"));
                counters.0.run(self.ticks);
            }
            points += 1;
        }
    }
}

pub(super) struct Machine {
    pub(super) processors: Vec<Processor>,
    pub(super) nmi: Option<Nmi>,
}

impl Machine {
    pub(super) fn new(cpus: usize) -> Self {
        let processors = (0..cpus as u64).map(|cpu| Processor::new(cpu * SKEW));
        Self {
            processors: processors.collect(),
            nmi: None,
        }
    }

    /// What the TSCs differ by at most.
    pub(super) fn skew(&self) -> u64 {
        (self.processors.len() as u64 - 1) * SKEW
    }

    /// What is to come does not come while `cpu` does what it does next.
    pub(super) fn uninterrupted(&mut self, cpu: usize) {
        self.nmi = None;
        self.processors[cpu].sim().stall_after(u64::MAX, 0);
    }

    /// `ticks` pass in C0, or in an idle state on the CPU `idle`.
    pub(super) fn wait(&self, ticks: u64, idle: Option<usize>) -> Passed {
        let before = self.aperf();
        for (cpu, processor) in self.processors.iter().enumerate() {
            if Some(cpu) == idle {
                processor.sim().idle(ticks);
            } else {
                processor.sim().run(ticks);
            }
        }
        self.since(before, ticks)
    }

    /// `cpu` does `work`, while time passes on the others. An NMI that is to come comes.
    pub(super) fn work<R>(
        &mut self,
        cpu: usize,
        work: impl FnOnce(&Cpu, &Counters) -> R,
    ) -> Result<(R, Passed), String> {
        let Some(nmi) = self.nmi.take() else {
            return Ok(self.undisturbed(cpu, work));
        };
        let here = &mut self.processors[cpu];
        here.host.switched();
        here.host.interrupted(nmi.ticks);
        let outcome = Rc::new(RefCell::new(Ok(())));
        let handler = nmi.handler(here, outcome.clone());
        let result = self.undisturbed(cpu, |cpu, counters| {
            interrupt::at_each_point(handler, || work(cpu, counters))
        });
        outcome.replace(Ok(())).map(|()| result)
    }

    fn undisturbed<R>(
        &mut self,
        cpu: usize,
        work: impl FnOnce(&Cpu, &Counters) -> R,
    ) -> (R, Passed) {
        let before = self.aperf();
        let here = &mut self.processors[cpu];
        here.host.switched();
        let start = here.sim().now();
        let result = work(&here.cpu, &here.counters);
        let ticks = here.sim().now() - start;
        for (other, processor) in self.processors.iter().enumerate() {
            if other != cpu {
                processor.sim().run(ticks);
            }
        }
        (result, self.since(before, ticks))
    }

    fn aperf(&self) -> Vec<u64> {
        let aperf = |processor: &Processor| processor.sim().truth().aperf;
        self.processors.iter().map(aperf).collect()
    }

    fn since(&self, before: Vec<u64>, ticks: u64) -> Passed {
        let went = |(now, before): (u64, u64)| now - before;
        Passed {
            ticks,
            aperf: self.aperf().into_iter().zip(before).map(went).collect(),
        }
    }

    /// **host-continuity**, as a reader on `cpu` sees it.
    pub(super) fn check_host(&mut self, cpu: usize) -> Result<Passed, String> {
        let host = self.processors[cpu].host;
        let (check, passed) =
            self.undisturbed(cpu, |cpu, counters| check_host(cpu, counters, &host, 0));
        check.map(|()| passed)
    }
}

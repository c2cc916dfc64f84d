// SPDX-License-Identifier: GPL-2.0

//! A CPU for tests: true counters that nobody writes, the MSRs beside them, and time that passes
//! with each access.

use core::cell::Cell;

use super::{
    cpu::Cpu,
    event::{
        Event,
        Observer, //
    },
    hardware::{
        Counter,
        Hardware,
        Pair, //
    },
};

/// TSC ticks that one access takes.
const COST: u64 = 7;

/// TSC ticks that pass while the code under test has nothing to do.
const RELAXATION: u64 = 1 << 12;

/// How often a CPU's registers were accessed, by the instruction that does it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Accesses {
    pub(super) rdtsc: u64,
    pub(super) rdmsr: u64,
    pub(super) wrmsr: u64,
}

/// The simulated CPU. The code under test holds it as [`Hardware`].
pub(super) struct Simulator<'a> {
    tsc: Cell<u64>,
    mperf: Cell<u64>,
    /// True APERF, 54.10 fixed point.
    aperf: Cell<u64>,
    ratio: Cell<u64>,
    /// MSR minus true counter.
    written: Cell<Pair>,
    accesses: Cell<Accesses>,
    write_takes: Cell<u64>,
    stall: Cell<Option<(u64, u64)>>,
    nmi: Cell<Option<&'a Cpu>>,
    /// Largest error of MPERF and of APERF that the NMI handler saw.
    pub(super) nmi_error: Cell<Pair>,
    /// How often it ran.
    pub(super) nmis: Cell<u64>,
    random: Cell<u64>,
    events: Cell<Events>,
}

/// What happened, as far as it fits.
pub(super) type Events = [Option<Event>; 4];

impl<'a> Simulator<'a> {
    /// A CPU at `ratio` APERF ticks per 1024 MPERF ticks.
    pub(super) fn new(ratio: u64) -> Self {
        Self {
            tsc: Cell::new(1 << 40),
            mperf: Cell::new(1 << 30),
            aperf: Cell::new(1 << 41),
            ratio: Cell::new(ratio),
            written: Cell::new(Pair::ZERO),
            accesses: Cell::new(Accesses::default()),
            write_takes: Cell::new(0),
            stall: Cell::new(None),
            nmi: Cell::new(None),
            nmi_error: Cell::new(Pair::ZERO),
            nmis: Cell::new(0),
            random: Cell::new(0x9e37_79b9_7f4a_7c15),
            events: Cell::new([None; 4]),
        }
    }

    /// `ticks` pass in C0. If an MSR overflows, both are zero at their end.
    pub(super) fn run(&self, ticks: u64) {
        let before = self.msrs();
        self.tsc.set(self.tsc.get().wrapping_add(ticks));
        self.mperf.set(self.mperf.get().wrapping_add(ticks));
        let aperf = ticks.wrapping_mul(self.ratio.get());
        self.aperf.set(self.aperf.get().wrapping_add(aperf));
        let after = self.msrs();
        if after.aperf < before.aperf || after.mperf < before.mperf {
            self.reset();
        }
    }

    /// Both MSRs become zero, as after a suspend.
    pub(super) fn reset(&self) {
        self.written.set(Pair::ZERO.minus(self.truth()));
    }

    /// `ticks` pass in an idle state: the counters stand still.
    pub(super) fn idle(&self, ticks: u64) {
        self.tsc.set(self.tsc.get().wrapping_add(ticks));
    }

    /// The frequency changes to `ratio` APERF ticks per 1024 MPERF ticks.
    pub(super) fn set_ratio(&self, ratio: u64) {
        self.ratio.set(ratio);
    }

    /// From now on a write takes `ticks` more than a read.
    pub(super) fn write_takes(&self, ticks: u64) {
        self.write_takes.set(ticks);
    }

    /// The task moves to a CPU whose TSC is `ticks` behind.
    pub(super) fn tsc_behind(&self, ticks: u64) {
        self.tsc.set(self.tsc.get().wrapping_sub(ticks));
    }

    /// The counters that nobody writes.
    pub(super) fn truth(&self) -> Pair {
        Pair {
            aperf: self.aperf.get() >> 10,
            mperf: self.mperf.get(),
        }
    }

    /// What RDMSR would return, without time passing.
    pub(super) fn msrs(&self) -> Pair {
        self.truth().plus(self.written.get())
    }

    /// The TSC, without time passing.
    pub(super) fn now(&self) -> u64 {
        self.tsc.get()
    }

    /// The accesses until now.
    pub(super) fn accesses(&self) -> Accesses {
        self.accesses.get()
    }

    fn accessed(&self) -> u64 {
        let Accesses {
            rdtsc,
            rdmsr,
            wrmsr,
        } = self.accesses();
        rdtsc.wrapping_add(rdmsr).wrapping_add(wrmsr)
    }

    /// `ticks` pass at once (an SMI) after `accesses` more accesses.
    pub(super) fn stall_after(&self, accesses: u64, ticks: u64) {
        let at = self.accessed().wrapping_add(accesses);
        self.stall.set(Some((at, ticks)));
    }

    /// From now on an NMI arrives before every access and reads the host pair from `cpu`.
    pub(super) fn nmi_reads(&self, cpu: &'a Cpu) {
        self.nmi.set(Some(cpu));
    }

    /// A number below `bound`, the same sequence in every run.
    pub(super) fn random(&self, bound: u64) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        (x >> 16) % bound
    }

    /// The first events since the last call.
    pub(super) fn take_events(&self) -> Events {
        self.events.take()
    }

    fn boundary(&self, count: impl FnOnce(&mut Accesses) -> &mut u64) {
        self.run(COST);
        let access = self.accessed();
        let mut accesses = self.accesses();
        let counted = count(&mut accesses);
        *counted = counted.wrapping_add(1);
        self.accesses.set(accesses);
        if let Some((at, ticks)) = self.stall.get() {
            if at == access {
                self.run(ticks);
            }
        }
        if let Some(cpu) = self.nmi.take() {
            let aperf = cpu
                .host_read(self, Counter::Aperf)
                .abs_diff(self.truth().aperf);
            let mperf = cpu
                .host_read(self, Counter::Mperf)
                .abs_diff(self.truth().mperf);
            let worst = self.nmi_error.get();
            self.nmi_error.set(Pair {
                aperf: aperf.max(worst.aperf),
                mperf: mperf.max(worst.mperf),
            });
            self.nmis.set(self.nmis.get().wrapping_add(1));
            self.nmi.set(Some(cpu));
        }
    }
}

impl Observer for Simulator<'_> {
    fn observe(&self, event: Event) {
        let mut events = self.events.get();
        if let Some(free) = events.iter_mut().find(|event| event.is_none()) {
            *free = Some(event);
        }
        self.events.set(events);
    }
}

impl Hardware for Simulator<'_> {
    fn tsc(&self) -> u64 {
        self.boundary(|accesses| &mut accesses.rdtsc);
        self.tsc.get()
    }

    fn read(&self, counter: Counter) -> u64 {
        self.boundary(|accesses| &mut accesses.rdmsr);
        self.msrs().get(counter)
    }

    fn write(&self, counter: Counter, value: u64) {
        self.boundary(|accesses| &mut accesses.wrmsr);
        self.run(self.write_takes.get());
        let written = value.wrapping_sub(self.truth().get(counter));
        self.written.set(self.written.get().with(counter, written));
    }

    fn relax(&self) {
        self.run(RELAXATION);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! One CPU: what its MSRs hold, and the host pair behind it.

use super::atomic::{
    AtomicBool,
    AtomicU64,
    AtomicU8,
    Ordering::{
        Acquire,
        Relaxed, //
    }, //
};

use super::{
    event::Event,
    exchange::{
        Incoming,
        Sample, //
    },
    hardware::{
        Counter,
        Hardware,
        Pair,
        SharedPair, //
    },
    rate::AperfRate, //
};

/// How often [`Cpu::leave`] tries for a write that nothing interrupts.
const LEAVES: usize = 16;

/// What the MSRs of a CPU hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// The host pair.
    Host,
    /// The pair of the vCPU that runs here, advancing.
    Live,
    /// A guest's values, but that vCPU has been checkpointed.
    Stale,
}

/// The state of one CPU.
///
/// Each method but [`Cpu::host_read`] runs on the CPU that the object belongs to, with IRQs
/// disabled. The fields are atomic for the sake of an NMI on the same CPU. Another CPU may look at
/// them, but what it sees may be of different moments.
///
/// # Invariants
///
/// - While `busy` is false: hardware pair + `offset` = host pair.
/// - While `busy` is true: `host` was the host pair when the TSC was `host_tsc`, and the CPU has
///   been in C0 since.
/// - In [`State::Host`], `offset` is the few ticks by which the last restore did not foresee when
///   its writes would take effect. The next one replaces it, and does not add to it.
pub(crate) struct Cpu {
    pub(super) state: AtomicU8,
    pub(super) busy: AtomicBool,
    pub(super) offset: SharedPair,
    pub(super) host: SharedPair,
    pub(super) host_tsc: AtomicU64,
    /// The sum of all host writes: host pair - `moved` is what the counters would read had
    /// nobody ever written them.
    pub(super) moved: SharedPair,
    pub(super) rate: AperfRate,
    /// TSC ticks that the shortest sample took; zero if not calibrated.
    pub(super) shortest: AtomicU64,
    /// TSC ticks from the read of the TSC before a write to the write's effect.
    pub(super) lead: AtomicU64,
}

impl Cpu {
    /// A CPU whose MSRs hold the host pair.
    pub(crate) const fn new() -> Self {
        Self {
            state: AtomicU8::new(State::Host as u8),
            busy: AtomicBool::new(false),
            offset: SharedPair::new(),
            host: SharedPair::new(),
            host_tsc: AtomicU64::new(0),
            moved: SharedPair::new(),
            rate: AperfRate::new(),
            shortest: AtomicU64::new(0),
            lead: AtomicU64::new(0),
        }
    }

    /// What the MSRs hold.
    pub(crate) fn state(&self) -> State {
        match self.state.load(Relaxed) {
            0 => State::Host,
            1 => State::Live,
            _ => State::Stale,
        }
    }

    /// Host pair minus hardware pair.
    pub(crate) fn offset(&self) -> Pair {
        self.offset.load()
    }

    pub(super) fn set_state(&self, state: State) {
        self.state.store(state as u8, Relaxed);
    }

    /// What RDMSR of `counter` would return had nobody ever loaded a guest value.
    ///
    /// # Context
    ///
    /// Any, NMI included, on a CPU that cannot take an IRQ between the two halves of the sum.
    /// Switches run with IRQs disabled, so only an NMI can land inside one.
    ///
    /// # Promise
    ///
    /// **host-continuity**: outside of a switch the value is exact. An NMI inside one finds the
    /// busy mark and extrapolates from the last host pair with the TSC. MPERF then runs ahead by
    /// less than the time one sample takes, which is less than an NMI takes to return, so that no
    /// later reader sees it go backwards. APERF is off by at most the change of frequency since
    /// the last measurement, times the time since the switch began.
    pub(crate) fn host_read(&self, hw: &impl Hardware, counter: Counter) -> u64 {
        if self.busy.load(Acquire) {
            hw.observe(Event::Collision);
            let elapsed = hw.tsc().wrapping_sub(self.host_tsc.load(Relaxed));
            let host = self.host.load().plus(self.rate.extrapolate(elapsed));
            return host.get(counter);
        }
        hw.read(counter)
            .wrapping_add(self.offset.load().get(counter))
    }

    /// Sets the host value of `counter`, and never a guest's.
    ///
    /// # Overflow
    ///
    /// In [`State::Host`] this is a WRMSR, and so is the restore of what was set in another state.
    /// A counter that then overflows resets both, as it would without this module. If it overflows
    /// while a guest's values are in the MSRs, the host's value is a sum modulo 2^64: the counter
    /// wraps around, the other one goes on, and readers that take differences notice nothing.
    /// The guest pair is not touched in either case.
    pub(crate) fn host_write(&self, hw: &impl Hardware, counter: Counter, value: u64) {
        let current = hw.read(counter);
        let offset = self.offset.load();
        let host = current.wrapping_add(offset.get(counter));

        let offset = match self.state() {
            State::Host => {
                hw.write(counter, value);
                offset.with(counter, 0)
            }
            State::Live | State::Stale => offset.with(counter, value.wrapping_sub(current)),
        };
        self.offset.store(offset);

        let moved = self.moved.load();
        let by = value.wrapping_sub(host);
        let total = moved.get(counter).wrapping_add(by);
        self.moved.store(moved.with(counter, total));
    }

    /// Puts the host pair back: before anything that reads raw values.
    ///
    /// **user-isolation**: afterwards the MSRs hold the host pair, but for the few ticks by which
    /// the time of their writing was not foreseen. Those do not add up over restores.
    pub(crate) fn restore(&self, hw: &impl Hardware) {
        if self.state() == State::Host {
            return;
        }
        let after = self.write_host(hw);
        self.set_state(State::Host);
        hw.observe(Event::Restore(after.pair));
    }

    /// Puts the host pair back for good: readers will not have the offset added any more.
    ///
    /// **clean-exit**: what the time of the writing was not foreseen by would be lost, each time
    /// that the module is unloaded. Writes again until it is less than a sample takes.
    pub(crate) fn leave(&self, hw: &impl Hardware) {
        self.restore(hw);
        for _ in 0..LEAVES {
            let offset = self.offset.load();
            let missed = magnitude(offset.aperf).max(magnitude(offset.mperf));
            if missed <= self.shortest.load(Relaxed) {
                return;
            }
            self.write_host(hw);
        }
    }

    pub(super) fn write_host(&self, hw: &impl Hardware) -> Sample {
        self.exchange(hw, |_, host| Incoming {
            pair: host,
            aperf_advances: true,
        })
    }

    /// What the counters would read had nobody ever written them, when `hardware` was read.
    pub(super) fn unwritten(&self, hardware: Pair) -> Pair {
        hardware.plus(self.offset()).minus(self.moved.load())
    }
}

/// The distance from zero of a difference modulo 2^64.
pub(super) fn magnitude(difference: u64) -> u64 {
    (difference as i64).unsigned_abs()
}

// SPDX-License-Identifier: GPL-2.0

//! What happens to the counters, for whoever watches.

use super::{
    hardware::Pair,
    mode::Mode, //
};

/// One step, on the CPU that takes it. Values are in ticks of the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The vCPU's pair begins to advance from these values, in the MSRs or metered.
    Load(Pair),
    /// It stops at these.
    Put(Pair),
    /// The MSRs hold the host pair again, which is this.
    Restore(Pair),
    /// Both MSRs were written. The host pair advanced by `lost` meanwhile, MPERF as much as the
    /// TSC: the counters do not have it, the offset does.
    Exchange {
        lost: Pair,
        /// It took so long that something came in between.
        interrupted: bool,
    },
    /// The vCPU's reads are served in this mode from now on.
    Mode(Mode),
    /// The vCPU entered or left C0.
    C0(bool),
    /// An NMI handler read the host pair in the midst of an exchange.
    Collision,
}

/// Who watches. It must not change what it sees: no locks, no accesses to the counters.
pub(crate) trait Observer {
    /// Takes note of `event`, in the context of the step: IRQs disabled, under the run-queue's lock.
    /// [`Event::Collision`] comes from an NMI handler.
    fn observe(&self, event: Event);
}

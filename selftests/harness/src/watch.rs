// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The pair of a vCPU that does not run, watched by user space for a while.

use std::ops::RangeInclusive;

use anyhow::{Result, ensure};

use crate::guest::Vcpu;
use crate::{Pair, cpu, note};

/// How long [`watch`] watches, in ticks of the TSC: many times what the system
/// calls around it take.
const TICKS: u64 = 200_000;

/// What happened while user space watched.
pub struct Watched {
    what: &'static str,
    advance: Pair,
    /// TSC ticks between the two readings of the pair: at least those from
    /// within, at most those from without.
    elapsed: RangeInclusive<u64>,
}

/// Watches the pair of `vcpu`, which is `what` at that time. The caller stays on
/// one CPU.
pub fn watch(what: &'static str, vcpu: &Vcpu) -> Result<Watched> {
    let outer = cpu::tsc();
    let before = vcpu.pair()?;
    let inner = cpu::tsc();
    cpu::spin(TICKS);
    let least = cpu::tsc() - inner;
    let advance = vcpu.pair()? - before;
    let elapsed = least..=cpu::tsc() - outer;

    note!("{what}, for {elapsed:?} ticks: {advance}");
    Ok(Watched {
        what,
        advance,
        elapsed,
    })
}

impl Watched {
    /// The vCPU was not in C0: nothing may advance by a single tick.
    pub fn expect_still(&self) -> Result<()> {
        ensure!(
            self.advance == Pair::default(),
            "{}, and advanced by {}",
            self.what,
            self.advance
        );
        Ok(())
    }

    /// The vCPU was in C0: MPERF must advance with the TSC, and APERF not at all.
    pub fn expect_c0(&self) -> Result<()> {
        let Watched {
            what,
            advance,
            elapsed,
        } = self;
        ensure!(
            advance.aperf == 0,
            "{what}, and APERF advanced without KVM_RUN"
        );
        ensure!(
            elapsed.contains(&advance.mperf),
            "{what}, and MPERF did not advance with the TSC"
        );
        Ok(())
    }
}

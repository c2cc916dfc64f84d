// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The guest's pair, step by step.

use anyhow::{Result, ensure};
use harness::sample::{Distance, Sample};
use harness::{ONE_SWITCH, Pair};
use kvm_bindings::kvm_regs;

use crate::stressed::{Between, Plan};

/// The pair so far.
pub struct Watched {
    last: Sample,
    distance: Distance,
}

pub fn sample(regs: &kvm_regs) -> Sample {
    Sample {
        pair: Pair {
            aperf: regs.rdi,
            mperf: regs.rsi,
        },
        tsc: (regs.rbp, regs.r11),
        end: regs.r11,
        exits: 0,
    }
}

impl Watched {
    pub fn new(first: Sample) -> Self {
        Watched {
            last: first,
            distance: Distance::of(&first),
        }
    }

    pub fn expect_pair(&mut self, plan: &Plan, regs: &kvm_regs) -> Result<()> {
        let sample = sample(regs);
        let advance = sample.pair - self.last.pair;
        let elapsed = sample.tsc.1 - self.last.tsc.0;
        let cycles = regs.r13 / 5;
        self.last = sample;
        if plan.between == Between::Halt {
            self.distance = Distance::of(&sample);
        } else {
            self.distance.narrow(&sample);
        }

        ensure!(
            self.distance.error() <= ONE_SWITCH,
            "MPERF strays from the TSC by {} ticks",
            self.distance.error()
        );
        ensure!(
            advance.mperf <= elapsed + ONE_SWITCH,
            "{advance} in {elapsed} ticks"
        );
        ensure!(
            advance.aperf + ONE_SWITCH >= cycles && advance.aperf <= advance.mperf + ONE_SWITCH,
            "{advance}, but {cycles} cycles"
        );
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Replacing the values in the MSRs without losing a tick of the host's.
//!
//! A counter runs on between the read of its old value and the write of its new one, and those
//! ticks vanish. At thousands of switches a second that is a drift. So the pair is sampled
//! together with the TSC before the writes and after them, by the same code: MPERF advances with
//! the TSC, so the host's MPERF at the second sample is its value at the first plus the TSC's
//! advance, and APERF's follows from the [`super::rate`]. How long the writes took does not
//! matter, and the delay between the TSC's read and the counters' is the same in both samples and
//! cancels out.
//!
//! What is written is what will be right when the write takes effect, as far as that can be
//! foreseen: the TSC is read once more, and the rest of the delay, the lead, is measured when the
//! CPU comes online ([`super::calibration`]).
//!
//! An NMI or SMI inside a sample breaks that last assumption, and one beside the write leaves the
//! new value late. Both are seen as a long time between two reads of the TSC, and the step is
//! done again, a bounded number of times. Each repetition is a complete exchange: nothing adds up.

use super::atomic::Ordering::{
    Relaxed,
    Release, //
};

use super::{
    cpu::Cpu,
    event::Event,
    hardware::{
        Counter,
        Hardware,
        Pair, //
    },
    rate::Rate, //
};

/// How often an interrupted exchange is tried.
const EXCHANGES: usize = 3;

/// How often an interrupted sample is tried. What a sample is off by stays in the host pair, so
/// many short interruptions in a row, as of a virtual CPU, must not exhaust it.
pub(super) const SAMPLES: usize = 16;

/// A sample that takes so many times the shortest was interrupted. The TSC does not slow down
/// with the core, so this leaves room for the lowest frequency.
const SLOW_SAMPLE: u64 = 4;

/// The same for an exchange: two samples, two WRMSRs.
const SLOW_EXCHANGE: u64 = 32;

/// The hardware pair together with the TSC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) pair: Pair,
    /// The TSC just before the pair was read.
    pub(super) tsc: u64,
    /// TSC ticks from there to the end.
    pub(super) took: u64,
}

/// What is to be in the MSRs.
pub(super) struct Incoming {
    /// The pair as it is right at the TSC of the sample before the writes. MPERF goes on from
    /// there with the TSC.
    pub(super) pair: Pair,
    /// APERF goes on as well: it is not just now coming back to a CPU.
    pub(super) aperf_advances: bool,
}

// One copy of the code: the delay between its reads must depend neither on the caller nor on how
// often it was tried.
#[inline(never)]
fn sample_once(hw: &impl Hardware) -> Sample {
    let tsc = hw.tsc();
    let aperf = hw.read(Counter::Aperf);
    let mperf = hw.read(Counter::Mperf);
    let took = hw.tsc().wrapping_sub(tsc);
    Sample {
        pair: Pair { aperf, mperf },
        tsc,
        took,
    }
}

impl Cpu {
    /// Reads the hardware pair and the TSC. The tightest of a few tries.
    pub(super) fn sample(&self, hw: &impl Hardware) -> Sample {
        let mut best = sample_once(hw);
        for _ in 1..SAMPLES {
            if !self.slow(best.took, SLOW_SAMPLE) {
                break;
            }
            let next = sample_once(hw);
            if next.took < best.took {
                best = next;
            }
        }
        self.follow(best.took);
        best
    }

    /// Has the shortest sample follow the core's frequency: where all of them are slow, none was
    /// interrupted.
    fn follow(&self, took: u64) {
        let shortest = self.shortest.load(Relaxed);
        if took < shortest {
            self.shortest.store(took, Relaxed);
        } else if self.slow(took, SLOW_SAMPLE) {
            // A little at a time, in case that all of them were.
            let longer = shortest.saturating_mul(2).min(took / SLOW_SAMPLE);
            self.shortest.store(longer, Relaxed);
        }
    }

    fn slow(&self, took: u64, factor: u64) -> bool {
        let shortest = self.shortest.load(Relaxed);
        shortest != 0 && took > shortest.saturating_mul(factor)
    }

    /// Writes `incoming(TSC, host pair at that TSC)` to the MSRs, and accounts the ticks lost in
    /// the offset. Returns a sample taken after the writes.
    pub(super) fn exchange(
        &self,
        hw: &impl Hardware,
        incoming: impl Fn(u64, Pair) -> Incoming,
    ) -> Sample {
        let mut attempt = 1;
        loop {
            let before = self.sample(hw);
            let host = before.pair.plus(self.offset.load());
            self.rate.learn(host.minus(self.moved.load()));

            // INVARIANT: `host` is set before `busy`; `offset` is right again before `busy` is
            // cleared. Release keeps the compiler from moving stores across; an NMI sees its own
            // CPU's stores in program order.
            self.host.store(host);
            self.host_tsc.store(before.tsc, Relaxed);
            self.busy.store(true, Release);

            let new = incoming(before.tsc, host);
            let rate = if new.aperf_advances {
                self.rate.get()
            } else {
                Rate::ZERO
            };
            self.write(hw, new.pair, before.tsc, rate);

            let after = self.sample(hw);
            let elapsed = after.tsc.wrapping_sub(before.tsc);
            let lost = self.rate.advance(elapsed);
            self.offset.store(host.plus(lost).minus(after.pair));
            self.busy.store(false, Release);

            let interrupted = self.slow(elapsed, SLOW_EXCHANGE);
            hw.observe(Event::Exchange { lost, interrupted });
            if attempt == EXCHANGES || !interrupted {
                return after;
            }
            attempt += 1;
        }
    }

    /// Writes what the MSRs will hold when the writes take effect: they held `pair` at TSC
    /// `since`, and APERF has gone on at `rate` from there.
    // Laid out as the sample, so that each write is as far from the TSC's read as the read of the
    // same counter is there. The rest is the lead; one copy of the code, so that it is constant.
    #[inline(never)]
    fn write(&self, hw: &impl Hardware, pair: Pair, since: u64, rate: Rate) {
        let elapsed = hw
            .tsc()
            .wrapping_sub(since)
            .wrapping_add(self.lead.load(Relaxed));
        let new = pair.plus(Pair {
            aperf: rate.ticks(elapsed),
            mperf: elapsed,
        });
        hw.write(Counter::Aperf, new.aperf);
        hw.write(Counter::Mperf, new.mperf);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What KVM and the scheduler tell about a vCPU, carried out on the CPU where it happens.
//!
//! Everything is a checkpoint, a change, and a resumption of whatever then applies. So a change
//! of mode, a write or a halt in the middle of a run needs no case of its own.

use super::{
    cpu::{
        Cpu,
        State, //
    },
    event::Event,
    exchange::{
        Incoming,
        Sample, //
    },
    hardware::{
        Counter,
        Hardware, //
    },
    mode::{
        Mode,
        TscRatio, //
    },
    sleep::Sleeps,
    vcpu::{
        Place,
        Vcpu, //
    },
};

impl Cpu {
    /// The vCPU's task starts or goes on to run it: KVM_RUN begins, or sched-in.
    pub(crate) fn load(&self, hw: &impl Hardware, vcpu: &mut Vcpu) {
        self.change(hw, vcpu, Vcpu::start);
    }

    /// The vCPU's task stops running it: KVM_RUN ends, or sched-out.
    pub(crate) fn put(&self, hw: &impl Hardware, vcpu: &mut Vcpu) {
        self.change(hw, vcpu, |vcpu| vcpu.running = false);
    }

    /// The vCPU entered or left C0.
    pub(crate) fn set_c0(&self, hw: &impl Hardware, vcpu: &mut Vcpu, c0: bool) {
        if vcpu.c0 != c0 {
            self.change(hw, vcpu, |vcpu| vcpu.set_c0(c0));
            hw.observe(Event::C0(c0));
        }
    }

    /// Drops what MPERF has advanced since the vCPU was put. Not during KVM_RUN.
    pub(crate) fn forget_pause(&self, hw: &impl Hardware, vcpu: &mut Vcpu) {
        self.change(hw, vcpu, Vcpu::forget_pause);
    }

    /// The same if the host has slept since the vCPU was put.
    pub(crate) fn forget_sleep(&self, hw: &impl Hardware, vcpu: &mut Vcpu, sleeps: &Sleeps) {
        if sleeps.update(&mut vcpu.seen) {
            self.forget_pause(hw, vcpu);
        }
    }

    /// Sets the guest value of `counter`.
    pub(crate) fn guest_write(
        &self,
        hw: &impl Hardware,
        vcpu: &mut Vcpu,
        counter: Counter,
        value: u64,
    ) {
        self.change(hw, vcpu, |vcpu| vcpu.set(counter, value));
    }

    /// Guest TSC ticks per 2^`fraction_bits` host ticks, and whether to intercept regardless.
    pub(crate) fn configure(
        &self,
        hw: &impl Hardware,
        vcpu: &mut Vcpu,
        multiplier: u64,
        fraction_bits: u8,
        intercept: bool,
    ) {
        let ratio = TscRatio::new(multiplier, fraction_bits);
        if (vcpu.ratio, vcpu.asked) != (ratio, intercept) {
            self.change(hw, vcpu, |vcpu| vcpu.set_ratio(ratio, intercept));
        }
    }

    /// The guest value of `counter`, as an RDMSR in the guest would return it now.
    pub(crate) fn guest_read(&self, hw: &impl Hardware, vcpu: &mut Vcpu, counter: Counter) -> u64 {
        match vcpu.place {
            Place::Msrs { .. } if self.state() == State::Live => return hw.read(counter),
            Place::Msrs { .. } | Place::Away => vcpu.accrue(hw.tsc(), 0),
            Place::Metered { from } => {
                let from = self.meter(vcpu, from, self.host_sample(hw));
                vcpu.place = Place::Metered { from };
                if vcpu.passthrough() {
                    // Since an overflow that was found just now.
                    self.change(hw, vcpu, |_| ());
                }
            }
        }
        if let Some(mode) = vcpu.new_mode() {
            hw.observe(Event::Mode(mode));
        }
        vcpu.pair.get(counter)
    }

    fn change(&self, hw: &impl Hardware, vcpu: &mut Vcpu, how: impl FnOnce(&mut Vcpu)) {
        self.checkpoint(hw, vcpu);
        how(vcpu);
        if let Some(mode) = vcpu.new_mode() {
            hw.observe(Event::Mode(mode));
        }
        if vcpu.running && vcpu.c0 {
            match vcpu.mode {
                Mode::Passthrough => self.enter(hw, vcpu),
                Mode::Intercepted(_) => {
                    let from = self.host_sample(hw);
                    vcpu.place = Place::Metered { from };
                    hw.observe(Event::Load(vcpu.pair));
                }
            }
        }
    }

    /// Brings the vCPU's pair up to now, wherever it advances, and stops it there. Reads only:
    /// the MSRs may keep the guest's values until somebody else needs them.
    fn checkpoint(&self, hw: &impl Hardware, vcpu: &mut Vcpu) {
        match vcpu.place {
            Place::Msrs { lag } if self.state() == State::Live => {
                let sample = self.sample(hw);
                vcpu.pair = sample.pair;
                vcpu.since = sample.tsc.wrapping_sub(lag);
                vcpu.accrue(sample.tsc, 0);
                self.set_state(State::Stale);
            }
            // Nobody restores the host pair under a running vCPU. Would somebody, what is in the
            // MSRs would not be the guest's.
            Place::Msrs { .. } | Place::Away => vcpu.accrue(hw.tsc(), 0),
            Place::Metered { from } => {
                self.meter(vcpu, from, self.host_sample(hw));
            }
        }
        if vcpu.place != Place::Away {
            hw.observe(Event::Put(vcpu.pair));
        }
        vcpu.leave();
    }

    /// What the counters would read had nobody ever written them.
    fn host_sample(&self, hw: &impl Hardware) -> Sample {
        let sample = self.sample(hw);
        Sample {
            pair: self.unwritten(sample.pair),
            ..sample
        }
    }

    /// **guest-aperf** and **guest-mperf** without the MSRs: adds the host's advance since `from`.
    /// Returns the new `from`.
    ///
    /// A guest whose HLT or MWAIT does not exit leaves C0, and only the host's MPERF tells. Less
    /// than what two samples took may be their difference.
    fn meter(&self, vcpu: &mut Vcpu, from: Sample, now: Sample) -> Sample {
        let advance = now.pair.minus(from.pair);
        // Backwards: the administrator had the host pair overflow, which resets it.
        let forward = |ticks: u64| ticks >> 63 == 0;
        if vcpu.has_permit() && forward(advance.aperf) && forward(advance.mperf) {
            let idle = now.tsc.wrapping_sub(from.tsc).wrapping_sub(advance.mperf);
            if forward(idle) && idle > from.took.wrapping_add(now.took) {
                vcpu.sit_out(idle);
            }
        }
        let aperf = if forward(advance.aperf) {
            advance.aperf
        } else {
            0
        };
        vcpu.accrue(now.tsc, aperf);
        now
    }

    /// **guest-isolation**: puts the vCPU's pair into the MSRs.
    fn enter(&self, hw: &impl Hardware, vcpu: &mut Vcpu) {
        let after = self.exchange(hw, |tsc, _| Incoming {
            pair: vcpu.pair.with(Counter::Mperf, vcpu.mperf_at(tsc)),
            aperf_advances: false,
        });
        let lag = vcpu.mperf_due(after.tsc).wrapping_sub(after.pair.mperf);
        vcpu.place = Place::Msrs { lag };
        self.set_state(State::Live);
        hw.observe(Event::Load(after.pair));
    }
}

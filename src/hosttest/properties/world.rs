// SPDX-License-Identifier: GPL-2.0

//! The machine beside the model, step by step.

use super::{
    super::{
        calibration::Calibration,
        cpu::{
            Cpu,
            State, //
        },
        hardware::Counter::{
            self,
            Aperf,
            Mperf, //
        },
        permit::Permits,
        vcpu::Vcpu, //
    },
    guest::{
        Guest,
        Passed, //
    },
    machine::{
        Counters,
        Machine, //
    },
    step::{
        Step,
        CPUS,
        VCPUS, //
    },
    Check, //
};

static PERMITS: Permits = Permits::new();

/// By how many ticks a guest's counter may be off beside what the model leaves open: the ticks by
/// which a write was not foreseen.
const SLACK: u64 = 32;

/// Guest values from here on are not passed through.
const TOO_HIGH: u64 = 1 << 62;

pub(super) struct World {
    pub(super) machine: Machine,
    vcpus: Vec<Vcpu>,
    guests: Vec<Guest>,
}

impl World {
    /// All vCPUs but the first may pass reads through.
    pub(super) fn new() -> Self {
        let permit = |vcpu| if vcpu == 0 { None } else { PERMITS.issue() };
        Self {
            machine: Machine::new(CPUS),
            vcpus: (0..VCPUS).map(|vcpu| Vcpu::new(permit(vcpu))).collect(),
            guests: vec![Guest::new(); VCPUS],
        }
    }

    /// Carries `step` out on both, and compares them.
    pub(super) fn take(&mut self, step: Step) -> Check {
        match step {
            Step::Run { ticks } => self.wait(ticks, None),
            Step::Idle { cpu, ticks } => {
                let idle = self.guests.iter().all(|guest| guest.live() != Some(cpu));
                self.wait(ticks, idle.then_some(cpu));
            }
            Step::Load { vcpu, cpu } => {
                self.put(vcpu)?;
                self.preempt(cpu)?;
                self.on_vcpu(vcpu, cpu, Cpu::load, |guest| guest.load(cpu))?;
            }
            Step::Put { vcpu } => self.put(vcpu)?,
            Step::C0 { vcpu, cpu, c0 } => {
                let set = |cpu: &Cpu, hw: &Counters, vcpu: &mut Vcpu| cpu.set_c0(hw, vcpu, c0);
                self.on_vcpu(vcpu, cpu, set, |guest| guest.set_c0(c0))?;
            }
            Step::Write {
                vcpu,
                cpu,
                counter,
                value,
            } => {
                let write = |cpu: &Cpu, hw: &Counters, vcpu: &mut Vcpu| {
                    cpu.guest_write(hw, vcpu, counter, value)
                };
                let passed = self.on_vcpu(vcpu, cpu, write, |guest| guest.write(counter, value))?;
                self.check_mode(vcpu, &passed)?;
            }
            Step::Read { vcpu, cpu } => self.read(vcpu, cpu)?,
            Step::Configure {
                vcpu,
                cpu,
                ratio,
                intercept,
            } => {
                let configure = |cpu: &Cpu, hw: &Counters, vcpu: &mut Vcpu| {
                    cpu.configure(hw, vcpu, ratio.0, ratio.1, intercept)
                };
                let changes = self.guests[vcpu].configured() != (ratio, intercept);
                let passed = self.on_vcpu(vcpu, cpu, configure, |guest| {
                    guest.configure(ratio, intercept)
                })?;
                if changes {
                    self.check_mode(vcpu, &passed)?;
                }
            }
            Step::Pause { vcpu, cpu } => {
                if self.guests[vcpu].cpu.is_none() {
                    self.on_vcpu(vcpu, cpu, Cpu::forget_pause, Guest::forget_pause)?;
                }
            }
            Step::Restore { cpu } => self.leave_to_user(cpu, Cpu::restore)?,
            Step::Offline { cpu } => {
                self.leave_to_user(cpu, Cpu::leave)?;
                self.machine.uninterrupted(cpu);
                let found = self.on_cpu(cpu, |cpu, hw| cpu.calibrate(hw, hw))?;
                assert_eq!(found, Calibration::Steady);
            }
            Step::Suspend { cpu } => {
                self.leave_to_user(cpu, Cpu::restore)?;
                self.machine.processors[cpu].reset();
                self.on_cpu(cpu, Cpu::resume)?;
            }
            Step::HostWrite {
                cpu,
                counter,
                value,
            } => {
                self.machine.uninterrupted(cpu);
                self.on_cpu(cpu, |cpu, hw| cpu.host_write(hw, counter, value))?;
                self.machine.processors[cpu].written(counter, value);
            }
            Step::Frequency { cpu, ratio } => self.machine.processors[cpu].set_frequency(ratio),
            Step::Smi {
                cpu,
                accesses,
                ticks,
            } => self.machine.processors[cpu].smi(accesses, ticks),
            Step::Nmi(nmi) => self.machine.nmi = Some(nmi),
        }
        self.check()
    }

    fn wait(&mut self, ticks: u64, idle: Option<usize>) {
        let passed = self.machine.wait(ticks, idle);
        self.advance(&passed);
    }

    fn advance(&mut self, passed: &Passed) {
        for guest in &mut self.guests {
            guest.advance(passed);
        }
    }

    /// Something happens on `cpu` that is none of the guests' business.
    fn on_cpu<R>(
        &mut self,
        cpu: usize,
        work: impl FnOnce(&Cpu, &Counters) -> R,
    ) -> Result<R, String> {
        let (result, passed) = self.machine.work(cpu, work)?;
        self.advance(&passed);
        Ok(result)
    }

    /// `work` changes `vcpu`: where it runs, else on `cpu`, from which another one has to go.
    fn on_vcpu(
        &mut self,
        vcpu: usize,
        cpu: usize,
        work: impl FnOnce(&Cpu, &Counters, &mut Vcpu),
        rule: impl Fn(&mut Guest),
    ) -> Result<Passed, String> {
        let cpu = self.place(vcpu, cpu)?;
        let target = &mut self.vcpus[vcpu];
        let ((), passed) = self.machine.work(cpu, |cpu, hw| work(cpu, hw, target))?;
        let skew = self.machine.skew();
        for (other, guest) in self.guests.iter_mut().enumerate() {
            if other == vcpu {
                guest.change(&passed, skew, &rule);
            } else {
                guest.advance(&passed);
            }
        }
        Ok(passed)
    }

    /// The CPU on which something may happen to `vcpu`.
    fn place(&mut self, vcpu: usize, cpu: usize) -> Result<usize, String> {
        match self.guests[vcpu].cpu {
            Some(here) => Ok(here),
            None => self.preempt(cpu).map(|()| cpu),
        }
    }

    fn put(&mut self, vcpu: usize) -> Check {
        match self.guests[vcpu].cpu {
            Some(cpu) => self.on_vcpu(vcpu, cpu, Cpu::put, Guest::put).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Whoever runs on `cpu` is scheduled out.
    fn preempt(&mut self, cpu: usize) -> Check {
        let runs = |guest: &Guest| guest.cpu == Some(cpu);
        match self.guests.iter().position(runs) {
            Some(vcpu) => self.put(vcpu),
            None => Ok(()),
        }
    }

    /// **user-isolation**: after `restore`, `cpu` has the host pair.
    fn leave_to_user(&mut self, cpu: usize, restore: impl Fn(&Cpu, &Counters)) -> Check {
        self.preempt(cpu)?;
        self.on_cpu(cpu, restore)?;
        self.machine.processors[cpu].check_user_isolation()
    }

    /// Userspace reads, or the guest with an exit.
    fn read(&mut self, vcpu: usize, cpu: usize) -> Check {
        let cpu = self.place(vcpu, cpu)?;
        for counter in [Aperf, Mperf] {
            let earlier = self.guests[vcpu].clone();
            let target = &mut self.vcpus[vcpu];
            let (value, passed) = self
                .machine
                .work(cpu, |cpu, hw| cpu.guest_read(hw, target, counter))?;
            self.advance(&passed);
            self.check_guest(vcpu, &earlier, counter, value)?;
        }
        Ok(())
    }

    fn check_guest(&mut self, vcpu: usize, earlier: &Guest, counter: Counter, value: u64) -> Check {
        let slack = SLACK + self.machine.skew();
        self.guests[vcpu]
            .check(earlier, counter, value, slack)
            .map_err(|error| format!("vCPU {vcpu}: {error}"))
    }

    /// Reads are passed through whenever they may be, which is decided anew at this moment.
    fn check_mode(&self, vcpu: usize, passed: &Passed) -> Check {
        let permitted = vcpu != 0;
        match self.guests[vcpu].may_pass_through(TOO_HIGH, passed.ticks) {
            Some(may) if (may && permitted) != self.vcpus[vcpu].passthrough() => Err(format!(
                "vCPU {vcpu}: reads are passed through: {}",
                self.vcpus[vcpu].passthrough()
            )),
            _ => Ok(()),
        }
    }

    fn check(&mut self) -> Check {
        for cpu in 0..CPUS {
            let passed = self.machine.check_host(cpu)?;
            self.advance(&passed);
        }
        for vcpu in 0..VCPUS {
            self.check_passthrough(vcpu)?;
        }
        Ok(())
    }

    /// **guest-isolation**, **no-exit**: what a guest reads without the code under test.
    fn check_passthrough(&mut self, vcpu: usize) -> Check {
        let Some(cpu) = self.guests[vcpu].live() else {
            return Ok(());
        };
        if !self.vcpus[vcpu].passthrough() {
            return Ok(());
        }
        let processor = &self.machine.processors[cpu];
        if processor.cpu.state() != State::Live {
            return Err(format!("vCPU {vcpu}: not in the MSRs of CPU {cpu}"));
        }
        let msrs = processor.sim().msrs();
        for counter in [Aperf, Mperf] {
            let now = self.guests[vcpu].clone();
            self.check_guest(vcpu, &now, counter, msrs.get(counter))?;
        }
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What is asked of KVM, at random. KVM may refuse anything.

use anyhow::{Result, ensure};
use fastrand::Rng;
use harness::oracle::RATIO_ONE;
use harness::pair::{MSR_IA32_APERF, MSR_IA32_MPERF};
use harness::{cpu, module};
use kvm_bindings::kvm_mp_state;

use super::ask;
use super::model::{World, set_of_features};
use super::program::{PROGRAMS, Program};

const MAX_VMS: usize = 4;
const MAX_VCPUS: usize = 3;

/// One operation in so many reloads the module.
const RELOAD: u32 = 5000;

#[derive(Clone, Copy, Debug)]
pub enum Operation {
    CreateVm {
        irqchip: bool,
        disabled_exits: u64,
        tsc_percent: u64,
    },
    DropVm,
    CreateVcpu {
        pair: bool,
    },
    CloseVcpu,
    SetCpuid {
        pair: bool,
    },
    SetMsr {
        msr: u32,
        value: u64,
    },
    SetTscKhz {
        percent: u64,
    },
    SetMpState {
        state: u32,
    },
    SetFilter {
        aperf: bool,
        mperf: bool,
        write: bool,
    },
    Run {
        program: Program,
        value: u64,
        microseconds: u64,
    },
    KvmclockCtrl,
    Nested {
        flipped: Option<u32>,
    },
    Interrupt {
        irq: u32,
    },
    MoveTo {
        cpu: usize,
    },
    SetRatio {
        ratio: u64,
    },
    Reload,
}

use Operation::*;

/// A value that a counter may be set to: near a border, or anything.
fn value(random: &mut Rng) -> u64 {
    const BORDERS: [u64; 5] = [0, 1 << 32, 1 << 62, 1 << 63, u64::MAX];
    match random.u8(..3) {
        0 => random.u64(..),
        1 => random.u64(..1 << 50),
        _ => BORDERS[random.usize(..5)]
            .wrapping_add(random.u64(..20_000))
            .wrapping_sub(10_000),
    }
}

fn percent(random: &mut Rng) -> u64 {
    *random
        .choice(&[100, 100, 50, 73, 150, 200, 0, 1, 5000])
        .expect("not empty")
}

impl Operation {
    /// Any operation, the frequent ones more often.
    pub fn draw(random: &mut Rng) -> Self {
        // Its tests run whenever the module is loaded, which takes long.
        if random.u32(..RELOAD) == 0 {
            return Reload;
        }
        match random.u32(..1000) {
            0..30 => CreateVm {
                irqchip: random.bool(),
                disabled_exits: if random.u8(..3) == 0 {
                    random.u64(..32)
                } else {
                    0
                },
                tsc_percent: percent(random),
            },
            30..55 => DropVm,
            55..110 => CreateVcpu {
                pair: random.u8(..5) != 0,
            },
            110..130 => CloseVcpu,
            130..170 => SetCpuid {
                pair: random.bool(),
            },
            170..270 => SetMsr {
                msr: if random.bool() {
                    MSR_IA32_APERF
                } else {
                    MSR_IA32_MPERF
                },
                value: value(random),
            },
            270..320 => SetTscKhz {
                percent: percent(random),
            },
            320..380 => SetMpState {
                state: random.u32(..12),
            },
            380..420 => SetFilter {
                aperf: random.bool(),
                mperf: random.bool(),
                write: random.bool(),
            },
            420..800 => Run {
                program: PROGRAMS[random.usize(..PROGRAMS.len())],
                value: value(random),
                microseconds: random.u64(1..300),
            },
            800..840 => KvmclockCtrl,
            840..870 => Nested {
                flipped: random.bool().then(|| random.u32(..16)),
            },
            870..920 => Interrupt {
                irq: random.u32(..32),
            },
            920..970 => MoveTo {
                cpu: random.usize(..cpu::online()),
            },
            _ => SetRatio {
                ratio: random.u64(RATIO_ONE / 4..RATIO_ONE * 2),
            },
        }
    }

    /// # Errors
    ///
    /// What must hold does not. That KVM refuses something is no error.
    pub fn carry_out(self, world: &mut World, random: &mut Rng) -> Result<()> {
        match self {
            CreateVm {
                irqchip,
                disabled_exits,
                tsc_percent,
            } => {
                if world.vms.len() < MAX_VMS {
                    let khz = world.host_khz * tsc_percent / 100;
                    ask::configure(world.add_vm(irqchip)?, disabled_exits, khz);
                }
            }
            DropVm => {
                if !world.vms.is_empty() {
                    world.vms.swap_remove(random.usize(..world.vms.len()));
                }
            }
            CreateVcpu { pair } => {
                let vm = random.choice(world.vms.iter_mut());
                if let Some(vm) = vm.filter(|vm| vm.vcpus.len() < MAX_VCPUS && vm.has_room()) {
                    vm.add_vcpu(pair)?;
                    world.count_vcpu();
                }
            }
            CloseVcpu => {
                let vm = random.choice(world.vms.iter_mut());
                if let Some(vm) = vm.filter(|vm| !vm.vcpus.is_empty()) {
                    vm.abandon(random.usize(..vm.vcpus.len()));
                }
            }
            MoveTo { cpu } => cpu::pin(cpu)?,
            SetRatio { ratio } => world.set_ratio(ratio),
            SetFilter {
                aperf,
                mperf,
                write,
            } => ask::filter(world, random, [aperf, mperf], write),
            Reload => ask::reload(world)?,
            Run {
                program,
                value,
                microseconds,
            } => ask::run(world, random, program, value, microseconds)?,
            _ => self.ask_vcpu(world, random)?,
        }
        Ok(())
    }

    fn ask_vcpu(self, world: &mut World, random: &mut Rng) -> Result<()> {
        let host_khz = world.host_khz;
        let Some((vcpu, guest, raw)) = world.any_vcpu(random) else {
            return Ok(());
        };
        // These may set the pair, or how fast it goes on.
        if let SetCpuid { .. }
        | SetMsr { .. }
        | SetTscKhz { .. }
        | SetMpState { .. }
        | KvmclockCtrl = self
        {
            vcpu.known = None;
        }
        let fd = vcpu.vcpu.fd();
        match self {
            SetCpuid { pair } => {
                if fd.set_cpuid2(&set_of_features(guest.kvm(), pair)?).is_ok() {
                    vcpu.pair = pair && !raw && (vcpu.pair || module::is_loaded());
                }
            }
            SetMsr { msr, value } => {
                let set = vcpu.vcpu.set_msr(msr, value).is_ok();
                ensure!(
                    set == vcpu.pair || value == 0,
                    "MSR {msr:#x} could be set: {set}"
                );
            }
            SetTscKhz { percent } => {
                let _ = fd.set_tsc_khz((host_khz * percent / 100) as u32);
            }
            SetMpState { state } => {
                let _ = fd.set_mp_state(kvm_mp_state { mp_state: state });
            }
            KvmclockCtrl => {
                let _ = fd.kvmclock_ctrl();
            }
            Interrupt { irq } => {
                let _ = match irq {
                    0..16 => guest.vm().set_irq_line(irq, random.bool()),
                    _ => fd.nmi(),
                };
            }
            Nested { flipped } => ask::nested(fd, flipped),
            _ => unreachable!("carried out by others"),
        }
        Ok(())
    }
}

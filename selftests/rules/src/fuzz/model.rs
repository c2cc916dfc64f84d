// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! All VMs, and what must be true of them.

use std::fmt;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use harness::guest::{Guest, Vcpu, cpuid};
use harness::oracle::{self, ALL_CPUS, RATIO_ONE, Ratio};
use harness::pair::{MSR_IA32_APERF, MSR_IA32_MPERF};
use harness::signal::Kick;
use harness::{ONE_SWITCH, Pair, cpu, module, rules};
use kvm_bindings::{CpuId, kvm_regs};
use kvm_ioctls::Kvm;

use super::program;

/// From here on, a counter may overflow.
const HIGH: u64 = 1 << 62;

/// What reading a pair takes at most, in ticks, and all roundings.
const SLACK: u64 = 1000;

pub struct FuzzVcpu {
    pub vcpu: Vcpu,
    /// Registers at the beginning of a program.
    pub start: kvm_regs,
    /// It should have a pair.
    pub pair: bool,
    /// What was found last, unless something may have set it since.
    pub known: Option<Known>,
}

/// A pair, and how far time was then.
#[derive(Clone, Copy)]
pub struct Known {
    pair: Pair,
    tsc: u64,
    /// APERF of all CPUs together.
    aperf: u64,
    /// The vCPU has run since.
    pub ran: bool,
}

impl Known {
    fn now(pair: Pair) -> Self {
        Known {
            pair,
            tsc: cpu::tsc(),
            aperf: aperf_of_all(),
            ran: false,
        }
    }

    /// What the pair can have advanced by since: APERF by no more than the CPUs', and not
    /// without KVM_RUN; MPERF by no more than a TSC of `khz`.
    fn most(&self, khz: u64, host_khz: u64) -> Pair {
        let elapsed = u128::from(cpu::tsc() - self.tsc);
        let mperf = (elapsed * u128::from(khz) / u128::from(host_khz)) as u64;
        Pair {
            aperf: if self.ran {
                aperf_of_all() - self.aperf + SLACK
            } else {
                0
            },
            mperf: mperf + SLACK,
        }
    }
}

/// What the CPUs really did.
fn aperf_of_all() -> u64 {
    (0..cpu::online() as u64)
        .map(|cpu| oracle::truth(cpu).host.aperf)
        .fold(0, u64::wrapping_add)
}

pub struct FuzzVm {
    // Declared before `guest`, so that they go first.
    pub vcpus: Vec<FuzzVcpu>,
    /// vCPUs that nobody holds a descriptor of live as long as their VM.
    abandoned_pairs: u64,
    created: u8,
    /// Its guests read the MSRs directly.
    pub raw: bool,
    pub guest: Guest,
}

#[derive(Default)]
struct Created {
    vms: u64,
    vcpus: u64,
    runs: u64,
}

pub struct World {
    pub vms: Vec<FuzzVm>,
    pub kick: Kick,
    pub host_khz: u64,
    /// APERF ticks for each tick of the TSC, as a [`RATIO_ONE`]th.
    now: u64,
    /// The sum of all changes of that.
    changed: u64,
    /// How far each counter of a host pair was off.
    off: Pair,
    /// How often a guest's pair was compared over KVM_RUN.
    compared: u64,
    _ratio: Ratio,
    created: Created,
}

impl FuzzVcpu {
    /// KVM_GET_MSRS finds a pair or not, as it should, and one that went on. Returns
    /// whether it was compared with one from before a KVM_RUN.
    pub fn expect_pair(&mut self, host_khz: u64) -> Result<bool> {
        let found = self
            .vcpu
            .msr(MSR_IA32_APERF)?
            .is_some_and(|value| self.pair || value != 0)
            && self.vcpu.msr(MSR_IA32_MPERF)?.is_some();
        ensure!(
            found == self.pair,
            "a vCPU has a pair: {found}, but should: {}",
            self.pair
        );
        if !self.pair {
            return Ok(false);
        }

        let now = Known::now(Pair::default());
        let pair = self.vcpu.pair()?;
        let known = self
            .known
            .replace(Known { pair, ..now })
            .filter(|known| known.pair.aperf | known.pair.mperf < HIGH);
        let Some(known) = known else {
            return Ok(false);
        };
        let khz = u64::from(self.vcpu.fd().get_tsc_khz()?);
        let most = known.most(khz, host_khz);
        let advance = pair - known.pair;
        ensure!(
            advance.aperf <= most.aperf && advance.mperf <= most.mperf,
            "{} became {pair}, at {khz} kHz: {advance}, but {most} at most",
            known.pair
        );
        Ok(known.ran)
    }
}

impl FuzzVm {
    /// The vCPUs whose pair the module must have.
    fn pairs(&self) -> u64 {
        self.abandoned_pairs + self.vcpus.iter().filter(|vcpu| vcpu.pair).count() as u64
    }

    /// Creates a vCPU, with a pair or without.
    pub fn add_vcpu(&mut self, pair: bool) -> Result<()> {
        let cpuid = set_of_features(self.guest.kvm(), pair)?;
        let vcpu = self.guest.vcpu_with(self.created, &cpuid)?;
        self.created += 1;
        self.vcpus.push(FuzzVcpu {
            start: vcpu.regs()?,
            vcpu,
            pair: pair && !self.raw && module::is_loaded(),
            known: None,
        });
        Ok(())
    }

    /// Guests have stacks for so many vCPUs only.
    pub fn has_room(&self) -> bool {
        self.created < 16
    }

    /// Closes the descriptor of a vCPU.
    pub fn abandon(&mut self, vcpu: usize) {
        self.abandoned_pairs += u64::from(self.vcpus.swap_remove(vcpu).pair);
    }
}

/// What KVM supports, with the pair or without.
pub fn set_of_features(kvm: &Kvm, pair: bool) -> Result<CpuId> {
    if pair {
        cpuid::with_pair(kvm)
    } else {
        cpuid::without_pair(kvm)
    }
}

impl World {
    pub fn new() -> Result<Self> {
        let guest = Guest::new(program::all())?;
        let host_khz = guest
            .vcpu(0)?
            .fd()
            .get_tsc_khz()
            .context("KVM_GET_TSC_KHZ")?;
        Ok(World {
            vms: Vec::new(),
            kick: Kick::new()?,
            host_khz: host_khz.into(),
            now: RATIO_ONE,
            changed: 0,
            off: Pair::default(),
            compared: 0,
            _ratio: Ratio::set(ALL_CPUS, RATIO_ONE),
            created: Created::default(),
        })
    }

    pub fn add_vm(&mut self, irqchip: bool) -> Result<&mut FuzzVm> {
        let code = program::all();
        self.vms.push(FuzzVm {
            vcpus: Vec::new(),
            abandoned_pairs: 0,
            created: 0,
            raw: false,
            guest: if irqchip {
                Guest::with_irqchip(code)?
            } else {
                Guest::new(code)?
            },
        });
        self.created.vms += 1;
        Ok(self.vms.last_mut().expect("just pushed"))
    }

    /// A vCPU, and what its VM is; none if there is none.
    pub fn any_vcpu(&mut self, random: &mut Rng) -> Option<(&mut FuzzVcpu, &Guest, bool)> {
        let vm = random.choice(self.vms.iter_mut())?;
        let vcpu = random.choice(vm.vcpus.iter_mut())?;
        Some((vcpu, &vm.guest, vm.raw))
    }

    pub fn count_vcpu(&mut self) {
        self.created.vcpus += 1;
    }

    /// A run, and whether the pair was compared over it.
    pub fn count_run(&mut self, compared: bool) {
        self.created.runs += 1;
        self.compared += u64::from(compared);
    }

    /// The CPUs change their frequency.
    pub fn set_ratio(&mut self, ratio: u64) {
        oracle::set_ratio(ALL_CPUS, ratio);
        self.changed += self.now.abs_diff(ratio);
        self.now = ratio;
        rules::host_pair_may_be_off(self.host_errors().aperf);
    }

    /// How far a host pair may be off: what one switch leaves. And APERF's ticks in a switch
    /// follow from the frequency that the module knows, so each change goes into the few
    /// switches that come before it is known. Together they take less than [`ONE_SWITCH`].
    fn host_errors(&self) -> Pair {
        Pair {
            aperf: ONE_SWITCH + self.changed * ONE_SWITCH / RATIO_ONE,
            mperf: ONE_SWITCH,
        }
    }

    /// Rule host-continuity: the host pair of a CPU is `off` by no more than it may be.
    pub fn expect_host(&mut self, off: Pair) -> Result<()> {
        let most = self.host_errors();
        ensure!(
            off.aperf <= most.aperf && off.mperf <= most.mperf,
            "the host pair is off by {off}, but {most} are allowed"
        );
        self.off.aperf = self.off.aperf.max(off.aperf);
        self.off.mperf = self.off.mperf.max(off.mperf);
        Ok(())
    }

    pub fn clear(&mut self) {
        self.vms.clear();
    }

    /// Rule clean-exit: each vCPU with a pair pins the module, and nothing else does.
    pub fn expect_users(&self) -> Result<()> {
        let users = if module::is_loaded() {
            module::users()?
        } else {
            0
        };
        let pairs: u64 = self.vms.iter().map(FuzzVm::pairs).sum();
        ensure!(
            users == pairs,
            "{pairs} vCPUs have a pair, but the module has {users} users"
        );
        Ok(())
    }

    pub fn expect_pairs(&mut self) -> Result<()> {
        for vcpu in self.vms.iter_mut().flat_map(|vm| &mut vm.vcpus) {
            self.compared += u64::from(vcpu.expect_pair(self.host_khz)?);
        }
        Ok(())
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Created { vms, vcpus, runs } = self.created;
        write!(
            f,
            "{vms} VMs, {vcpus} vCPUs, {runs} runs, {} pairs compared over them; the host \
             pairs were off by {}",
            self.compared, self.off
        )
    }
}

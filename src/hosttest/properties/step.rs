// SPDX-License-Identifier: GPL-2.0

//! What may happen to a machine.

use proptest::prelude::*;

use super::{
    super::hardware::Counter,
    machine::Nmi, //
};

pub(super) const CPUS: usize = 3;
pub(super) const VCPUS: usize = 4;

/// TSC ratios: multiplier and fraction bits, as VMX has them, as SVM does, and as KVM computes
/// them to catch up.
const RATIOS: [(u64, u8); 6] = [
    (1 << 48, 48),
    (1 << 48, 48),
    (3 << 31, 32),
    (1 << 31, 32),
    (0x1_2345_6789_abcd, 48),
    (1 << 32, 32),
];

/// One thing that happens. Whatever is not possible at its time does nothing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Time passes in C0.
    Run { ticks: u64 },
    /// Time passes, on this CPU in an idle state unless a guest runs there.
    Idle { cpu: usize, ticks: u64 },
    /// KVM_RUN, or sched-in; whoever ran there is scheduled out.
    Load { vcpu: usize, cpu: usize },
    /// Return to userspace, or sched-out.
    Put { vcpu: usize },
    /// HLT or INIT, or what ends them. Maybe told twice.
    C0 { vcpu: usize, cpu: usize, c0: bool },
    /// WRMSR, or KVM_SET_MSRS.
    Write {
        vcpu: usize,
        cpu: usize,
        counter: Counter,
        value: u64,
    },
    /// RDMSR that exits, or KVM_GET_MSRS.
    Read { vcpu: usize, cpu: usize },
    /// KVM_SET_TSC_KHZ, KVM_X86_SET_MSR_FILTER.
    Configure {
        vcpu: usize,
        cpu: usize,
        ratio: (u64, u8),
        intercept: bool,
    },
    /// KVM_KVMCLOCK_CTRL.
    Pause { vcpu: usize, cpu: usize },
    /// Return to user space, a VM that reads raw values.
    Restore { cpu: usize },
    /// The CPU goes offline, and comes back.
    Offline { cpu: usize },
    /// The host suspends, which resets the counters of this CPU.
    Suspend { cpu: usize },
    /// /dev/cpu/N/msr.
    HostWrite {
        cpu: usize,
        counter: Counter,
        value: u64,
    },
    /// The CPU changes to so many APERF ticks per 1024 of MPERF.
    Frequency { cpu: usize, ratio: u64 },
    /// An SMI on this CPU, after so many accesses to its counters from now.
    Smi {
        cpu: usize,
        accesses: u64,
        ticks: u64,
    },
    /// An NMI in the next step.
    Nmi(Nmi),
}

fn counter() -> impl Strategy<Value = Counter> {
    prop_oneof![Just(Counter::Aperf), Just(Counter::Mperf)]
}

fn ticks() -> impl Strategy<Value = u64> {
    prop_oneof![0..200u64, 0..20_000u64, 0..5_000_000u64, 0..1u64 << 40]
}

/// Low, about where passing through ends, and about to overflow.
fn guest_value() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        0..1u64 << 62,
        (1u64 << 62) - 50_000..(1 << 62) + 2,
        u64::MAX - 10_000_000..=u64::MAX,
    ]
}

/// Any one thing. Switches are the most frequent, as everywhere.
pub(super) fn step() -> impl Strategy<Value = Step> {
    let cpu = || 0..CPUS;
    let vcpu = || 0..VCPUS;
    let on = || (vcpu(), cpu());
    prop_oneof![
        6 => ticks().prop_map(|ticks| Step::Run { ticks }),
        2 => (cpu(), ticks()).prop_map(|(cpu, ticks)| Step::Idle { cpu, ticks }),
        8 => on().prop_map(|(vcpu, cpu)| Step::Load { vcpu, cpu }),
        5 => vcpu().prop_map(|vcpu| Step::Put { vcpu }),
        8 => (on(), proptest::bool::weighted(0.6))
            .prop_map(|((vcpu, cpu), c0)| Step::C0 { vcpu, cpu, c0 }),
        2 => (on(), counter(), guest_value()).prop_map(|((vcpu, cpu), counter, value)| {
            Step::Write { vcpu, cpu, counter, value }
        }),
        3 => on().prop_map(|(vcpu, cpu)| Step::Read { vcpu, cpu }),
        2 => (on(), proptest::sample::select(&RATIOS[..]), proptest::bool::weighted(0.2))
            .prop_map(|((vcpu, cpu), ratio, intercept)| {
                Step::Configure { vcpu, cpu, ratio, intercept }
            }),
        1 => on().prop_map(|(vcpu, cpu)| Step::Pause { vcpu, cpu }),
        3 => cpu().prop_map(|cpu| Step::Restore { cpu }),
        1 => cpu().prop_map(|cpu| Step::Offline { cpu }),
        1 => cpu().prop_map(|cpu| Step::Suspend { cpu }),
        1 => (cpu(), counter(), 0..1u64 << 62).prop_map(|(cpu, counter, value)| {
            Step::HostWrite { cpu, counter, value }
        }),
        1 => (cpu(), 64..4096u64).prop_map(|(cpu, ratio)| Step::Frequency { cpu, ratio }),
        1 => (cpu(), 0..16u64, prop_oneof![1..100u64, 1000..10_000_000u64])
            .prop_map(|(cpu, accesses, ticks)| Step::Smi { cpu, accesses, ticks }),
        2 => (0..60u64, 1000..100_000u64).prop_map(|(point, ticks)| Step::Nmi(Nmi { point, ticks })),
    ]
}

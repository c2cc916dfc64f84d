// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Operations of more than one call.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use harness::guest::KVM_X86_DISABLE_EXITS_APERFMPERF;
use harness::module;
use harness::pair::{MSR_IA32_APERF, MSR_IA32_MPERF};
use kvm_bindings::{KVM_CAP_X86_DISABLE_EXITS, kvm_enable_cap, kvm_regs};
use kvm_ioctls::{
    KvmNestedStateBuffer, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd,
};

use super::model::{FuzzVm, World};
use super::program::Program;

/// `_IO(KVMIO, 0xa2)`, for a VM; kvm-ioctls has the one for a vCPU.
const KVM_SET_TSC_KHZ: u64 = 0xaea2;

/// What has to be said before there are vCPUs.
pub fn configure(vm: &mut FuzzVm, disabled_exits: u64, khz: u64) {
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_X86_DISABLE_EXITS,
        ..Default::default()
    };
    cap.args[0] = disabled_exits;
    let disabled = vm.guest.vm().enable_cap(&cap).is_ok();
    vm.raw = disabled && disabled_exits & KVM_X86_DISABLE_EXITS_APERFMPERF != 0;
    // SAFETY: KVM_SET_TSC_KHZ takes a number.
    unsafe { libc::ioctl(vm.guest.vm().as_raw_fd(), KVM_SET_TSC_KHZ, khz) };
}

/// Denies accesses to the MSRs named, in any VM.
pub fn filter(world: &mut World, random: &mut Rng, denied: [bool; 2], write: bool) {
    let flags = if write {
        MsrFilterRangeFlags::WRITE
    } else {
        MsrFilterRangeFlags::READ
    };
    let ranges: Vec<_> = [MSR_IA32_APERF, MSR_IA32_MPERF]
        .into_iter()
        .zip(denied)
        .filter(|&(_, denied)| denied)
        .map(|(base, _)| MsrFilterRange {
            flags,
            base,
            msr_count: 1,
            bitmap: &[0],
        })
        .collect();
    if let Some(vm) = random.choice(&world.vms) {
        let _ = vm
            .guest
            .vm()
            .set_msr_filter(MsrFilterDefaultAction::ALLOW, &ranges);
    }
}

/// Runs any vCPU until its guest exits, or a signal comes. Now and then user space looks
/// at its pair before, or after.
pub fn run(
    world: &mut World,
    random: &mut Rng,
    program: Program,
    value: u64,
    microseconds: u64,
) -> Result<()> {
    let (host_khz, before, after) = (world.host_khz, random.bool(), random.bool());
    let mut compared = false;
    world.kick.repeatedly_after(microseconds);
    if let Some((vcpu, _, _)) = world.any_vcpu(random) {
        if before {
            vcpu.expect_pair(host_khz)?;
        }
        vcpu.known = vcpu.known.take().filter(|_| !program.writes());
        if let Some(known) = &mut vcpu.known {
            known.ran = true;
        }
        let start = kvm_regs {
            rdi: program as u64,
            rsi: value,
            ..vcpu.start
        };
        // A vCPU that runs nested, or died, may keep its registers.
        let _ = vcpu.vcpu.fd().set_regs(&start);
        let _ = vcpu.vcpu.fd_mut().run();
        if after {
            compared = vcpu.expect_pair(host_khz)?;
        }
        world.count_run(compared);
    }
    world.kick.stop();
    Ok(())
}

/// Unloads the module if nobody uses it, and loads it again.
pub fn reload(world: &World) -> Result<()> {
    let busy = module::users()? != 0;
    ensure!(
        module::remove().is_err() == busy,
        "the module does not stay because of its users, but whatever they are"
    );
    if !busy {
        world.expect_users()?;
        module::insert().context("load the module")?;
    }
    Ok(())
}

/// Saves and restores the nested state, with one of its flags `flipped`.
pub fn nested(vcpu: &VcpuFd, flipped: Option<u32>) {
    let mut state = KvmNestedStateBuffer::empty();
    if let Ok(Some(_)) = vcpu.nested_state(&mut state) {
        state.flags ^= flipped.map_or(0, |bit| 1 << bit);
        let _ = vcpu.set_nested_state(&state);
    }
}

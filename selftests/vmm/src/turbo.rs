// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The MSRs that a Linux guest with a CPU of Intel wants before it trusts APERF and
//! MPERF for its scheduler, see intel_set_max_freq_ratio(): KVM leaves the base
//! frequency at zero and does not know the turbo frequencies. Here both are the same.

use anyhow::{Context, Result, ensure};
use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_UNKNOWN, Msrs, kvm_enable_cap, kvm_msr_entry,
};
use kvm_ioctls::{ReadMsrExit, VcpuFd, VmFd};

const MSR_PLATFORM_INFO: u32 = 0xce;
const MSR_TURBO_RATIO_LIMIT: u32 = 0x1ad;

/// Frequencies are in multiples of it.
const BUS_KHZ: u32 = 100_000;

/// What the guest finds in [`MSR_TURBO_RATIO_LIMIT`].
pub struct Turbo {
    limit: u64,
}

impl Turbo {
    /// From now on accesses to MSRs that KVM does not know come to user space.
    pub fn offer(vm: &VmFd, vcpu: &VcpuFd) -> Result<Self> {
        let mut cap = kvm_enable_cap {
            cap: KVM_CAP_X86_USER_SPACE_MSR,
            ..Default::default()
        };
        cap.args[0] = u64::from(KVM_MSR_EXIT_REASON_UNKNOWN);
        vm.enable_cap(&cap).context("KVM_CAP_X86_USER_SPACE_MSR")?;

        let khz = vcpu.get_tsc_khz().context("KVM_GET_TSC_KHZ")?;
        let ratio = u64::from(khz / BUS_KHZ);
        let platform_info = kvm_msr_entry {
            index: MSR_PLATFORM_INFO,
            data: ratio << 8,
            ..Default::default()
        };
        let set = vcpu.set_msrs(&Msrs::from_entries(&[platform_info])?)?;
        ensure!(set == 1, "KVM_SET_MSRS: MSR_PLATFORM_INFO");
        Ok(Turbo {
            limit: u64::from_ne_bytes([ratio as u8; 8]),
        })
    }

    /// The guest's RDMSR of an MSR that KVM does not know.
    pub fn read(&self, access: ReadMsrExit) {
        match access.index {
            MSR_TURBO_RATIO_LIMIT => *access.data = self.limit,
            _ => *access.error = 1,
        }
    }
}

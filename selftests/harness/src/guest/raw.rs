// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! VMs whose guests read the host pair, because their VMM wants that.

use anyhow::{Context, Result, bail};
use kvm_bindings::{KVM_CAP_X86_DISABLE_EXITS, kvm_enable_cap};

use super::Guest;
use crate::ktap::Skip;
use crate::rules;

/// Since Linux 6.17; not yet in kvm-bindings.
pub const KVM_X86_DISABLE_EXITS_APERFMPERF: u64 = 1 << 4;

impl Guest {
    /// Has vCPUs to come read the host pair.
    pub fn disable_exits_on_pair(&self) -> Result<()> {
        let capability = KVM_CAP_X86_DISABLE_EXITS;
        let supported = self.kvm.check_extension_raw(capability.into()) as u64;
        if supported & KVM_X86_DISABLE_EXITS_APERFMPERF == 0 {
            bail!(Skip("KVM cannot disable exits on the pair".into()));
        }
        rules::guests_may_read_host_pair();
        let mut cap = kvm_enable_cap {
            cap: capability,
            ..Default::default()
        };
        cap.args[0] = KVM_X86_DISABLE_EXITS_APERFMPERF;
        self.vm
            .enable_cap(&cap)
            .context("KVM_CAP_X86_DISABLE_EXITS")
    }
}

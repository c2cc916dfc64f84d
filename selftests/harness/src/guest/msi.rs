// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Messages to the local APIC with ID 0 (SDM, "Message Signalled Interrupts").

use anyhow::{Context, Result, ensure};
use kvm_bindings::kvm_msi;

use super::Guest;

/// Where they go.
pub const MSI_ADDRESS: u32 = 0xfee0_0000;

/// What they say to cause an NMI.
pub const MSI_NMI: u32 = 4 << 8;

impl Guest {
    /// Sends a message: KVM_SIGNAL_MSI.
    pub fn signal_msi(&self, data: u32) -> Result<()> {
        let msi = kvm_msi {
            address_lo: MSI_ADDRESS,
            data,
            ..Default::default()
        };
        let delivered = self.vm.signal_msi(msi).context("KVM_SIGNAL_MSI")?;
        ensure!(delivered > 0, "KVM_SIGNAL_MSI was blocked");
        Ok(())
    }
}

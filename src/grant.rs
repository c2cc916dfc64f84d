// SPDX-License-Identifier: GPL-2.0

//! The device by which an administrator grants counters to a VM whose VMM does not ask for them.

use aperfmperf_hal::Grant;
use kernel::{
    fs::File,
    miscdevice::{
        MiscDevice,
        MiscDeviceRegistration, //
    },
    prelude::*, //
};

/// An open file of the device: the VMs of each process that has it get a pair. It can do nothing
/// else.
pub(crate) struct Granted;

#[vtable]
impl MiscDevice for Granted {
    type Ptr = KBox<Self>;

    fn open(_file: &File, _device: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        Ok(KBox::new(Self, GFP_KERNEL)?)
    }
}

/// Makes the device. Its open files pin the module.
///
/// # Errors
///
/// Those of [`Grant::register`].
pub(crate) fn offer() -> Result<Grant<Granted>> {
    Grant::register(c"kvm_aperfmperf")
}

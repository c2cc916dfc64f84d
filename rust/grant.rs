// SPDX-License-Identifier: GPL-2.0

//! The administrator's grant to one process: an open file.
//!
//! C headers: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h),
//! [`include/linux/fdtable.h`](srctree/include/linux/fdtable.h)

use core::{
    ptr::null_mut,
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    }, //
};

use kernel::{
    ffi::{
        c_int,
        c_uint,
        c_void, //
    },
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*,
    str::CStr, //
};

use crate::bindings;

/// File operations of the registered device. They tell its files from others; nobody calls them
/// through this pointer.
static OPERATIONS: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// A device whose open files are grants. A file stays open over fork(2) and execve(2), can be
/// passed on, and ends with the last process that has it; so a grant needs no name for a VM,
/// and cannot be mistaken for that of another.
#[must_use = "the device is removed when this is dropped"]
pub struct Grant<D: MiscDevice> {
    _device: Pin<KBox<MiscDeviceRegistration<D>>>,
}

impl<D: MiscDevice> Grant<D> {
    /// Makes the device `/dev/name`, which root alone may open. There must be one at most.
    ///
    /// # Errors
    ///
    /// Those of misc_register(), or `ENOMEM`.
    pub fn register(name: &'static CStr) -> Result<Self> {
        let device = KBox::pin_init(
            MiscDeviceRegistration::<D>::register(MiscDeviceOptions { name }),
            GFP_KERNEL,
        )?;
        // SAFETY: `fops` does not change while the device is registered.
        let operations = unsafe { (*device.as_raw()).fops };
        OPERATIONS.store(operations.cast_mut().cast(), Ordering::Relaxed);
        Ok(Self { _device: device })
    }
}

impl<D: MiscDevice> Drop for Grant<D> {
    fn drop(&mut self) {
        OPERATIONS.store(null_mut(), Ordering::Relaxed);
    }
}

/// Whether the current process has the device open. Process context.
pub(crate) fn granted() -> bool {
    let operations = OPERATIONS.load(Ordering::Relaxed);
    // SAFETY: The current task has a table of files, or none, which iterate_fd() knows; and it
    // calls `is_grant` with what it is given.
    unsafe {
        let files = (*bindings::get_current()).files;
        bindings::iterate_fd(files, 0, Some(is_grant), operations) != 0
    }
}

/// # Safety
///
/// Called by iterate_fd() only, which holds `file`.
unsafe extern "C" fn is_grant(
    operations: *const c_void,
    file: *mut bindings::file,
    _fd: c_uint,
) -> c_int {
    // SAFETY: By the contract of this function. An open file's operations do not change.
    let opened = unsafe { (*file).f_op };
    c_int::from(opened.cast() == operations)
}

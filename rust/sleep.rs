// SPDX-License-Identifier: GPL-2.0

//! Notice of suspend and hibernation, while tasks run.
//!
//! C header: [`include/linux/suspend.h`](srctree/include/linux/suspend.h)

use core::marker::PhantomData;

use kernel::{
    error::to_result,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    prelude::*,
    types::Opaque, //
};

use crate::{
    backend::Backend,
    bindings, //
};

/// Has [`Backend::sleep_begins`] and [`Backend::sleep_ends`] called.
///
/// # Invariants
///
/// `notifier` is in the kernel's chain, with this backend's callback, and stays where it is.
#[must_use = "the callback is removed when this is dropped"]
pub struct SleepNotifier<B: Backend> {
    notifier: KBox<Opaque<bindings::notifier_block>>,
    _backend: PhantomData<fn() -> B>,
}

// SAFETY: Only the kernel accesses the block, under its lock, and any task may remove it.
unsafe impl<B: Backend> Send for SleepNotifier<B> {}

// SAFETY: As for `Send`; a shared reference gives access to nothing.
unsafe impl<B: Backend> Sync for SleepNotifier<B> {}

impl<B: Backend> SleepNotifier<B> {
    /// Installs the callback. Process context, may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn register() -> Result<Self> {
        let notifier = KBox::new(
            Opaque::new(bindings::notifier_block {
                notifier_call: Some(notify::<B>),
                ..Default::default()
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The block lives on the heap until it is removed in `drop`.
        to_result(unsafe { bindings::kvm_aperfmperf_register_pm_notifier(notifier.get()) })?;
        // INVARIANT: Just registered.
        Ok(Self {
            notifier,
            _backend: PhantomData,
        })
    }
}

impl<B: Backend> Drop for SleepNotifier<B> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the block is in the chain.
        unsafe { bindings::kvm_aperfmperf_unregister_pm_notifier(self.notifier.get()) };
    }
}

/// # Safety
///
/// Called through the kernel's chain only, with its lock held.
unsafe extern "C" fn notify<B: Backend>(
    _notifier: *mut bindings::notifier_block,
    event: c_ulong,
    _data: *mut c_void,
) -> c_int {
    match event as u32 {
        bindings::PM_SUSPEND_PREPARE
        | bindings::PM_HIBERNATION_PREPARE
        | bindings::PM_RESTORE_PREPARE => B::sleep_begins(),
        bindings::PM_POST_SUSPEND | bindings::PM_POST_HIBERNATION | bindings::PM_POST_RESTORE => {
            B::sleep_ends()
        }
        _ => (),
    }
    bindings::NOTIFY_DONE as c_int
}

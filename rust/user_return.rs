// SPDX-License-Identifier: GPL-2.0

//! Notice of this CPU's return to user space.
//!
//! C header: [`include/linux/user-return-notifier.h`](srctree/include/linux/user-return-notifier.h)

use core::sync::atomic::{
    AtomicBool,
    Ordering::Relaxed, //
};

use kernel::types::Opaque;

use crate::{
    backend::{
        on_this_cpu,
        Backend, //
    },
    bindings,
    irq::IrqsOff, //
};

/// The user-return notifier of one CPU.
///
/// # Invariants
///
/// - Only the CPU that the object belongs to accesses `notifier`, with IRQs disabled and not from
///   an NMI.
/// - If `armed`, `notifier` is in that CPU's list of the kernel, otherwise it is in none.
pub(crate) struct UserReturn {
    notifier: Opaque<bindings::user_return_notifier>,
    armed: AtomicBool,
}

// SAFETY: By the type invariants there is no access from another CPU, and none that another one
// on the same CPU could interrupt.
unsafe impl Sync for UserReturn {}

impl UserReturn {
    pub(crate) const fn new() -> Self {
        // INVARIANT: In no list.
        Self {
            notifier: Opaque::uninit(),
            armed: AtomicBool::new(false),
        }
    }

    /// Has [`Backend::host_restore`] called before this CPU next returns to user space.
    ///
    /// # Safety
    ///
    /// `self` must belong to this CPU, and the caller must not be an NMI handler.
    pub(crate) unsafe fn arm<B: Backend>(&self, _irqs_off: &IrqsOff) {
        if self.armed.load(Relaxed) {
            return;
        }
        // SAFETY: By the type invariant the notifier is in no list and nobody else accesses it.
        // It stays where it is until the module is gone, and is disarmed before that.
        // INVARIANT: It is now in this CPU's list.
        unsafe {
            self.notifier.get().write(bindings::user_return_notifier {
                on_user_return: Some(on_user_return::<B>),
                ..Default::default()
            });
            bindings::user_return_notifier_register(self.notifier.get());
        }
        self.armed.store(true, Relaxed);
    }

    /// Undoes [`UserReturn::arm`].
    ///
    /// # Safety
    ///
    /// As for [`UserReturn::arm`].
    pub(crate) unsafe fn disarm(&self, _irqs_off: &IrqsOff) {
        if !self.armed.load(Relaxed) {
            return;
        }
        // SAFETY: By the type invariant the notifier is in this CPU's list.
        // INVARIANT: It is now in none.
        unsafe { bindings::user_return_notifier_unregister(self.notifier.get()) };
        self.armed.store(false, Relaxed);
    }
}

/// # Safety
///
/// Called by fire_user_return_notifiers() only, which allows the notifier to remove itself.
unsafe extern "C" fn on_user_return<B: Backend>(_: *mut bindings::user_return_notifier) {
    // SAFETY: The notifier was armed by a backend in use; this is no NMI.
    unsafe { on_this_cpu::<B, _>(|here| here.restore()) };
}

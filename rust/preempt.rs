// SPDX-License-Identifier: GPL-2.0

//! Notice of a vCPU's task leaving a CPU and coming back to one.
//!
//! C header: [`include/linux/preempt.h`](srctree/include/linux/preempt.h)

use kernel::types::Opaque;

use crate::{
    backend::Backend,
    bindings,
    irq::IrqsOff,
    vcpu::Object, //
};

/// The preempt notifier of one vCPU.
///
/// It is registered for the time of a KVM_RUN, as KVM's own: outlasting it, the last schedule()
/// of a vCPU's task that dies would call into freed memory.
#[repr(transparent)]
pub(crate) struct Preempt(Opaque<bindings::preempt_notifier>);

impl Preempt {
    pub(crate) const fn new() -> Self {
        Self(Opaque::uninit())
    }

    /// Registers the notifier with the current task.
    ///
    /// # Safety
    ///
    /// `this` must be part of an [`Object<B>`] and not registered. KVM holds a
    /// preempt_notifier_inc() while there are VMs, so there must be one.
    pub(crate) unsafe fn register<B: Backend>(this: *const Self, _irqs_off: &IrqsOff) {
        let notifier: *mut bindings::preempt_notifier = Opaque::cast_into(this.cast());
        // SAFETY: By the contract of this function nobody else accesses the notifier. With IRQs
        // disabled the task's list is not walked while it changes.
        unsafe {
            notifier.write(bindings::preempt_notifier {
                ops: (&raw const *Callbacks::<B>::OPS).cast_mut(),
                ..Default::default()
            });
            bindings::preempt_notifier_register(notifier);
        }
    }

    /// Undoes [`Preempt::register`].
    ///
    /// # Safety
    ///
    /// `this` must be registered with the current task, and no callback of its task be running.
    pub(crate) unsafe fn unregister(this: *const Self, _irqs_off: &IrqsOff) {
        // SAFETY: By the contract of this function.
        unsafe { bindings::preempt_notifier_unregister(Opaque::cast_into(this.cast())) };
    }
}

struct Callbacks<B>(core::marker::PhantomData<B>);

impl<B: Backend> Callbacks<B> {
    const OPS: &'static bindings::preempt_ops = &bindings::preempt_ops {
        sched_in: Some(Self::sched_in),
        sched_out: Some(Self::sched_out),
    };

    /// # Safety
    ///
    /// Called by the scheduler only, for a registered notifier.
    unsafe extern "C" fn sched_in(
        notifier: *mut bindings::preempt_notifier,
        _cpu: kernel::ffi::c_int,
    ) {
        // SAFETY: By the contract of `register` the notifier is in an object. Its task is the
        // current one, so no operation on the vCPU is under way.
        unsafe {
            let object = Object::<B>::from_preempt(notifier.cast());
            Object::with(object, |here, vcpu| B::load(here, vcpu));
        }
    }

    /// # Safety
    ///
    /// As for `sched_in`.
    unsafe extern "C" fn sched_out(
        notifier: *mut bindings::preempt_notifier,
        _next: *mut bindings::task_struct,
    ) {
        // SAFETY: As for `sched_in`.
        unsafe {
            let object = Object::<B>::from_preempt(notifier.cast());
            Object::with(object, |here, vcpu| B::put(here, vcpu));
        }
    }
}

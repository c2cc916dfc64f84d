// SPDX-License-Identifier: GPL-2.0

//! The object behind `struct aperfmperf_vcpu`, and the operations that KVM calls on it.

use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    mem::offset_of,
    ptr::null_mut, //
};

use kernel::prelude::*;

use crate::{
    backend::{
        on_this_cpu,
        Backend,
        ThisCpu, //
    },
    bindings,
    counters::Msr,
    debugfs::Directory,
    preempt::Preempt, //
};

/// One vCPU.
///
/// # Invariants
///
/// - `head` comes first: its address is that of the object.
/// - `state` is accessed with IRQs disabled, by the task that holds the vCPU's mutex only: in one
///   of KVM's operations, or in a preempt notifier of that very task. So there is never more than
///   one access at a time.
/// - `preempt` is registered from `load` to `put`.
#[repr(C)]
pub(crate) struct Object<B: Backend> {
    head: bindings::aperfmperf_vcpu,
    preempt: Preempt,
    state: UnsafeCell<B::Vcpu>,
}

impl<B: Backend> Object<B> {
    /// The object of which `preempt` is a part.
    ///
    /// # Safety
    ///
    /// `preempt` must be part of such an object.
    pub(crate) unsafe fn from_preempt(preempt: *mut Preempt) -> *mut Self {
        // SAFETY: By the contract of this function.
        unsafe { preempt.byte_sub(offset_of!(Self, preempt)).cast() }
    }

    /// Calls `work` with this CPU and the state of the vCPU.
    ///
    /// # Safety
    ///
    /// `object` must be valid, and the caller one of those that the type invariant allows.
    pub(crate) unsafe fn with<R>(
        object: *mut Self,
        work: impl FnOnce(&ThisCpu<'_, B>, &mut B::Vcpu) -> R,
    ) -> R {
        // SAFETY: The module registers only after probing the counters, and neither KVM nor the
        // scheduler calls in an NMI. By the contract of this function there is no other access to
        // the state, and there will be none until IRQs are enabled, which outlasts the reference.
        unsafe {
            on_this_cpu(|here| work(here, &mut *UnsafeCell::raw_get(&raw const (*object).state)))
        }
    }
}

/// `struct aperfmperf_vcpu_ops` of a backend.
///
/// Safety of each function: called by KVM only, as `asm/aperfmperf.h` specifies, for an object
/// that [`create`] made, by the task that holds the vCPU's mutex.
pub(crate) struct Ops<B>(PhantomData<B>);

type Raw = *mut bindings::aperfmperf_vcpu;

/// Allocates a vCPU. Process context. Null if out of memory.
///
/// # Safety
///
/// On behalf of KVM only. The object is to be given back to `destroy`.
pub(crate) unsafe fn create<B: Backend>(directory: &Directory) -> Raw {
    let object = B::vcpu_create(directory).and_then(|state| {
        let object = Object::<B> {
            head: bindings::aperfmperf_vcpu {
                ops: Ops::<B>::TABLE,
            },
            preempt: Preempt::new(),
            state: UnsafeCell::new(state),
        };
        Ok(KBox::new(object, GFP_KERNEL)?)
    });
    object.map_or(null_mut(), |object| KBox::into_raw(object).cast())
}

impl<B: Backend> Ops<B> {
    const TABLE: &'static bindings::aperfmperf_vcpu_ops = &bindings::aperfmperf_vcpu_ops {
        destroy: Some(Self::destroy),
        load: Some(Self::load),
        put: Some(Self::put),
        set_c0: Some(Self::set_c0),
        read: Some(Self::read),
        write: Some(Self::write),
        configure: Some(Self::configure),
        forget_pause: Some(Self::forget_pause),
        passthrough: Some(Self::passthrough),
    };

    /// # Safety
    ///
    /// As for [`Ops`].
    unsafe extern "C" fn destroy(v: Raw) {
        // SAFETY: `create` made it with `KBox::into_raw`, and KVM does not use it again.
        drop(unsafe { KBox::<Object<B>>::from_raw(v.cast()) });
    }

    /// # Safety
    ///
    /// As for [`Ops`].
    unsafe extern "C" fn load(v: Raw) {
        let object: *mut Object<B> = v.cast();
        // SAFETY: As for this function. KVM_RUN begins, so the notifier is not registered, and
        // there is a VM.
        unsafe {
            Object::with(object, |here, vcpu| {
                Preempt::register::<B>(&raw const (*object).preempt, here.irqs_off());
                B::load(here, vcpu);
            });
        }
    }

    /// # Safety
    ///
    /// As for [`Ops`].
    unsafe extern "C" fn put(v: Raw) {
        let object: *mut Object<B> = v.cast();
        // SAFETY: As for this function. KVM_RUN ends, so the notifier is registered.
        unsafe {
            Object::with(object, |here, vcpu| {
                Preempt::unregister(&raw const (*object).preempt, here.irqs_off());
                B::put(here, vcpu);
            });
        }
    }

    /// # Safety
    ///
    /// As for [`Ops`].
    unsafe extern "C" fn set_c0(v: Raw, c0: bool) {
        // SAFETY: As for this function.
        unsafe { Object::<B>::with(v.cast(), |here, vcpu| B::set_c0(here, vcpu, c0)) }
    }

    /// # Safety
    ///
    /// As for [`Ops`].
    unsafe extern "C" fn read(v: Raw, msr: u32) -> u64 {
        // SAFETY: As for this function.
        unsafe {
            Object::<B>::with(v.cast(), |here, vcpu| {
                B::read(here, vcpu, Msr::from_index(msr))
            })
        }
    }

    /// # Safety
    ///
    /// As for [`Ops`].
    unsafe extern "C" fn write(v: Raw, msr: u32, value: u64) {
        // SAFETY: As for this function.
        unsafe {
            Object::<B>::with(v.cast(), |here, vcpu| {
                B::write(here, vcpu, Msr::from_index(msr), value)
            })
        }
    }

    /// # Safety
    ///
    /// As for [`Ops`].
    unsafe extern "C" fn configure(v: Raw, multiplier: u64, fraction_bits: u8, intercept: bool) {
        // SAFETY: As for this function.
        unsafe {
            Object::<B>::with(v.cast(), |here, vcpu| {
                B::configure(here, vcpu, multiplier, fraction_bits, intercept)
            })
        }
    }

    /// # Safety
    ///
    /// As for [`Ops`].
    unsafe extern "C" fn forget_pause(v: Raw) {
        // SAFETY: As for this function.
        unsafe { Object::<B>::with(v.cast(), |here, vcpu| B::forget_pause(here, vcpu)) }
    }

    /// # Safety
    ///
    /// As for [`Ops`].
    unsafe extern "C" fn passthrough(v: Raw) -> bool {
        // SAFETY: As for this function.
        unsafe { Object::<B>::with(v.cast(), |_, vcpu| B::passthrough(vcpu)) }
    }
}

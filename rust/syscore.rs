// SPDX-License-Identifier: GPL-2.0

//! The last CPU, which no hotplug callback sees off or back: suspend, reboot and kexec run on it.
//!
//! C header: [`include/linux/syscore_ops.h`](srctree/include/linux/syscore_ops.h)

use core::{
    marker::PhantomData,
    ptr::null_mut, //
};

use kernel::{
    ffi::{
        c_int,
        c_void, //
    },
    prelude::*,
    types::Opaque, //
};

use crate::{
    backend::{
        on_this_cpu,
        Backend, //
    },
    bindings,
    counters::Counters, //
};

/// Has [`Backend::host_restore`] called on the CPU that suspends the machine, shuts it down or
/// starts another kernel, and [`Backend::resume`] when a suspend is over.
///
/// For a suspend, the other CPUs have gone offline before, and no task runs. For a shutdown, vCPUs
/// may run until KVM is told of it, which is later: [`Backend::shutdown`] has them leave nothing
/// on the CPU of the task that goes on. The other CPUs are stopped wherever they are, perhaps with
/// a guest's values. Another kernel finds those as good as any: they are far from overflow, and it
/// looks at differences only.
///
/// # Invariants
///
/// `syscore` is in the kernel's list, with this backend's callbacks, and stays where it is.
#[must_use = "the callbacks are removed when this is dropped"]
pub struct Syscore<B: Backend> {
    syscore: KBox<Opaque<bindings::syscore>>,
    _backend: PhantomData<fn() -> B>,
}

// SAFETY: Only the kernel accesses the list entry, under its lock, and any task may remove it.
unsafe impl<B: Backend> Send for Syscore<B> {}

// SAFETY: As for `Send`; a shared reference gives access to nothing.
unsafe impl<B: Backend> Sync for Syscore<B> {}

impl<B: Backend> Syscore<B> {
    const OPS: &'static bindings::syscore_ops = &bindings::syscore_ops {
        suspend: Some(suspend::<B>),
        resume: Some(resume::<B>),
        shutdown: Some(shutdown::<B>),
    };

    /// Installs the callbacks. Process context, may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn register(_counters: Counters) -> Result<Self> {
        let syscore = KBox::new(
            Opaque::new(bindings::syscore {
                ops: Self::OPS,
                data: null_mut(),
                ..Default::default()
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The entry lives on the heap until it is removed in `drop`.
        unsafe { bindings::register_syscore(syscore.get()) };
        // INVARIANT: Just registered.
        Ok(Self {
            syscore,
            _backend: PhantomData,
        })
    }
}

impl<B: Backend> Drop for Syscore<B> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the entry is in the list.
        unsafe { bindings::unregister_syscore(self.syscore.get()) };
    }
}

/// # Safety
///
/// Called by syscore_suspend() only, on the only CPU that is online, with IRQs disabled.
unsafe extern "C" fn suspend<B: Backend>(_data: *mut c_void) -> c_int {
    // SAFETY: `register` asks for the counters; this is no NMI.
    unsafe { on_this_cpu::<B, _>(|here| here.restore()) };
    0
}

/// # Safety
///
/// Called by syscore_resume() only, as [`suspend`].
unsafe extern "C" fn resume<B: Backend>(_data: *mut c_void) {
    // SAFETY: As for `suspend`.
    unsafe { on_this_cpu::<B, _>(B::resume) };
}

/// # Safety
///
/// Called by syscore_shutdown() only, in process context.
unsafe extern "C" fn shutdown<B: Backend>(_data: *mut c_void) {
    // Before the restore: a vCPU may have its last run here after it.
    B::shutdown();
    // SAFETY: As for `suspend`.
    unsafe { on_this_cpu::<B, _>(|here| here.restore()) };
}

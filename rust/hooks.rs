// SPDX-License-Identifier: GPL-2.0

//! Registration with the kernel, after which its host readers and KVM use the backend.
//!
//! C header: [`arch/x86/include/asm/aperfmperf.h`](srctree/arch/x86/include/asm/aperfmperf.h)

use core::{
    marker::PhantomData,
    ptr::null_mut,
    sync::atomic::{
        AtomicPtr,
        Ordering::Relaxed, //
    }, //
};

use kernel::{
    error::to_result,
    prelude::*, //
};

use crate::{
    backend::{
        self,
        on_this_cpu,
        Backend, //
    },
    bindings,
    counters::{
        Counters,
        Msr, //
    },
    debugfs::Directory,
    grant,
    vcpu, //
};

/// A backend that is ready to be registered: no memory is needed for that any more.
pub struct Prepared<B: Backend> {
    ops: KBox<bindings::aperfmperf_ops>,
    directory: KBox<Directory>,
    _backend: PhantomData<B>,
}

/// A registered backend.
///
/// # Invariants
///
/// The table is registered and [`DIRECTORY`] is the directory; both stay where they are until they
/// are not.
#[must_use = "the backend is unregistered when this is dropped"]
pub struct Hooks<B: Backend> {
    _registered: Prepared<B>,
}

/// Where vCPUs show themselves: the kernel tells [`vcpu_create`] nothing. Null if not registered.
static DIRECTORY: AtomicPtr<Directory> = AtomicPtr::new(null_mut());

// SAFETY: The table is never written, and registered and unregistered from any task.
unsafe impl<B: Backend> Send for Prepared<B> {}

// SAFETY: As for `Send`; a shared reference gives access to nothing.
unsafe impl<B: Backend> Sync for Prepared<B> {}

impl<B: Backend> Prepared<B> {
    /// Prepares for vCPUs each of which pins `module`, so that it outlives them, and has a file in
    /// `directory`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(
        _counters: Counters,
        module: &'static ThisModule,
        directory: &Directory,
    ) -> Result<Self> {
        let directory = KBox::new(directory.clone(), GFP_KERNEL)?;
        let ops = KBox::new(
            bindings::aperfmperf_ops {
                owner: module.as_ptr(),
                host_read: Some(host_read::<B>),
                host_write: Some(host_write::<B>),
                host_restore: Some(host_restore::<B>),
                vcpu_create: Some(vcpu_create::<B>),
                granted: Some(granted),
            },
            GFP_KERNEL,
        )?;
        Ok(Self {
            ops,
            directory,
            _backend: PhantomData,
        })
    }

    /// Registers the backend.
    ///
    /// # Errors
    ///
    /// What aperfmperf_register() says: `EBUSY` if another one is registered.
    pub fn register(mut self) -> Result<Hooks<B>> {
        DIRECTORY
            .compare_exchange(null_mut(), &raw mut *self.directory, Relaxed, Relaxed)
            .map_err(|_| EBUSY)?;
        // SAFETY: The table lives on the heap until it is unregistered when `Hooks` is dropped, and
        // its functions keep the contracts that the header states.
        to_result(unsafe { bindings::aperfmperf_register(&raw const *self.ops) })
            .inspect_err(|_| DIRECTORY.store(null_mut(), Relaxed))?;
        // INVARIANT: Just registered.
        Ok(Hooks { _registered: self })
    }
}

impl<B: Backend> Drop for Hooks<B> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the table is registered. Returns when nobody uses it.
        unsafe { bindings::aperfmperf_unregister() };
        DIRECTORY.store(null_mut(), Relaxed);
    }
}

/// # Safety
///
/// Called through the table only; so the counters have been probed.
unsafe extern "C" fn host_read<B: Backend>(msr: u32) -> u64 {
    // SAFETY: By the contract of this function.
    unsafe { backend::host_read::<B>(Msr::from_index(msr)) }
}

/// # Safety
///
/// As for [`host_read`], and not from an NMI.
unsafe extern "C" fn host_write<B: Backend>(msr: u32, value: u64) {
    // SAFETY: By the contract of this function.
    unsafe { on_this_cpu::<B, _>(|here| B::host_write(here, Msr::from_index(msr), value)) };
}

/// # Safety
///
/// As for [`host_write`].
unsafe extern "C" fn host_restore<B: Backend>() {
    // SAFETY: By the contract of this function.
    unsafe { on_this_cpu::<B, _>(|here| here.restore()) };
}

/// # Safety
///
/// Called through the table only, in process context.
unsafe extern "C" fn granted() -> bool {
    grant::granted()
}

/// # Safety
///
/// Called through the table only. The object is to be given back to its `destroy`.
unsafe extern "C" fn vcpu_create<B: Backend>() -> *mut bindings::aperfmperf_vcpu {
    // SAFETY: By the type invariant of `Hooks`, while the table is registered.
    unsafe { vcpu::create::<B>(&*DIRECTORY.load(Relaxed)) }
}

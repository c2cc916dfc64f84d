// SPDX-License-Identifier: GPL-2.0

//! CPUs coming and going, with the module or by themselves.
//!
//! C header: [`include/linux/cpuhotplug.h`](srctree/include/linux/cpuhotplug.h)

use core::marker::PhantomData;

use kernel::{
    error::{
        from_result,
        to_result, //
    },
    ffi::{
        c_int,
        c_uint, //
    },
    prelude::*, //
};

use crate::{
    backend::{
        on_this_cpu,
        Backend, //
    },
    bindings,
    counters::Counters, //
};

/// Has [`Backend::calibrate`] and then [`Backend::online`] called on each CPU, now or when it
/// comes online. Has [`Backend::offline`] called when the CPU goes offline, or when this is
/// dropped.
///
/// # Invariants
///
/// `state` is the number of an installed CPU hotplug state, with this backend's callbacks.
#[must_use = "the callbacks are removed when this is dropped"]
pub struct Hotplug<B: Backend> {
    state: bindings::cpuhp_state,
    _backend: PhantomData<fn() -> B>,
}

impl<B: Backend> Hotplug<B> {
    /// Installs the callbacks. Process context, may sleep.
    ///
    /// # Errors
    ///
    /// What [`Backend::online`] says on one CPU; the others are restored then. `ENOSPC` if the
    /// kernel has no state left.
    pub fn install(_counters: Counters) -> Result<Self> {
        // SAFETY: The functions live until the state is removed in `drop`.
        let state = unsafe {
            bindings::__cpuhp_setup_state(
                bindings::cpuhp_state_CPUHP_AP_ONLINE_DYN,
                c"x86/kvm_aperfmperf:online".as_char_ptr(),
                true,
                Some(online::<B>),
                Some(offline::<B>),
                false,
            )
        };
        // A dynamic state's number is returned, a negative error otherwise.
        to_result(state)?;
        // INVARIANT: Just installed.
        Ok(Self {
            state,
            _backend: PhantomData,
        })
    }
}

impl<B: Backend> Drop for Hotplug<B> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. Calls `offline` on each CPU, then forgets it.
        unsafe { bindings::__cpuhp_remove_state(self.state, true) };
    }
}

/// # Safety
///
/// Called by the hotplug core only, on the CPU in question, in process context.
unsafe extern "C" fn online<B: Backend>(_cpu: c_uint) -> c_int {
    from_result(|| {
        Counters::probe_this_cpu().map_err(|_| ENODEV)?;
        // SAFETY: `install` asks for the counters.
        let calibration = unsafe { on_this_cpu::<B, _>(B::calibrate) };
        B::online(calibration)?;
        Ok(0)
    })
}

/// # Safety
///
/// As for [`online`].
unsafe extern "C" fn offline<B: Backend>(_cpu: c_uint) -> c_int {
    // SAFETY: `install` asks for the counters.
    unsafe {
        on_this_cpu::<B, _>(|here| {
            here.restore();
            B::offline(here);
        });
    }
    0
}

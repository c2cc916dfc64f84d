// SPDX-License-Identifier: GPL-2.0

//! The functions that the module offers to others.
//!
//! C header: `include/kvm_aperfmperf.h`

use crate::{
    backend::{
        self,
        Backend, //
    },
    counters::{
        Counters,
        Msr, //
    },
    irq::IrqsOff, //
};

/// `struct host_aperfmperf` of the C header.
#[repr(C)]
pub struct HostPair {
    aperf: u64,
    mperf: u64,
    tsc: u64,
}

/// # Safety
///
/// The module must have been loaded, that is, [`Counters::probe`] have succeeded.
#[doc(hidden)]
pub unsafe fn read<B: Backend>(msr: Msr) -> u64 {
    // SAFETY: By the contract of this function.
    unsafe { backend::host_read::<B>(msr) }
}

/// # Safety
///
/// As for [`read`].
#[doc(hidden)]
pub unsafe fn read_pair<B: Backend>() -> HostPair {
    let _irqs_off = IrqsOff::disable();
    // SAFETY: By the contract of this function.
    unsafe {
        HostPair {
            tsc: Counters::assume_present().tsc(),
            aperf: read::<B>(Msr::Aperf),
            mperf: read::<B>(Msr::Mperf),
        }
    }
}

/// Defines the exported functions for a [`Backend`]. Once per module.
#[macro_export]
macro_rules! export_host_counters {
    ($backend:ty) => {
        const _: () = {
            // SAFETY (of each function): A module that calls it depends on this one, so that it
            // is loaded only after this one's initialisation has succeeded.

            #[no_mangle]
            extern "C" fn get_host_aperf() -> u64 {
                // SAFETY: See above.
                unsafe { $crate::exports::read::<$backend>($crate::Msr::Aperf) }
            }

            #[no_mangle]
            extern "C" fn get_host_mperf() -> u64 {
                // SAFETY: See above.
                unsafe { $crate::exports::read::<$backend>($crate::Msr::Mperf) }
            }

            #[no_mangle]
            unsafe extern "C" fn get_host_aperfmperf(host: *mut $crate::exports::HostPair) {
                // SAFETY: See above; the caller passes a valid pointer.
                unsafe { host.write($crate::exports::read_pair::<$backend>()) }
            }
        };
    };
}

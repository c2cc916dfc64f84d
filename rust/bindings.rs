// SPDX-License-Identifier: GPL-2.0

//! Raw bindings: the kernel crate's, and those generated from `bindings_helper.h`.

#![expect(improper_ctypes, unreachable_pub)]
#![allow(clippy::all, clippy::undocumented_unsafe_blocks)]

pub(crate) use kernel::bindings::*;

// A name that both have is the generated one.
pub(crate) use generated::*;

mod generated {
    use kernel::{
        bindings::*,
        ffi, //
    };
    use pin_init::MaybeZeroable;

    include!(concat!(
        env!("KVM_APERFMPERF_GENERATED"),
        "/bindings_generated.rs"
    ));
}

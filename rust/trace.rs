// SPDX-License-Identifier: GPL-2.0

//! Tracepoints, each a NOP while it is off. `trace.h` says what their fields are.
//!
//! C header: [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h)

use kernel::jump_label::static_branch_unlikely;

use crate::bindings;

/// As [`kernel::tracepoint::declare_trace`], for tracepoints that the kernel crate's bindings
/// do not have.
macro_rules! declare_traces {
    ($($(#[$doc:meta])* fn $name:ident($key:ident, $call:ident, $($arg:ident: $type:ty),*);)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name($($arg: $type),*) {
            // SAFETY: The key is that of a tracepoint that C has defined.
            if unsafe { static_branch_unlikely!(bindings::$key, bindings::tracepoint, key) } {
                // SAFETY: The function takes any values, in any context.
                unsafe { bindings::$call($($arg),*) };
            }
        }
    )*};
}

declare_traces! {
    /// The pair of `vcpu` begins to advance.
    fn load(__tracepoint_aperfmperf_load, rust_do_trace_aperfmperf_load,
        vcpu: u32, aperf: u64, mperf: u64);

    /// The pair of `vcpu` stops.
    fn put(__tracepoint_aperfmperf_put, rust_do_trace_aperfmperf_put,
        vcpu: u32, aperf: u64, mperf: u64);

    /// This CPU's MSRs hold the host pair again.
    fn restore(__tracepoint_aperfmperf_restore, rust_do_trace_aperfmperf_restore,
        aperf: u64, mperf: u64);

    /// This CPU's MSRs were written.
    fn exchange(__tracepoint_aperfmperf_exchange, rust_do_trace_aperfmperf_exchange,
        lost_aperf: u64, lost_mperf: u64, interrupted: bool);

    /// How guest reads of `vcpu` are served has changed.
    fn mode(__tracepoint_aperfmperf_mode, rust_do_trace_aperfmperf_mode,
        vcpu: u32, mode: u8);
}

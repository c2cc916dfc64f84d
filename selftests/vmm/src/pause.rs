// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A pause of the VM: someone stops this process, and continues it.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow};
use kvm_ioctls::VcpuFd;
use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::register_signal_handler;

static CONTINUED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    CONTINUED.store(true, Ordering::Relaxed);
}

/// From now on pauses are noticed.
pub fn watch() -> Result<()> {
    register_signal_handler(libc::SIGCONT, note).map_err(|error| anyhow!("SIGCONT: {error}"))
}

/// Tells KVM if there was a pause since the last call.
pub fn tell(vcpu: &VcpuFd) {
    if CONTINUED.swap(false, Ordering::Relaxed) {
        // A guest that has not come to its kvmclock yet need not know.
        let _ = vcpu.kvmclock_ctrl();
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What others tell this process by signals, noticed at the guest's next exit: that it
//! was stopped and continued, and that it shall migrate the guest.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow};
use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::register_signal_handler;

static CONTINUED: AtomicBool = AtomicBool::new(false);
static MIGRATE: AtomicBool = AtomicBool::new(false);

extern "C" fn note(signal: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let noted = match signal {
        libc::SIGCONT => &CONTINUED,
        _ => &MIGRATE,
    };
    noted.store(true, Ordering::Relaxed);
}

/// From now on signals are noticed.
pub fn watch() -> Result<()> {
    for signal in [libc::SIGCONT, libc::SIGUSR1] {
        register_signal_handler(signal, note)
            .map_err(|error| anyhow!("signal {signal}: {error}"))?;
    }
    Ok(())
}

/// Whether there was a pause since the last call.
pub fn was_continued() -> bool {
    CONTINUED.swap(false, Ordering::Relaxed)
}

/// Whether someone asked for migration since the last call.
pub fn is_to_migrate() -> bool {
    MIGRATE.swap(false, Ordering::Relaxed)
}

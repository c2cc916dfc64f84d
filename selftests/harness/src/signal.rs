// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A signal that ends KVM_RUN, as a VMM stops its vCPUs.

use std::io;
use std::mem;
use std::ptr;

const KICK: i32 = libc::SIGUSR1;

extern "C" fn do_nothing(_: i32) {}

/// Sends this process a signal in `microseconds`, once. With only one thread in
/// it, a KVM_RUN at that time fails with `EINTR`.
///
/// # Errors
///
/// Those of timer_create(2).
pub fn kick_after(microseconds: u64) -> io::Result<()> {
    let value = libc::itimerspec {
        it_interval: libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: libc::timespec {
            tv_sec: (microseconds / 1_000_000) as i64,
            tv_nsec: (microseconds % 1_000_000 * 1000) as i64,
        },
    };

    // SAFETY: All structures are valid when zeroed, the calls only access what
    // they are given, and the handler touches nothing.
    let ret = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = do_nothing as *const () as usize;
        libc::sigaction(KICK, &action, ptr::null_mut());

        let mut event: libc::sigevent = mem::zeroed();
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = KICK;
        let mut timer = ptr::null_mut();
        match libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) {
            0 => libc::timer_settime(timer, 0, &value, ptr::null_mut()),
            failed => failed,
        }
    };
    if ret == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A signal that ends KVM_RUN, as a VMM stops its vCPUs.

use std::io;
use std::mem;
use std::ptr;

const KICK: i32 = libc::SIGUSR1;

/// Microseconds between repeated signals: many times what their handling takes.
const AGAIN: u64 = 1000;

extern "C" fn do_nothing(_: i32) {}

/// A clock that sends this process signals. With only one thread in it, a KVM_RUN at
/// that time fails with `EINTR`.
pub struct Kick(libc::timer_t);

impl Kick {
    /// # Errors
    ///
    /// Those of timer_create(2).
    pub fn new() -> io::Result<Self> {
        let mut timer = ptr::null_mut();
        // SAFETY: All structures are valid when zeroed, the calls only access what
        // they are given, and the handler touches nothing.
        let ret = unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = do_nothing as *const () as usize;
            libc::sigaction(KICK, &action, ptr::null_mut());

            let mut event: libc::sigevent = mem::zeroed();
            event.sigev_notify = libc::SIGEV_SIGNAL;
            event.sigev_signo = KICK;
            libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer)
        };
        if ret == 0 {
            Ok(Kick(timer))
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Sends a signal in `microseconds`, once.
    pub fn after(&self, microseconds: u64) {
        self.set(microseconds, 0);
    }

    /// Sends a signal in `microseconds`, and others until [`Kick::stop`]: the first one
    /// may come before KVM_RUN.
    pub fn repeatedly_after(&self, microseconds: u64) {
        self.set(microseconds, AGAIN);
    }

    /// Sends no more signals.
    pub fn stop(&self) {
        self.set(0, 0);
    }

    fn set(&self, first: u64, next: u64) {
        let time = |microseconds: u64| libc::timespec {
            tv_sec: (microseconds / 1_000_000) as i64,
            tv_nsec: (microseconds % 1_000_000 * 1000) as i64,
        };
        let times = libc::itimerspec {
            it_value: time(first),
            it_interval: time(next),
        };
        // SAFETY: The timer is ours, and the call only reads `times`.
        unsafe { libc::timer_settime(self.0, 0, &times, ptr::null_mut()) };
    }
}

impl Drop for Kick {
    fn drop(&mut self) {
        // SAFETY: Nobody else has the timer.
        unsafe { libc::timer_delete(self.0) };
    }
}

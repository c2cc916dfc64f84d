// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Processes to be killed.

use std::io;

use anyhow::{Context, Result, ensure};

/// A process that a test started.
pub struct Child(libc::pid_t);

impl Child {
    /// Does `work` in a copy of this process, which must have no other thread.
    pub fn start(work: impl FnOnce() -> Result<()>) -> Result<Self> {
        // SAFETY: By what the caller promises, nobody holds a lock that the copy needs.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()).context("fork"),
            0 => {
                let status = i32::from(work().is_err());
                // SAFETY: Never returns, and runs no destructor of the parent's.
                unsafe { libc::_exit(status) }
            }
            child => Ok(Child(child)),
        }
    }

    /// Waits for its end and returns its wait status.
    pub fn wait(self) -> Result<i32> {
        let mut status = 0;
        // SAFETY: The child is ours, and the status writable.
        let reaped = unsafe { libc::waitpid(self.0, &mut status, 0) };
        ensure!(reaped == self.0, "no child");
        Ok(status)
    }

    /// Kills it, which must have been alive.
    pub fn kill(self) -> Result<()> {
        // SAFETY: The child is ours.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        let status = self.wait()?;
        ensure!(libc::WIFSIGNALED(status), "it had ended: {status:#x}");
        Ok(())
    }
}

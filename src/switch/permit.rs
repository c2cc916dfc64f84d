// SPDX-License-Identifier: GPL-2.0

//! Whether guest reads may be passed through on this host at all.
//!
//! On a CPU whose MPERF does not tick with its TSC, a guest that reads the MSRs reads a wrong
//! MPERF. A vCPU may come to any CPU, and cannot begin to intercept its reads on the way there:
//! KVM changes intercepts at its own time. So each vCPU needs a permit to pass reads through, and
//! the host either has such a CPU or has permits, never both. Whoever was first stays: with
//! permits out, the CPU stays offline, which its administrator can see and mend; guests cannot.

use core::sync::atomic::{
    AtomicUsize,
    Ordering::Relaxed, //
};

/// The permits of a host.
///
/// # Invariants
///
/// `issued` is the number of permits that exist. If it is [`CLOSED`], there is none, and there
/// never will be.
// The one variable is all that there is to agree on, so that no ordering is needed.
pub(crate) struct Permits {
    issued: AtomicUsize,
}

const CLOSED: usize = usize::MAX;

impl Permits {
    /// None is issued yet, any may be.
    pub(crate) const fn new() -> Self {
        Self {
            issued: AtomicUsize::new(0),
        }
    }

    /// A permit for one vCPU, unless they are closed.
    pub(crate) fn issue(&self) -> Option<Permit<'_>> {
        self.issued
            .fetch_update(Relaxed, Relaxed, |issued| {
                (issued != CLOSED).then_some(issued.wrapping_add(1))
            })
            .ok()
            .map(|_| Permit(self))
    }

    /// Ends passing through.
    ///
    /// # Errors
    ///
    /// The number of permits that exist.
    pub(crate) fn close(&self) -> Result<(), usize> {
        match self.issued.compare_exchange(0, CLOSED, Relaxed, Relaxed) {
            Ok(_) | Err(CLOSED) => Ok(()),
            Err(issued) => Err(issued),
        }
    }

    /// Whether no vCPU gets a permit.
    pub(crate) fn closed(&self) -> bool {
        self.issued.load(Relaxed) == CLOSED
    }
}

/// A vCPU's permission to pass its reads through, for as long as it exists.
pub(crate) struct Permit<'a>(&'a Permits);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.issued.fetch_sub(1, Relaxed);
    }
}

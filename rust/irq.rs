// SPDX-License-Identifier: GPL-2.0

//! Code that runs with IRQs disabled on this CPU.

use core::arch::asm;

use kernel::types::NotThreadSafe;

/// RFLAGS.IF.
const IF: usize = 1 << 9;

/// IRQs are disabled on this CPU until the guard is dropped.
///
/// Two instructions in line, where [`kernel::interrupt`] makes two calls; lockdep does not see
/// them. For the few MSR accesses between, in callers that the scheduler and KVM run with IRQs
/// enabled or disabled, NMI handlers included.
///
/// # Invariants
///
/// While an object of this type exists IRQs are disabled, and the task does not leave the CPU.
#[must_use = "IRQs are enabled again when the guard is dropped"]
pub struct IrqsOff {
    flags: usize,
    _not_send: NotThreadSafe,
}

impl IrqsOff {
    /// Disables IRQs. Guards nest; drop them in reverse order.
    #[inline(always)]
    pub(crate) fn disable() -> Self {
        let flags;
        // SAFETY: Saving RFLAGS and clearing IF is always allowed in the kernel, which has no red
        // zone.
        unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags) };
        // INVARIANT: IF is now clear. A CPU with IRQs disabled is not preempted.
        Self {
            flags,
            _not_send: NotThreadSafe,
        }
    }
}

impl Drop for IrqsOff {
    #[inline(always)]
    fn drop(&mut self) {
        if self.flags & IF != 0 {
            // SAFETY: IRQs were enabled when this guard was made, so they may be again.
            unsafe { asm!("sti") };
        }
    }
}

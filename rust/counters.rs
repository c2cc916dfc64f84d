// SPDX-License-Identifier: GPL-2.0

//! The counters of the CPU that executes: APERF, MPERF and the TSC.

use core::arch::asm;

use crate::bindings;

/// IA32_MPERF and IA32_APERF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Msr {
    /// MSR 0xE8, actual performance clock count.
    Aperf,
    /// MSR 0xE7, maximum performance clock count.
    Mperf,
}

impl Msr {
    const fn index(self) -> u32 {
        match self {
            Self::Aperf => bindings::MSR_IA32_APERF,
            Self::Mperf => bindings::MSR_IA32_MPERF,
        }
    }

    /// The MSR with this index. KVM and the MSR driver ask about these two only; anything but
    /// APERF is taken for MPERF.
    pub(crate) const fn from_index(index: u32) -> Self {
        match index {
            bindings::MSR_IA32_APERF => Self::Aperf,
            _ => Self::Mperf,
        }
    }
}

/// What the counters need, and the host lacks.
#[derive(Clone, Copy, Debug)]
pub struct Missing(pub &'static str);

/// Leave to access the counters.
///
/// # Invariants
///
/// All CPUs that are used have APERF and MPERF, and a TSC that always ticks, at one rate.
#[derive(Clone, Copy)]
pub struct Counters(());

impl Counters {
    /// Looks for the counters.
    ///
    /// # Errors
    ///
    /// The name of a feature that is absent, as in /proc/cpuinfo, or another reason.
    pub fn probe() -> Result<Self, Missing> {
        Self::probe_this_cpu()?;
        // SAFETY: Reads a variable.
        if unsafe { bindings::check_tsc_unstable() } != 0 {
            return Err(Missing("a stable TSC"));
        }
        // INVARIANT: Checked just now, and for a CPU that comes online then.
        Ok(Self(()))
    }

    /// The same for the CPU that executes, as Linux brings CPUs up that lack what others have.
    pub(crate) fn probe_this_cpu() -> Result<(), Missing> {
        for (feature, name) in [
            (bindings::X86_FEATURE_APERFMPERF, "aperfmperf"),
            (bindings::X86_FEATURE_CONSTANT_TSC, "constant_tsc"),
            (bindings::X86_FEATURE_NONSTOP_TSC, "nonstop_tsc"),
        ] {
            // SAFETY: Reads a bit of a CPU's capabilities; `feature` is one of the kernel's own
            // numbers, so within their array.
            if !unsafe { bindings::kvm_aperfmperf_this_cpu_has(feature) } {
                return Err(Missing(name));
            }
        }
        Ok(())
    }

    /// # Safety
    ///
    /// [`Counters::probe`] must have succeeded.
    pub(crate) const unsafe fn assume_present() -> Self {
        // INVARIANT: By the contract of this function.
        Self(())
    }

    /// RDTSC, in ticks.
    #[inline(always)]
    pub fn tsc(self) -> u64 {
        let (low, high): (u32, u32);
        // SAFETY: The CPU has a TSC and the kernel may read it. Not ordered: what matters is that
        // two reads are equally far from the RDMSRs that follow them, which serialise enough.
        unsafe {
            asm!("rdtsc", out("eax") low, out("edx") high, options(nostack, preserves_flags));
        }
        u64::from(high) << 32 | u64::from(low)
    }

    /// RDMSR of `msr` on this CPU, in ticks.
    #[inline(always)]
    pub fn read(self, msr: Msr) -> u64 {
        let (low, high): (u32, u32);
        // SAFETY: The MSR exists by the type invariant; reading it has no side effect.
        unsafe {
            asm!(
                "rdmsr",
                in("ecx") msr.index(),
                out("eax") low,
                out("edx") high,
                options(nostack, preserves_flags),
            );
        }
        u64::from(high) << 32 | u64::from(low)
    }

    /// WRMSR of `msr` on this CPU, in ticks; does nothing if the CPU refuses it. For a CPU that
    /// nobody has written to yet: a hypervisor may let the counters be read only.
    pub fn try_write(self, msr: Msr, value: u64) {
        // SAFETY: As for `write`, and a #GP is caught.
        unsafe { bindings::kvm_aperfmperf_wrmsrq_safe(msr.index(), value) };
    }

    /// WRMSR of `msr` on this CPU, in ticks. The CPU must take writes, see
    /// [`Counters::try_write`].
    #[inline(always)]
    pub fn write(self, msr: Msr, value: u64) {
        // SAFETY: The MSR exists by the type invariant, takes any value, and changes nothing but
        // what later reads of it return.
        unsafe {
            asm!(
                "wrmsr",
                in("ecx") msr.index(),
                in("eax") value as u32,
                in("edx") (value >> 32) as u32,
                options(nostack, preserves_flags),
            );
        }
    }
}

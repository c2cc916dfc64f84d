// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The CPU that a thread runs on, and its clock.

use std::arch::x86_64::{__cpuid, _rdtsc, CpuidResult};
use std::io;
use std::mem;

use anyhow::{Result, bail};

use crate::kernel;
use crate::ktap::Skip;
use crate::oracle::event;

/// Binds the calling thread to `cpu`.
///
/// # Errors
///
/// `EINVAL` if there is no such CPU online.
pub fn pin(cpu: usize) -> io::Result<()> {
    pin_thread(0, cpu)
}

/// Binds the thread `thread`, one of [`thread_id`], to `cpu`.
///
/// # Errors
///
/// `EINVAL` if there is no such CPU online.
pub fn pin_thread(thread: libc::pid_t, cpu: usize) -> io::Result<()> {
    // SAFETY: `cpu_set_t` is a plain bit mask, for which all zeroes is the
    // empty set, and both calls only access the set that they are given.
    let ret = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(thread, size_of_val(&set), &set)
    };
    if ret == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The kernel's name for the calling thread.
pub fn thread_id() -> libc::pid_t {
    // SAFETY: gettid() has no memory effects.
    unsafe { libc::gettid() }
}

/// No ordinary task preempts the calling thread until this is dropped, so that a
/// vCPU has its CPU to itself but for interrupts, and for timers in a PREEMPT_RT kernel.
#[must_use]
pub struct Alone;

impl Alone {
    /// Binds the calling thread to `cpu`, and makes it a real-time one.
    ///
    /// # Errors
    ///
    /// Those of [`pin`], and `EPERM` without root's privileges.
    pub fn on(cpu: usize) -> io::Result<Self> {
        pin(cpu)?;
        if kernel::is_realtime()? {
            // Its priority is 1: a signal at some time would wait for this thread to sleep.
            set_scheduler(
                kernel::thread(&format!("ktimers/{cpu}"))?,
                libc::SCHED_FIFO,
                2,
            )?;
        }
        set_scheduler(0, libc::SCHED_FIFO, 1)?;
        Ok(Alone)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        set_scheduler(0, libc::SCHED_OTHER, 0).expect("anybody may give up privileges");
    }
}

fn set_scheduler(thread: libc::pid_t, policy: i32, sched_priority: i32) -> io::Result<()> {
    let param = libc::sched_param { sched_priority };
    // SAFETY: The call only reads `param`.
    let ret = unsafe { libc::sched_setscheduler(thread, policy, &param) };
    if ret == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Number of CPUs online.
pub fn online() -> usize {
    // SAFETY: sysconf() has no memory effects.
    unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) as usize }
}

/// Skips a test that needs a CPU beside the one under test.
pub fn require_two() -> Result<()> {
    if online() < 2 {
        bail!(Skip("needs 2 CPUs".into()));
    }
    Ok(())
}

/// Time-stamp counter of this CPU.
pub fn tsc() -> u64 {
    // SAFETY: Linux leaves CR4.TSD clear, so RDTSC does not fault.
    unsafe { _rdtsc() }
}

/// Keeps this CPU busy in user space for `ticks` of the TSC.
pub fn spin(ticks: u64) {
    let start = tsc();
    while tsc().wrapping_sub(start) < ticks {}
}

/// CPU time that the calling thread has used, in nanoseconds: the scheduler's
/// own view, which knows nothing of APERF and MPERF.
pub fn thread_time() -> u64 {
    // SAFETY: `time` is writable and all zeroes is a valid value.
    let time = unsafe {
        let mut time: libc::timespec = mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time);
        time
    };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// How often the calling thread gave up its CPU or was made to.
pub fn thread_switches() -> u64 {
    // SAFETY: `usage` is writable and all zeroes is a valid value.
    let usage = unsafe {
        let mut usage: libc::rusage = mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage
    };
    (usage.ru_nvcsw + usage.ru_nivcsw) as u64
}

/// Events of the oracle that differ between the vendors' virtualization.
pub struct Exits {
    /// A guest's RDMSR of an intercepted MSR; with SVM also its WRMSR.
    pub rdmsr: u64,
    /// A guest's WRMSR of an intercepted MSR; with SVM also its RDMSR.
    pub wrmsr: u64,
    /// An interrupt for the host.
    pub interrupt: u64,
}

/// The events of this CPU's vendor.
pub fn exits() -> Exits {
    if is_amd() {
        Exits {
            rdmsr: event::svm_exit(0x7c),
            wrmsr: event::svm_exit(0x7c),
            interrupt: event::svm_exit(0x60),
        }
    } else {
        Exits {
            rdmsr: event::vmx_exit(31),
            wrmsr: event::vmx_exit(32),
            interrupt: event::vmx_exit(1),
        }
    }
}

/// Whether this CPU has SVM, and not VMX.
pub fn is_amd() -> bool {
    vendor_is(b"AuthenticAMD")
}

/// CPUID.
#[allow(unused_unsafe)] // newer compilers know that it is safe
pub fn cpuid(leaf: u32) -> CpuidResult {
    // SAFETY: CPUID has no memory effects, and every 64-bit CPU has it.
    unsafe { __cpuid(leaf) }
}

fn vendor_is(vendor: &[u8; 12]) -> bool {
    let leaf = cpuid(0);
    let words = [leaf.ebx, leaf.edx, leaf.ecx];
    words
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .eq(vendor.iter().copied())
}

// SPDX-License-Identifier: GPL-2.0

//! What the module does, and where it does it.

use kernel::prelude::*;

use crate::{
    counters::{
        Counters,
        Msr, //
    },
    debugfs::Directory,
    irq::IrqsOff,
    per_cpu::{
        CpuSlot,
        PerCpu, //
    },
};

/// The operations on CPUs and vCPUs, as `asm/aperfmperf.h` specifies them.
///
/// Those that are given a CPU run there, with IRQs disabled. None of them may sleep, allocate, lock
/// or print.
pub trait Backend: Sized + 'static {
    /// State of a CPU.
    type Cpu: Sync + 'static;

    /// State of a vCPU.
    type Vcpu: Send;

    /// What a CPU is good for.
    type Calibration;

    /// The states of all CPUs.
    fn cpus() -> &'static PerCpu<CpuSlot<Self>>;

    /// This CPU begins to be used: measures it. No guest value is in the MSRs.
    fn calibrate(here: &ThisCpu<'_, Self>) -> Self::Calibration;

    /// This CPU is what `calibration` says. Process context, on that CPU, IRQs enabled; may print.
    ///
    /// # Errors
    ///
    /// The CPU cannot be used; it does not come online, or the module does not load.
    fn online(calibration: Self::Calibration) -> Result;

    /// This CPU is no longer used: the MSRs must hold the host pair for good. A task that cannot
    /// migrate may run a vCPU here until the CPU is gone: [`Backend::put`] leaves the host pair.
    fn offline(here: &ThisCpu<'_, Self>);

    /// Host value of `msr` on this CPU. May run in an NMI that interrupted any other operation.
    fn host_read(cpu: &Self::Cpu, counters: Counters, msr: Msr) -> u64;

    /// Sets the host value of `msr`.
    fn host_write(here: &ThisCpu<'_, Self>, msr: Msr, value: u64);

    /// Removes guest values from the MSRs.
    fn host_restore(here: &ThisCpu<'_, Self>);

    /// This CPU wakes up from a suspend, which may have reset the counters. No guest value is in
    /// the MSRs: their content is the host pair from now on.
    fn resume(here: &ThisCpu<'_, Self>);

    /// The host is about to freeze its tasks, to sleep. Process context. One of this and
    /// [`Backend::sleep_ends`] at a time.
    fn sleep_begins();

    /// The host has thawed its tasks. Process context.
    fn sleep_ends();

    /// The machine goes down or starts another kernel: from now on [`Backend::put`] leaves the host
    /// pair in the MSRs. vCPUs may still be loaded.
    fn shutdown();

    /// The state of a new vCPU, whose file goes to `directory`. Process context, IRQs enabled, may
    /// sleep; its drop may, too.
    ///
    /// # Errors
    ///
    /// The vCPU does not get a pair.
    fn vcpu_create(directory: &Directory) -> Result<Self::Vcpu>;

    /// The vCPU's task begins or continues to run it.
    fn load(here: &ThisCpu<'_, Self>, vcpu: &mut Self::Vcpu);

    /// The vCPU's task stops running it.
    fn put(here: &ThisCpu<'_, Self>, vcpu: &mut Self::Vcpu);

    /// The vCPU entered or left C0.
    fn set_c0(here: &ThisCpu<'_, Self>, vcpu: &mut Self::Vcpu, c0: bool);

    /// Guest value of `msr`.
    fn read(here: &ThisCpu<'_, Self>, vcpu: &mut Self::Vcpu, msr: Msr) -> u64;

    /// Sets the guest value of `msr`.
    fn write(here: &ThisCpu<'_, Self>, vcpu: &mut Self::Vcpu, msr: Msr, value: u64);

    /// Sets the guest's TSC ratio, `multiplier` / 2^`fraction_bits`, and whether KVM intercepts
    /// reads for a reason of its own.
    fn configure(
        here: &ThisCpu<'_, Self>,
        vcpu: &mut Self::Vcpu,
        multiplier: u64,
        fraction_bits: u8,
        intercept: bool,
    );

    /// Userspace stopped the guest since `put`: drops what MPERF has advanced since.
    fn forget_pause(here: &ThisCpu<'_, Self>, vcpu: &mut Self::Vcpu);

    /// Whether guest reads need not exit.
    fn passthrough(vcpu: &Self::Vcpu) -> bool;
}

/// This CPU, which the task cannot leave while the object exists.
pub struct ThisCpu<'a, B: Backend> {
    slot: &'a CpuSlot<B>,
    irqs_off: &'a IrqsOff,
    counters: Counters,
}

impl<B: Backend> ThisCpu<'_, B> {
    /// The backend's state of this CPU.
    pub fn state(&self) -> &B::Cpu {
        &self.slot.state
    }

    /// This CPU's counters.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Has [`Backend::host_restore`] called before this CPU next returns to user space.
    pub fn restore_on_user_return(&self) {
        // SAFETY: The slot is this CPU's, and by the contract of `on_this_cpu` this is no NMI.
        unsafe { self.slot.user_return.arm::<B>(self.irqs_off) };
    }

    pub(crate) fn irqs_off(&self) -> &IrqsOff {
        self.irqs_off
    }

    /// Removes guest values now, so that nothing is left to do on return to user space.
    pub fn restore(&self) {
        // SAFETY: As above.
        unsafe { self.slot.user_return.disarm(self.irqs_off) };
        B::host_restore(self);
    }
}

/// Calls `work` with this CPU, IRQs disabled.
///
/// # Safety
///
/// [`Counters::probe`] must have succeeded, and the caller must not be an NMI handler.
pub(crate) unsafe fn on_this_cpu<B: Backend, R>(work: impl FnOnce(&ThisCpu<'_, B>) -> R) -> R {
    let irqs_off = IrqsOff::disable();
    let here = ThisCpu {
        slot: B::cpus().here(&irqs_off),
        irqs_off: &irqs_off,
        // SAFETY: By the contract of this function.
        counters: unsafe { Counters::assume_present() },
    };
    work(&here)
}

/// Host value of `msr` on this CPU. Any context, NMI included.
///
/// # Safety
///
/// [`Counters::probe`] must have succeeded.
pub(crate) unsafe fn host_read<B: Backend>(msr: Msr) -> u64 {
    let irqs_off = IrqsOff::disable();
    // SAFETY: By the contract of this function.
    let counters = unsafe { Counters::assume_present() };
    B::host_read(&B::cpus().here(&irqs_off).state, counters, msr)
}

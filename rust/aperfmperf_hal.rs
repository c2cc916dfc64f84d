// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions over what the module needs of the kernel and the CPU.
//!
//! All `unsafe` code of the module is in this crate; the logic that it serves is in `src/`. The
//! root of everything is a [`Backend`]: it says what each operation does, on the CPU that it is
//! given as [`ThisCpu`], and this crate connects it to KVM, to the scheduler, to returns to user
//! space, to CPU hotplug and to suspend and shutdown. [`debugfs`] and [`trace`] show what it does.
//!
//! Built into the module beside the crate in `src/`, as nova-core is beside nova-drm
//! (`drivers/gpu/Makefile`).

#![deny(unsafe_op_in_unsafe_fn)]

mod backend;
mod bindings;
pub mod counters;
pub mod debugfs;
pub mod exports;
mod grant;
mod hooks;
mod hotplug;
mod irq;
pub mod per_cpu;
mod preempt;
mod sleep;
mod syscore;
pub mod trace;
mod user_return;
mod vcpu;

pub use backend::{
    Backend,
    ThisCpu, //
};
pub use counters::{
    Counters,
    Msr, //
};
pub use grant::Grant;
pub use hooks::{
    Hooks,
    Prepared, //
};
pub use hotplug::Hotplug;
pub use irq::IrqsOff;
pub use per_cpu::{
    CpuSlot,
    PerCpu, //
};
pub use sleep::SleepNotifier;
pub use syscore::Syscore;

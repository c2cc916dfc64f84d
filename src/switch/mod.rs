// SPDX-License-Identifier: GPL-2.0

//! What is in a CPU's APERF and MPERF, and how guest values get in and out.
//!
//! Pure logic: hardware is behind the [`Hardware`] trait, so that the same file is built into the
//! module, where KUnit runs its tests, and into a user-space crate, where cargo does.
//!
//! ```text
//!            load(v)            put              load(w)
//!   Host --------------> Live --------> Stale --------------> Live
//!    ^                                    |
//!    +------------ restore ---------------+
//! ```
//!
//! - *Host*: the MSRs hold the host pair.
//! - *Live*: they hold the pair of the vCPU that runs here, advancing.
//! - *Stale*: they still hold a guest's values, but that vCPU is checkpointed.
//!
//! Whatever they hold, `hardware pair + offset = host pair`. Each rule that the code keeps has a
//! name: **guest-aperf**, **guest-mperf**, **no-exit**, **host-continuity**, **guest-isolation**
//! and **user-isolation**. Comments and tests refer to them.
//!
//! All arithmetic on counters is modulo 2^64.

#[cfg(test)]
use crate::interrupt::atomic;
#[cfg(not(test))]
use core::sync::atomic;

mod calibration;
mod cpu;
mod event;
mod exchange;
mod guest;
mod hardware;
mod mode;
mod overflow;
mod permit;
mod rate;
mod sleep;
mod vcpu;

#[cfg(any(test, CONFIG_KUNIT))]
mod simulator;
#[cfg(any(test, CONFIG_KUNIT))]
mod tests;

#[cfg(test)]
#[path = "../hosttest/properties/mod.rs"]
mod properties;

pub(crate) use calibration::Calibration;
pub(crate) use cpu::{
    Cpu,
    State, //
};
pub(crate) use event::{
    Event,
    Observer, //
};
pub(crate) use hardware::{
    Counter,
    Hardware,
    Pair, //
};
pub(crate) use mode::{
    Mode,
    Reason, //
};
pub(crate) use permit::Permits;
pub(crate) use sleep::Sleeps;
pub(crate) use vcpu::Vcpu;

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What the tests of guest APERF/MPERF share: the emulator's oracle, tiny
//! guests, the host's view of the counters, and KTAP.
//!
//! All values of counters are in ticks of the counter. On the emulated
//! machine a TSC tick is one instruction, so that a distance in ticks is also
//! a number of instructions.

pub mod child;
pub mod cpu;
pub mod cpufreq;
pub mod debugfs;
pub mod failslab;
pub mod foreign;
pub mod guest;
pub mod host;
pub mod hotplug;
pub mod kernel;
pub mod kexec;
pub mod ktap;
pub mod linux;
pub mod log;
pub mod module;
pub mod msr_device;
pub mod nested;
pub mod oracle;
pub mod own;
pub mod pair;
pub mod perf;
pub mod perf_group;
pub mod qemu;
pub mod rdpru;
pub mod rules;
pub mod sample;
pub mod signal;
pub mod sweep;
pub mod tracefs;
pub mod watch;

pub use pair::{ONE_SWITCH, Pair, UNFORESEEN, roundings};

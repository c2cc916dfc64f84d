// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What the tests of IA32_PERF_METRICS in the mediated vPMU share. They need
//! kvm-intel to be loaded with `enable_mediated_pmu=1`.
//!
//! The emulated CPU has 5 slots a cycle, and divides them as the oracle says.

mod code;
pub mod guest;
pub mod kvm_intel;
pub mod metrics;
pub mod msr;
pub mod perf;

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! MSRs of the PMU and their bits (SDM, "Architectural MSRs" and "Performance
//! Monitoring").

pub const FIXED_CTR0: u32 = 0x309;
/// Fixed counter 3: TOPDOWN.SLOTS.
pub const FIXED_CTR3: u32 = 0x30c;
pub const PERF_METRICS: u32 = 0x329;
pub const PERF_CAPABILITIES: u32 = 0x345;
pub const FIXED_CTR_CTRL: u32 = 0x38d;
pub const PERF_GLOBAL_STATUS: u32 = 0x38e;
pub const PERF_GLOBAL_CTRL: u32 = 0x38f;

/// In IA32_PERF_CAPABILITIES: there is IA32_PERF_METRICS.
pub const CAP_PERF_METRICS: u64 = 1 << 15;

/// In IA32_PERF_GLOBAL_CTRL and IA32_PERF_GLOBAL_STATUS.
pub const GLOBAL_FIXED_CTR0: u64 = 1 << 32;
pub const GLOBAL_FIXED_CTR3: u64 = 1 << 35;
pub const GLOBAL_PERF_METRICS: u64 = 1 << 48;

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Words for guests that use their PMU.

/// Machine code of a guest, see [`harness::guest_code`], with these words more:
///
/// - `rdpmc64 INDEX, R`: a counter, by RDPMC's index, to a register
/// - `wrmsr_value MSR, VALUE`: a constant to an MSR
/// - `divide R`: this CPU divides its slots as the register says, see
///   [`Metrics`](crate::metrics::Metrics)
/// - `topdown_zero`: nothing counts, slots and metrics are zero
/// - `topdown_count`: slots, metrics and instructions count
/// - `topdown_start`: both
/// - `stop`: nothing counts
///
/// All clobber RAX, RBX, RCX and RDX.
#[macro_export]
macro_rules! pmu_code {
    ($(#[$attribute:meta])* $name:ident: $($line:literal)+) => {
        ::harness::guest_code! {
            $(#[$attribute])*
            $name:
                ".macro rdpmc64 index, register"
                "  mov ecx, \\index"
                "  rdpmc"
                "  shl rdx, 32"
                "  lea \\register, [rdx + rax]"
                ".endm"
                ".macro wrmsr_value msr, value"
                "  mov ecx, \\msr"
                "  mov rax, \\value"
                "  mov rdx, rax"
                "  shr rdx, 32"
                "  wrmsr"
                ".endm"
                ".macro divide register"
                "  mov rbx, -1"
                "  mov rdx, \\register"
                "  oracle 16"
                ".endm"
                ".macro stop"
                "  wrmsr_value 0x38f, 0"
                ".endm"
                ".macro topdown_zero"
                "  stop"
                "  wrmsr_value 0x309, 0"
                "  wrmsr_value 0x30c, 0"
                "  wrmsr_value 0x329, 0"
                ".endm"
                ".macro topdown_count"
                "  wrmsr_value 0x38d, 0x3003"
                "  wrmsr_value 0x38f, 0x1000900000000"
                ".endm"
                ".macro topdown_start"
                "  topdown_zero"
                "  topdown_count"
                ".endm"

                $($line)+

                ".purgem rdpmc64"
                ".purgem wrmsr_value"
                ".purgem divide"
                ".purgem stop"
                ".purgem topdown_zero"
                ".purgem topdown_count"
                ".purgem topdown_start"
        }
    };
}

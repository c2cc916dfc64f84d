// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The assembler's words that guests are written in.

use super::TIMER_VECTOR;

const _: () = assert!(TIMER_VECTOR == 0x20, "timer_one_shot spells it");

/// Machine code of a guest, as a function that returns its bytes.
///
/// The code runs at CPL 0 in 64-bit mode with interrupts enabled, is
/// position-independent, and has a small stack. RDI holds the argument of
/// [`Vcpu::set_argument`](crate::guest::Vcpu::set_argument), all other
/// general-purpose registers start at zero. R15 counts the #GPs, each of which
/// skips a two-byte instruction: RDMSR and WRMSR are such. Beside
/// instructions there are these words; all clobber RAX, RCX and RDX, `oracle` and
/// `sample` RBX, `far` RDI:
///
/// - `rdpair A, M`: APERF to register A, then MPERF to M
/// - `rdmsr64 MSR, R`, `wrmsr64 MSR, R`: an MSR to and from a register
/// - `far`: both counters to 2^60, which the host's are far from
/// - `rdtsc64 R`: the guest's TSC to a register
/// - `oracle N`: asks the oracle for function N with RBX and RDX
/// - `timer_one_shot`: has the local APIC's timer tick once a nanosecond, and interrupt once
/// - `sleep R`: halts until that timer has ticked as often as a register says; interrupts
///   are enabled meanwhile only
/// - `look`: MPERF to R9 and then APERF to R8; the TSC before and between to R10 and R11
/// - `sample EVENT`: a `look`, and the TSC after it to R14; how often the oracle's EVENT
///   happened on all CPUs, before and after, to R12 and R13
/// - `burn N`: takes N ticks of the emulated machine; `burn64 R`: as many as a register says
/// - `exit`: returns to [`Vcpu::run`](crate::guest::Vcpu::run)
#[macro_export]
macro_rules! guest_code {
    ($(#[$attribute:meta])* $visibility:vis $name:ident: $($line:literal)+) => {
        $(#[$attribute])*
        $visibility fn $name() -> &'static [u8] {
            let start: *const u8;
            let end: *const u8;

            // SAFETY: The guest's code goes to a section of read-only data.
            // What runs here only takes that section's addresses.
            unsafe {
                ::std::arch::asm!(
                    ".macro rdmsr64 msr, register",
                    "  mov ecx, \\msr",
                    "  rdmsr",
                    "  shl rdx, 32",
                    "  lea \\register, [rdx + rax]",
                    ".endm",
                    ".macro wrmsr64 msr, register",
                    "  mov ecx, \\msr",
                    "  mov rax, \\register",
                    "  mov rdx, rax",
                    "  shr rdx, 32",
                    "  wrmsr",
                    ".endm",
                    ".macro rdpair aperf, mperf",
                    "  rdmsr64 0xe8, \\aperf",
                    "  rdmsr64 0xe7, \\mperf",
                    ".endm",
                    ".macro far",
                    "  mov rdi, 1 << 60",
                    "  wrmsr64 0xe8, rdi",
                    "  wrmsr64 0xe7, rdi",
                    ".endm",
                    ".macro rdtsc64 register",
                    "  rdtsc",
                    "  shl rdx, 32",
                    "  lea \\register, [rdx + rax]",
                    ".endm",
                    ".macro oracle function",
                    "  mov eax, 0x4f524143",
                    "  mov ecx, \\function",
                    "  cpuid",
                    ".endm",
                    ".macro timer_one_shot",
                    "  wrmsr64 0x80f, 0x1ff", // spurious-interrupt vector: enable
                    "  wrmsr64 0x832, 0x20", // LVT timer: one-shot, TIMER_VECTOR
                    "  wrmsr64 0x83e, 0xb", // divide by 1
                    ".endm",
                    ".macro sleep ticks",
                    "  wrmsr64 0x838, \\ticks", // initial count
                    "  sti",
                    "  hlt",
                    "  cli",
                    ".endm",
                    ".macro look",
                    "  rdtsc64 r10",
                    "  rdmsr64 0xe7, r9",
                    "  rdtsc64 r11",
                    "  rdmsr64 0xe8, r8",
                    ".endm",
                    ".macro sample event",
                    "  mov rbx, -2",
                    "  mov rdx, \\event",
                    "  oracle 2",
                    "  mov r12, rax",
                    "  look",
                    "  rdtsc64 r14",
                    "  mov rbx, -2",
                    "  mov rdx, \\event",
                    "  oracle 2",
                    "  mov r13, rax",
                    ".endm",
                    ".macro burn ticks",
                    "  mov rcx, (\\ticks) / 2",
                    "77:",
                    "  dec rcx",
                    "  jnz 77b",
                    ".endm",
                    ".macro burn64 ticks",
                    "  mov rcx, \\ticks",
                    "  shr rcx",
                    "78:",
                    "  dec rcx",
                    "  jnz 78b",
                    ".endm",
                    ".macro exit",
                    "  out 0xf0, al",
                    ".endm",
                    ".pushsection .rodata.guest, \"a\", @progbits",
                    "88:",
                    $($line,)+
                    "99:",
                    ".popsection",
                    ".purgem rdmsr64",
                    ".purgem wrmsr64",
                    ".purgem rdpair",
                    ".purgem far",
                    ".purgem rdtsc64",
                    ".purgem oracle",
                    ".purgem timer_one_shot",
                    ".purgem sleep",
                    ".purgem look",
                    ".purgem sample",
                    ".purgem burn",
                    ".purgem burn64",
                    ".purgem exit",
                    "lea {start}, [rip + 88b]",
                    "lea {end}, [rip + 99b]",
                    start = out(reg) start,
                    end = out(reg) end,
                    options(nomem, nostack, preserves_flags),
                );
                ::std::slice::from_raw_parts(start, end.offset_from(start) as usize)
            }
        }
    };
}

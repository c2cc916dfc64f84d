// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A guest (L1) that runs a guest of its own (L2) to the first VM exit that L1
//! asked for.
//!
//! L1 and L2 share one address space, and all general-purpose registers but
//! RAX and RSP. L1 intercepts interrupts, not HLT, and reads of the pair if it
//! is told to. L2 reads the pair and halts, until L1's APIC timer fires. Or it takes
//! samples for ever, without a timer.

mod svm;
mod vmx;

use anyhow::{Result, ensure};

use crate::guest::{Guest, Vcpu};
use crate::{Pair, cpu};

pub use vmx::allow as allow_vmx;

/// L2 halts for as long as this, but for the way from L1's timer to its HLT.
pub const HALT_MS: u64 = 10;

/// Bits of RDI: L1 intercepts L2's reads of the pair.
const INTERCEPT: u64 = 1 << 0;
/// L2 takes samples.
const SAMPLE: u64 = 1 << 1;
/// VMX: L1 has L2's TSC scaled to half of its own.
const SCALE: u64 = 1 << 2;

/// Code of L1 and L2: the words of a macro, and those that do not depend on the vendor.
macro_rules! nested_code {
    (in $words:path: $(#[$attribute:meta])* $name:ident: $($line:literal)+) => {
        $words! {
            $(#[$attribute])*
            $name:
                // L1 exits once, so that all pages are there. Then it starts its
                // timer and reads to R8 and R9.
                ".macro l1_begin"
                "  cli"
                "  exit"
                "  timer_one_shot"
                "  rdpair r8, r9"
                "  test edi, 2"             // SAMPLE
                "  jnz 65f"
                "  mov r14, 10000000"
                "  wrmsr64 0x838, r14"      // initial count: HALT_MS
                "65:"
                ".endm"

                // L2 reads to R11 and R12, with R14 exits of the kind counted by
                // the oracle as \\event. TSC before it halts is in R10.
                ".macro l2 event"
                "  test edi, 2"             // SAMPLE
                "  jnz 67f"
                "  mov rbx, -1"
                "  mov rdx, \\event"
                "  oracle 2"
                "  mov r14, rax"
                "  rdpair r11, r12"
                "  mov rbx, -1"
                "  mov rdx, \\event"
                "  oracle 2"
                "  sub r14, rax"
                "  neg r14"
                "  rdtsc64 r10"
                "  sti"
                "66:"
                "  hlt"
                "  jmp 66b"
                "67:"
                "  sample \\event"
                "  exit"
                "  jmp 67b"
                ".endm"

                // L1 reads to RSI and RDI, and some time later to R10 and RBX. What
                // TSC advanced since L2's HLT is in R13, why L2 exited in RBP.
                ".macro l1_end reason"
                "  rdtsc64 r13"
                "  sub r13, r10"
                "  rdpair rsi, rdi"
                "  mov rbp, \\reason"
                "  burn 100000"
                "  rdpair r10, rbx"
                "  exit"
                ".endm"

                $($line)+

                ".purgem l1_begin"
                ".purgem l2"
                ".purgem l1_end"
        }
    };
}
use nested_code;

/// What L1 and L2 found.
#[derive(Debug)]
pub struct Report {
    /// L1 before it ran L2.
    pub before: Pair,
    /// L2 before its HLT.
    pub l2: Pair,
    /// By how often the VM exited on RDMSR around L2's reading.
    pub exits: u64,
    /// TSC from L2's HLT to L1.
    pub halted: u64,
    /// L1 after L2's exit.
    pub after: Pair,
    /// L1 some more than 100,000 instructions later, in the same KVM_RUN.
    pub later: Pair,
    /// Why L2 exited to L1.
    pub reason: u64,
}

/// Why L2 exits to L1, as L1 is told.
pub struct Reasons {
    pub interrupt: u64,
    pub rdmsr: u64,
}

/// The reasons of this CPU's vendor.
pub fn reasons() -> Reasons {
    if cpu::is_amd() {
        svm::REASONS
    } else {
        vmx::REASONS
    }
}

/// A vCPU that will run L1 and L2 as `argument` says, when it is run next.
fn begin(argument: u64) -> Result<(Guest, Vcpu)> {
    let guest = Guest::with_irqchip(if cpu::is_amd() {
        svm::code()
    } else {
        vmx::code()
    })?;
    let mut vcpu = guest.vcpu(0)?;
    if !cpu::is_amd() {
        vmx::allow(&vcpu)?;
    }
    vcpu.resume()?;
    vcpu.set_argument(argument)?;
    Ok((guest, vcpu))
}

/// A vCPU whose L2 takes a sample on each run, at L1's frequency of the TSC or at half of it.
pub(crate) fn sampler(scaled: bool) -> Result<(Guest, Vcpu)> {
    let (guest, vcpu) = begin(if scaled { SAMPLE | SCALE } else { SAMPLE })?;
    if scaled && cpu::is_amd() {
        svm::halve_tsc(&vcpu)?;
    }
    Ok((guest, vcpu))
}

/// A vCPU that can be an L1.
pub struct Nested {
    vcpu: Vcpu,
    _guest: Guest,
}

impl Nested {
    /// An L1 that intercepts L2's reads of the pair, or not.
    pub fn new(intercept: bool) -> Result<Self> {
        let (guest, vcpu) = begin(if intercept { INTERCEPT } else { 0 })?;
        Ok(Nested {
            vcpu,
            _guest: guest,
        })
    }

    /// The vCPU, to watch its pair.
    pub fn vcpu(&self) -> &Vcpu {
        &self.vcpu
    }

    /// Runs L1 and L2.
    pub fn run(&mut self) -> Result<Report> {
        let regs = self.vcpu.run()?;
        ensure!(regs.r15 == 0, "{} instructions faulted", regs.r15);
        Ok(Report {
            before: Pair {
                aperf: regs.r8,
                mperf: regs.r9,
            },
            l2: Pair {
                aperf: regs.r11,
                mperf: regs.r12,
            },
            exits: regs.r14,
            halted: regs.r13,
            after: Pair {
                aperf: regs.rsi,
                mperf: regs.rdi,
            },
            later: Pair {
                aperf: regs.r10,
                mperf: regs.rbx,
            },
            reason: regs.rbp,
        })
    }
}

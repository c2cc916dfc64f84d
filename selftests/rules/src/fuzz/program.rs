// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What the guests do.

use harness::guest_code;

/// Programs of the guest, by the value of RDI. RSI is a value to write.
#[derive(Clone, Copy, Debug)]
pub enum Program {
    Read,
    WriteAperf,
    WriteMperf,
    Halt,
    HaltForTimer,
    Burn,
    Spin,
    Die,
}

impl Program {
    /// Whether it may set the pair.
    pub fn writes(self) -> bool {
        matches!(self, Program::WriteAperf | Program::WriteMperf)
    }
}

pub const PROGRAMS: [Program; 8] = [
    Program::Read,
    Program::WriteAperf,
    Program::WriteMperf,
    Program::Halt,
    Program::HaltForTimer,
    Program::Burn,
    Program::Spin,
    Program::Die,
];

guest_code! {
    /// Jumps to the program that RDI says. All but `Spin` and `Die` come to an exit,
    /// unless a HLT has no end.
    code:
        "cmp rdi, 7"
        "ja 8f"
        "lea rax, [rip + 9f]"
        "movzx ecx, byte ptr [rax + rdi]"
        "add rax, rcx"
        "jmp rax"
        "9:"
        ".byte 20f - 9b, 21f - 9b, 22f - 9b, 23f - 9b, 24f - 9b, 25f - 9b, 26f - 9b, 27f - 9b"
        "20:"
        "rdpair r8, r9"
        "jmp 8f"
        "21:"
        "wrmsr64 0xe8, rsi"
        "jmp 8f"
        "22:"
        "wrmsr64 0xe7, rsi"
        "jmp 8f"
        "23:"
        "sti"
        "hlt"
        "jmp 8f"
        "25:"
        "burn 3000"
        "jmp 8f"
        "26:"
        "jmp 26b"
        "27:"
        "ud2"
        "24:"
        "timer_one_shot"
        "mov r14, 20000"
        "wrmsr64 0x838, r14"    // initial count
        "sti"
        "hlt"
        "8:"
        "exit"
        "jmp 8b"
}

/// The code of all programs.
pub fn all() -> &'static [u8] {
    code()
}

// SPDX-License-Identifier: GPL-2.0

//! Builds the module's pure logic for user space, where `cargo test` runs the tests that KUnit
//! runs in the kernel.
#![cfg(test)]
#![forbid(unsafe_code)]

mod interrupt;

// The glue that uses the re-exports is not here.
#[expect(unused_imports)]
#[path = "../switch/mod.rs"]
mod switch;

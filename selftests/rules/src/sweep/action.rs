// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What events hit: ways through the module.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Result;
use harness::guest::{Guest, Vcpu};
use harness::host::Msrs;

use super::look::{BURN, WORK, halt_and_look, look, work_and_look, write_and_look};

/// What the events hit.
pub struct Action {
    pub name: &'static str,
    /// What it takes the module through.
    pub what: &'static str,
    pub code: fn() -> &'static [u8],
    /// Ticks that the code takes before each look, at least.
    pub burn: u64,
    /// The vCPU does not leave C0.
    pub c0: bool,
    pub act: fn(&mut Vcpu) -> Result<()>,
    /// How many KVM_RUNs that is, each with a look of the guest.
    pub runs: u64,
    /// How many instruction boundaries of the module it comes to, at least: about half of
    /// what there were.
    pub boundaries: u64,
    /// Events come at each instruction, or at each of so many. A prime number, and less than
    /// how often the action goes through the same code: each of its instructions is hit.
    pub stride: u64,
}

pub const ACTIONS: [Action; 8] = [
    Action {
        name: "run",
        what: "load, put and restore",
        code: look,
        burn: BURN,
        c0: true,
        act: Vcpu::resume,
        runs: 1,
        boundaries: 500,
        stride: 1,
    },
    Action {
        name: "halt",
        what: "the same, with a HLT",
        code: halt_and_look,
        burn: BURN,
        c0: false,
        act: Vcpu::resume,
        runs: 1,
        boundaries: 1000,
        stride: 1,
    },
    Action {
        name: "write",
        what: "a guest's WRMSR",
        code: write_and_look,
        burn: BURN,
        c0: true,
        act: Vcpu::resume,
        runs: 1,
        boundaries: 800,
        stride: 1,
    },
    Action {
        name: "tick",
        what: "host reads while a guest runs",
        code: work_and_look,
        burn: WORK,
        c0: true,
        act: Vcpu::resume,
        runs: 1,
        boundaries: 500,
        stride: 1,
    },
    Action {
        name: "steal",
        what: "two vCPUs that take turns",
        code: work_and_look,
        burn: WORK,
        c0: true,
        act: steal,
        runs: 2,
        boundaries: 7_000,
        stride: 13,
    },
    Action {
        name: "get",
        what: "KVM_GET_MSRS",
        code: look,
        burn: BURN,
        c0: true,
        act: |vcpu| vcpu.pair().map(drop),
        runs: 0,
        boundaries: 100,
        stride: 1,
    },
    Action {
        name: "set",
        what: "KVM_SET_MSRS",
        code: look,
        burn: BURN,
        c0: false,
        act: |vcpu| vcpu.set_pair(vcpu.pair()?),
        runs: 0,
        boundaries: 300,
        stride: 1,
    },
    Action {
        name: "read",
        what: "a host read",
        code: look,
        burn: BURN,
        c0: true,
        act: |_| Ok(Msrs::open(0)?.error().map(|_| ())?),
        runs: 0,
        boundaries: 25,
        stride: 1,
    },
];

/// Runs beside another vCPU on the same CPU.
fn steal(vcpu: &mut Vcpu) -> Result<()> {
    let guest = Guest::new(work_and_look())?;
    let mut other = guest.vcpu(0)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let runner = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                other.resume()?;
            }
            Ok(())
        });
        let first = vcpu.resume();
        let second = vcpu.resume();
        stop.store(true, Ordering::Relaxed);
        runner.join().unwrap()?;
        first.and(second)
    })
}

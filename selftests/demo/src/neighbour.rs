// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Another VM on the same CPU, with as good a claim to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

use anyhow::Result;
use harness::guest::Guest;
use harness::{cpu, guest_code};

use crate::CPU;

guest_code! {
    /// Stops every millisecond, to see whether it should go on.
    burn:
        "2:"
        "burn 200000"
        "exit"
        "jmp 2b"
}

/// A VM that is busy until this is dropped.
pub struct Neighbour {
    enough: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Neighbour {
    pub fn start() -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let enough = enough.clone();
            move || run(&enough)
        });
        Neighbour {
            enough,
            thread: Some(thread),
        }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.enough.store(true, Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if !matches!(ended, Some(Ok(Ok(())))) {
            println!("The neighbour did not run: {ended:?}");
        }
    }
}

fn run(enough: &AtomicBool) -> Result<()> {
    cpu::pin(CPU)?;
    let guest = Guest::new(burn())?;
    let mut vcpu = guest.vcpu(0)?;
    while !enough.load(Relaxed) {
        vcpu.resume()?;
    }
    Ok(())
}

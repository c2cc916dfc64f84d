// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The I/O ports that a Linux with a serial console needs.

use std::io::{Stdout, stdout};
use std::ops::ControlFlow;
use std::rc::Rc;

use anyhow::{Result, anyhow};
use kvm_ioctls::VmFd;
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial, SerialState};

const COM1: u16 = 0x3f8;
const COM1_END: u16 = 0x3ff;
const COM1_IRQ: u32 = 4;
const KEYBOARD_COMMAND: u16 = 0x64;
const KEYBOARD_RESET: u8 = 0xfe;

/// An edge on an ISA interrupt line.
struct Irq {
    vm: Rc<VmFd>,
    line: u32,
}

impl Trigger for Irq {
    type E = kvm_ioctls::Error;

    fn trigger(&self) -> Result<(), Self::E> {
        self.vm.set_irq_line(self.line, true)?;
        self.vm.set_irq_line(self.line, false)
    }
}

/// COM1 and the reset of the keyboard controller; nothing at other ports.
pub struct Ports {
    com1: Serial<Irq, NoEvents, Stdout>,
}

impl Ports {
    pub fn new(vm: Rc<VmFd>) -> Self {
        Ports {
            com1: Serial::new(Irq { vm, line: COM1_IRQ }, stdout()),
        }
    }

    /// All that there is to save.
    pub fn state(&self) -> SerialState {
        self.com1.state()
    }

    /// The ports of a VM that goes on from a state that was saved.
    pub fn restore(vm: Rc<VmFd>, state: &SerialState) -> Result<Self> {
        let irq = Irq { vm, line: COM1_IRQ };
        let com1 = Serial::from_state(state, irq, NoEvents, stdout())
            .map_err(|error| anyhow!("serial console: {error:?}"))?;
        Ok(Ports { com1 })
    }

    /// The guest's OUT; breaks if it asks for a reset.
    pub fn write(&mut self, port: u16, data: &[u8]) -> Result<ControlFlow<()>> {
        match (port, data) {
            (COM1..=COM1_END, &[byte]) => self
                .com1
                .write((port - COM1) as u8, byte)
                .map_err(|error| anyhow!("serial console: {error:?}"))?,
            (KEYBOARD_COMMAND, &[KEYBOARD_RESET]) => return Ok(ControlFlow::Break(())),
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The guest's IN.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        match (port, data) {
            (COM1..=COM1_END, [byte]) => *byte = self.com1.read((port - COM1) as u8),
            // Its buffers are empty, so that it takes commands.
            (KEYBOARD_COMMAND, [byte]) => *byte = 0,
            (_, data) => data.fill(0xff),
        }
    }
}

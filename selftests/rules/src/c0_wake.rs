// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule guest-mperf, and all that ends a HLT which KVM handles: timer, IPI, NMI,
//! MSI, irqfd, and the kick of another vCPU that hands it a lock (KVM_HC_KICK_CPU). Only the time awake counts, whether the host's CPU sleeps
//! meanwhile or polls.
//!
//! Bound: what is C0 of one HLT is the way out to KVM and, woken up, back in,
//! fewer than 15,000 instructions at up to 4 ticks; measured are 5,000 to 32,000
//! ticks. The HLTs are at least three times as long as the bound.

use std::fs;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::cpu::Alone;
use harness::guest::{Guest, MSI_ADDRESS, MSI_NMI, TIMER_VECTOR, Vcpu};
use harness::module::Module;
use harness::oracle::{RATIO_ONE, Ratio, THIS_CPU};
use harness::{Pair, guest_code, kernel, ktap, note, oracle};
use kvm_bindings::{
    KVM_CAP_HALT_POLL, KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_enable_cap, kvm_irq_routing_entry,
    kvm_regs,
};
use vmm_sys_util::eventfd::EventFd;

const C0_BOUND: u64 = 60_000;

const FIXED: u32 = TIMER_VECTOR as u32;

guest_code! {
    /// Exits once, so that all pages are there. RDI is an interrupt command to
    /// send, 0 to kick the vCPU with APIC ID 0, or, from 2^32 on, how often (upper half) to sleep until the APIC
    /// timer fires, as many of its ticks later as the lower half says; after 0
    /// ticks it does not fire. TSC and pair before are in R10, R8 and R9, and
    /// after in R13, R11 and R12.
    send_or_sleep:
        "cli"
        "timer_one_shot"
        "exit"
        "mov rsi, rdi"
        "shr rsi, 32"
        "jz 3f"
        "mov edi, edi"
        "rdtsc64 r10"
        "rdpair r8, r9"
        "2:"
        "sleep rdi"
        "dec rsi"
        "jnz 2b"
        "rdtsc64 r13"
        "rdpair r11, r12"
        "exit"
        "3:"
        "test edi, edi"
        "jz 4f"
        "wrmsr64 0x830, rdi"    // interrupt command
        "exit"
        "4:"
        "mov eax, 5"            // KVM_HC_KICK_CPU
        "xor ebx, ebx"
        "xor ecx, ecx"
        "vmcall"                // KVM makes it AMD's VMMCALL where it has to
        "mov r14, rax"
        "exit"
}

fn sleep(times: u64, microseconds: u64) -> u64 {
    (times << 32) | (microseconds * 1000)
}

struct Setup {
    guest: Guest,
    sleeper: Vcpu,
    sender: Vcpu,
    _ratio: Ratio,
    _module: Module,
    _alone: Alone,
}

/// A VM for which the host polls up to `poll_us` microseconds before it sleeps.
fn prepare(poll_us: u64) -> Result<Setup> {
    oracle::require()?;
    let alone = Alone::on(0)?;
    let module = Module::loaded()?;
    let ratio = Ratio::set(THIS_CPU, RATIO_ONE);

    let guest = Guest::with_irqchip(send_or_sleep())?;
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_HALT_POLL,
        ..Default::default()
    };
    cap.args[0] = poll_us * 1000;
    guest.vm().enable_cap(&cap).context("KVM_CAP_HALT_POLL")?;

    let (mut sleeper, mut sender) = (guest.vcpu(0)?, guest.vcpu(1)?);
    sleeper.resume()?;
    sender.resume()?;
    Ok(Setup {
        guest,
        sleeper,
        sender,
        _ratio: ratio,
        _module: module,
        _alone: alone,
    })
}

/// Checks what a guest saw that slept `times`, `microseconds` in all.
fn expect_slept(regs: &kvm_regs, times: u64, microseconds: u64) -> Result<()> {
    ensure!(regs.r15 == 0, "{} accesses faulted", regs.r15);
    let advance = Pair {
        aperf: regs.r11,
        mperf: regs.r12,
    } - Pair {
        aperf: regs.r8,
        mperf: regs.r9,
    };
    let elapsed = regs.r13 - regs.r10;
    let asleep = oracle::require()?.tsc_hz / 1_000_000 * microseconds;
    note!(
        "{times} times asleep, TSC {elapsed}: a HLT costs {} ticks of MPERF, {} of APERF",
        advance.mperf / times,
        advance.aperf / times
    );
    ensure!(kernel::cost(elapsed) >= asleep, "the guest did not sleep");
    for counter in [advance.mperf, advance.aperf] {
        ensure!(
            (1..=times * kernel::cost(C0_BOUND)).contains(&counter),
            "{advance}, while the guest slept"
        );
    }
    Ok(())
}

/// How often polling was worth it, in all VMs.
fn successful_polls() -> Result<u64> {
    let path = "/sys/kernel/debug/kvm/halt_successful_poll";
    let count = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(count.trim().parse()?)
}

/// KVM polls only while no other task wants the CPU. Lets those finish that read
/// what this program has printed.
fn wait_for_quiet() -> Result<()> {
    loop {
        thread::sleep(Duration::from_millis(10));
        let load = fs::read_to_string("/proc/loadavg")?;
        let running = load.split([' ', '/']).nth(3).context("/proc/loadavg")?;
        if running == "1" {
            return Ok(());
        }
    }
}

fn by_timer(poll_us: u64) -> Result<()> {
    const TIMES: u64 = 16;
    const EACH_US: u64 = 1000;
    let Setup { sleeper, .. } = &mut prepare(poll_us)?;
    sleeper.set_argument(sleep(TIMES, EACH_US))?;
    wait_for_quiet()?;

    let polls = successful_polls()?;
    let regs = sleeper.run()?;
    let polls = successful_polls()? - polls;

    note!("successful polls: {polls}");
    ensure!((polls > 0) == (poll_us > 0), "{polls} polls, not as asked");
    expect_slept(&regs, TIMES, TIMES * EACH_US)
}

/// Sleeps until `wake` makes `sender` or user space end that.
fn by(poll_us: u64, wake: impl FnOnce(&Guest, &mut Vcpu) -> Result<()>) -> Result<()> {
    const SLEEP: Duration = Duration::from_millis(3);
    let Setup {
        guest,
        sleeper,
        sender,
        ..
    } = &mut prepare(poll_us)?;
    sleeper.set_argument(sleep(1, 0))?;

    let regs = thread::scope(|scope| {
        let sleeper = scope.spawn(|| sleeper.run());
        thread::sleep(SLEEP);
        wake(guest, sender)?;
        sleeper.join().unwrap()
    })?;
    // The guest begins after this thread began to sleep.
    expect_slept(&regs, 1, SLEEP.as_micros() as u64 * 2 / 3)
}

fn send(command: u32) -> impl FnOnce(&Guest, &mut Vcpu) -> Result<()> {
    move |_, sender| {
        sender.set_argument(command.into())?;
        sender.resume()
    }
}

fn kick(_: &Guest, sender: &mut Vcpu) -> Result<()> {
    sender.set_argument(0)?;
    let error = sender.run()?.r14;
    ensure!(error == 0, "the hypercall returned {error:#x}");
    Ok(())
}

fn signal(data: u32) -> impl FnOnce(&Guest, &mut Vcpu) -> Result<()> {
    move |guest, _| guest.signal_msi(data)
}

fn irqfd(guest: &Guest, _: &mut Vcpu) -> Result<()> {
    const GSI: u32 = 24;
    let mut entry = kvm_irq_routing_entry {
        gsi: GSI,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi.address_lo = MSI_ADDRESS;
    entry.u.msi.data = FIXED;
    let routing = KvmIrqRouting::from_entries(&[entry])?;
    guest
        .vm()
        .set_gsi_routing(&routing)
        .context("KVM_SET_GSI_ROUTING")?;

    let event = EventFd::new(0)?;
    guest
        .vm()
        .register_irqfd(&event, GSI)
        .context("KVM_IRQFD")?;
    Ok(event.write(1)?)
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("by a timer", || by_timer(0)),
        ("by a timer, while polling", || by_timer(4000)),
        ("by another vCPU's IPI", || by(0, send(FIXED))),
        ("by another vCPU's IPI, while polling", || {
            by(10_000, send(FIXED))
        }),
        ("by another vCPU's NMI", || by(0, send(MSI_NMI))),
        ("by another vCPU's kick", || by(0, kick)),
        ("by another vCPU's kick, while polling", || by(10_000, kick)),
        ("by an MSI", || by(0, signal(FIXED))),
        ("by an NMI from user space", || by(0, signal(MSI_NMI))),
        ("by an irqfd", || by(0, irqfd)),
    ])
}

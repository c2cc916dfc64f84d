// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A vCPU that is saved and restored into another VM, on the same CPU or on
//! another, in the documented order: CPUID, MSRs, MP_STATE. All MSRs are carried
//! that KVM_GET_MSR_INDEX_LIST names, as a VMM does that has never heard of
//! these two.
//!
//! Bounds: exact for a vCPU that is restored halted. Else what the TSC advanced
//! since the restoration began, at ratio 1; and one switch for the ratio.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use harness::cpu::Alone;
use harness::guest::{Guest, Vcpu};
use harness::module::Module;
use harness::oracle::{RATIO_ONE, Ratio};
use harness::pair::{MSR_IA32_APERF, MSR_IA32_MPERF};
use harness::watch::watch;
use harness::{ONE_SWITCH, Pair, cpu, guest_code, ktap, note, oracle};
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, kvm_regs,
};

const KNOWN: Pair = Pair {
    aperf: 3 << 40,
    mperf: 5 << 40,
};

guest_code! {
    /// On each run, reads to R8 and R9, and later to R10 and R11.
    measure_on_each_run:
        "2:"
        "rdpair r8, r9"
        "burn 400000"
        "rdpair r10, r11"
        "exit"
        "jmp 2b"
}

/// A vCPU's state, as far as these tests need it.
struct Saved {
    cpuid: CpuId,
    msrs: Vec<(u32, u64)>,
    regs: kvm_regs,
    mp_state: u32,
}

impl Saved {
    fn of(guest: &Guest, vcpu: &mut Vcpu) -> Result<Self> {
        complete_io(vcpu)?;
        let list = guest
            .kvm()
            .get_msr_index_list()
            .context("KVM_GET_MSR_INDEX_LIST")?;
        let mut msrs = Vec::new();
        for &index in list.as_slice() {
            if let Some(value) = vcpu.msr(index)? {
                msrs.push((index, value));
            }
        }
        Ok(Saved {
            cpuid: vcpu
                .fd()
                .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
                .context("KVM_GET_CPUID2")?,
            msrs,
            regs: vcpu.regs()?,
            mp_state: vcpu.mp_state()?,
        })
    }

    fn pair(&self) -> Result<Pair> {
        let value = |msr| {
            let found = self.msrs.iter().find(|(index, _)| *index == msr);
            found
                .map(|(_, value)| *value)
                .with_context(|| format!("MSR {msr:#x} was not saved"))
        };
        Ok(Pair {
            aperf: value(MSR_IA32_APERF)?,
            mperf: value(MSR_IA32_MPERF)?,
        })
    }

    /// A vCPU `id` of `guest` with this state but MP_STATE.
    fn restore(&self, guest: &Guest, id: u8) -> Result<Vcpu> {
        let vcpu = guest.vcpu_with(id, &self.cpuid)?;
        for &(index, value) in &self.msrs {
            vcpu.set_msr(index, value)?;
        }
        vcpu.fd().set_regs(&self.regs).context("KVM_SET_REGS")?;
        Ok(vcpu)
    }
}

/// An OUT is complete, in RIP, only at the next KVM_RUN (KVM's API, "KVM_RUN").
fn complete_io(vcpu: &mut Vcpu) -> Result<()> {
    vcpu.fd_mut().set_kvm_immediate_exit(1);
    let error = vcpu.fd_mut().run().err().map(|error| error.errno());
    vcpu.fd_mut().set_kvm_immediate_exit(0);
    ensure!(error == Some(libc::EINTR), "KVM_RUN: {error:?}, not EINTR");
    Ok(())
}

fn prepare() -> Result<(Module, Guest)> {
    oracle::require()?;
    cpu::pin(0)?;
    let module = Module::loaded()?;
    Ok((module, Guest::with_irqchip(measure_on_each_run())?))
}

/// Moves a running guest to `cpu`, which has another frequency.
fn running(to: usize) -> Result<()> {
    const RATIO: u64 = RATIO_ONE * 3 / 4;
    let (_module, source) = prepare()?;
    let _ratio = Ratio::set(0, RATIO_ONE);
    let mut vcpu = source.vcpu(0)?;
    vcpu.set_pair(KNOWN)?;
    vcpu.run()?;
    let saved = Saved::of(&source, &mut vcpu)?;
    drop((vcpu, source));

    let _alone = Alone::on(to)?;
    let _ratio = Ratio::set(to as u64, RATIO);
    let target = Guest::with_irqchip(measure_on_each_run())?;
    let start = cpu::tsc();
    let mut vcpu = saved.restore(&target, 0)?;
    vcpu.set_mp_state(saved.mp_state)?;
    let regs = vcpu.run()?;
    let elapsed = cpu::tsc() - start;
    ensure!(regs.r15 == 0, "{} reads faulted", regs.r15);

    let first = Pair {
        aperf: regs.r8,
        mperf: regs.r9,
    };
    let advance = first - saved.pair()?;
    note!("first readings: {advance} more than saved, {elapsed} ticks after");
    ensure!(
        (1..=elapsed).contains(&advance.mperf) && (1..=advance.mperf).contains(&advance.aperf),
        "the pair does not go on from what was saved"
    );

    let measured = Pair {
        aperf: regs.r10,
        mperf: regs.r11,
    } - first;
    let expected = measured.mperf * RATIO / RATIO_ONE;
    note!("then {measured}: ratio {:.4}", measured.ratio());
    ensure!(
        measured.aperf.abs_diff(expected) <= ONE_SWITCH,
        "the ratio is not that of the new CPU"
    );
    Ok(())
}

fn to_another_cpu() -> Result<()> {
    cpu::require_two()?;
    running(1)
}

/// MP_STATE comes last, and tells only then that the vCPU was halted.
fn halted() -> Result<()> {
    let (_module, source) = prepare()?;
    let mut vcpu = source.vcpu(0)?;
    vcpu.set_halted(true)?;
    vcpu.set_pair(KNOWN)?;
    let saved = Saved::of(&source, &mut vcpu)?;
    ensure!(saved.mp_state == KVM_MP_STATE_HALTED, "not saved as halted");
    drop((vcpu, source));

    let target = Guest::with_irqchip(measure_on_each_run())?;
    let vcpu = saved.restore(&target, 0)?;
    cpu::spin(100_000);
    vcpu.set_mp_state(saved.mp_state)?;
    let pair = vcpu.pair()?;
    note!("saved {KNOWN}, restored {pair}");
    ensure!(pair == KNOWN, "MPERF ran by {}", (pair - KNOWN).mperf);
    watch("restored as halted", &vcpu)?.expect_still()?;

    vcpu.set_mp_state(KVM_MP_STATE_RUNNABLE)?;
    watch("woken up", &vcpu)?.expect_c0()
}

pub fn main() -> ExitCode {
    ktap::run(&[
        ("a running vCPU goes on in another VM", || running(0)),
        ("a running vCPU goes on on another CPU", to_another_cpu),
        ("a halted vCPU has exactly what was saved", halted),
    ])
}

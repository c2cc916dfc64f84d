// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! vCPUs that hop over CPUs, and what the pair of each has to keep to in every run.

use anyhow::{Context, Result, bail, ensure};
use harness::guest::{Guest, Vcpu};
use harness::oracle::{self, RATIO_ONE, THIS_CPU};
use harness::sample::{Distance, Sample, Sampler};
use harness::{Pair, UNFORESEEN, cpu, guest_code, note};
use kvm_ioctls::VcpuExit;

/// APERF ticks for each tick of the TSC, on all CPUs.
pub const RATIO: u64 = RATIO_ONE * 3 / 5;

/// What a run takes at least, in APERF ticks: those of the guest are few, but KVM_RUN is
/// some thousand instructions.
const RUN: u64 = 500;

/// From here on, reads are intercepted.
const HIGH: Pair = Pair {
    aperf: 1 << 62,
    mperf: 1 << 62,
};

/// How long the guest sleeps in each run: in ns, of which a tick of the TSC takes 5.
const SLEEP_NS: u64 = 200_000;
const SLEEP_TICKS: u64 = SLEEP_NS / 5;

guest_code! {
    halt_in_userspace:
        "2:"
        "hlt"
        "burn 500"
        "jmp 2b"
}

guest_code! {
    /// The timer of the local APIC ends each HLT, RDI ns later.
    halt_in_kernel:
        "cli"
        "timer_one_shot"
        "2:"
        "sleep rdi"
        "exit"
        "jmp 2b"
}

/// A vCPU between two of its runs, and what it has to keep to.
pub trait Life: Send {
    /// One KVM_RUN, and a look at its outcome.
    fn run(&mut self) -> Result<()>;

    /// After the last one: what holds for all of them together.
    fn end(&self) -> Result<()>;
}

/// What one KVM_RUN came to.
struct Run<T> {
    outcome: T,
    /// What the pair advanced by, from before to after.
    advance: Pair,
    /// TSC ticks, with those of the reading.
    elapsed: u64,
}

/// A vCPU whose pair is compared with what its CPU does.
struct Judged {
    vcpu: Vcpu,
    /// After the last run.
    last: Option<Pair>,
    runs: u64,
    shortest: u64,
    _guest: Guest,
}

impl Judged {
    fn new(vcpu: Vcpu, guest: Guest) -> Self {
        Judged {
            vcpu,
            last: None,
            runs: 0,
            shortest: u64::MAX,
            _guest: guest,
        }
    }

    /// Rules guest-aperf and guest-mperf for one KVM_RUN, for which the thread stays on its
    /// CPU: APERF advances in it only, and not more than the CPU's; MPERF by no less than
    /// belongs to that, and no more than the TSC.
    fn run<T>(&mut self, run: impl FnOnce(&mut Vcpu) -> Result<T>) -> Result<Run<T>> {
        let aperf = || oracle::truth(THIS_CPU).host.aperf;

        let start = cpu::tsc();
        let before = self.vcpu.pair()?;
        if let Some(last) = self.last {
            let advance = before.aperf.wrapping_sub(last.aperf);
            ensure!(advance == 0, "away, and APERF advanced by {advance}");
        }
        let from = aperf();
        let outcome = run(&mut self.vcpu)?;
        let most = aperf() - from;
        let after = self.vcpu.pair()?;
        let elapsed = cpu::tsc() - start;

        let advance = after - before;
        ensure!(
            (RUN..=most).contains(&advance.aperf),
            "APERF advanced by {}, that of the CPU by {most}",
            advance.aperf
        );
        let least = advance.aperf * RATIO_ONE / RATIO;
        ensure!(
            (least..=elapsed + 2 * UNFORESEEN).contains(&(advance.mperf + UNFORESEEN)),
            "{advance} in {elapsed} ticks"
        );
        self.last = Some(after);
        self.runs += 1;
        self.shortest = self.shortest.min(advance.aperf);
        Ok(Run {
            outcome,
            advance,
            elapsed,
        })
    }

    fn note(&self, what: &str) {
        let Judged { runs, shortest, .. } = self;
        note!("{what}: {runs} runs, the shortest of {shortest} APERF ticks");
    }
}

/// Never halts: its MPERF keeps its distance from the TSC.
pub struct Awake {
    judged: Judged,
    distance: Distance,
    /// VM exits that both reads take, at least.
    exits: u64,
}

impl Awake {
    pub fn new() -> Result<Self> {
        Self::with(None)
    }

    /// Its reads are intercepted.
    pub fn intercepted() -> Result<Self> {
        Self::with(Some(HIGH))
    }

    fn with(pair: Option<Pair>) -> Result<Self> {
        let Sampler { mut vcpu, guest } = Sampler::new()?;
        if let Some(pair) = pair {
            vcpu.set_pair(pair)?;
        }
        let distance = Distance::of(&Sample::take(&mut vcpu)?);
        Ok(Awake {
            judged: Judged::new(vcpu, guest),
            distance,
            exits: if pair.is_some() { 2 } else { 0 },
        })
    }
}

impl Life for Awake {
    fn run(&mut self) -> Result<()> {
        let sample = self.judged.run(Sample::take)?.outcome;
        self.distance.narrow(&sample);
        let error = self.distance.error();
        ensure!(
            error <= UNFORESEEN,
            "MPERF strayed from the TSC by {error} ticks"
        );
        ensure!(sample.exits >= self.exits, "{} exits", sample.exits);
        Ok(())
    }

    fn end(&self) -> Result<()> {
        self.judged.note("awake");
        note!("MPERF strayed from the TSC by {}", self.distance.error());
        Ok(())
    }
}

/// Halts in user space: its pair stands still until the next KVM_RUN.
pub struct Halting {
    judged: Judged,
}

impl Halting {
    pub fn new() -> Result<Self> {
        let guest = Guest::new(halt_in_userspace())?;
        Ok(Halting {
            judged: Judged::new(guest.vcpu(0)?, guest),
        })
    }
}

impl Life for Halting {
    fn run(&mut self) -> Result<()> {
        if let Some(halted) = self.judged.last {
            let now = self.judged.vcpu.pair()?;
            ensure!(now == halted, "halted, and advanced by {}", now - halted);
        }
        self.judged.run(|vcpu| {
            match vcpu.fd_mut().run().context("KVM_RUN")? {
                VcpuExit::Hlt => {}
                exit => bail!("guest stopped with {exit:?}"),
            }
            Ok(())
        })?;
        Ok(())
    }

    fn end(&self) -> Result<()> {
        self.judged.note("halting");
        Ok(())
    }
}

/// Halts in the kernel, in each KVM_RUN.
pub struct Sleeping {
    judged: Judged,
    /// TSC ticks of all runs that are not in MPERF.
    slept: u64,
}

impl Sleeping {
    pub fn new() -> Result<Self> {
        let guest = Guest::with_irqchip(halt_in_kernel())?;
        let vcpu = guest.vcpu(0)?;
        vcpu.set_argument(SLEEP_NS)?;
        Ok(Sleeping {
            judged: Judged::new(vcpu, guest),
            slept: 0,
        })
    }
}

impl Life for Sleeping {
    fn run(&mut self) -> Result<()> {
        let run = self.judged.run(Vcpu::resume)?;
        self.slept += run.elapsed.saturating_sub(run.advance.mperf);
        Ok(())
    }

    /// Some of a sleep may be over before the HLT, if the host has other things to do. But
    /// not of most of them.
    fn end(&self) -> Result<()> {
        self.judged.note("sleeping");
        let Judged { runs, .. } = self.judged;
        let average = self.slept / runs.max(1);
        note!("MPERF stood still for {average} ticks of each {SLEEP_TICKS}");
        ensure!(average >= SLEEP_TICKS / 2, "MPERF goes on in HLT");
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The logic of `switch/` on the real counters, as the kernel calls it.

use aperfmperf_hal::{
    Backend,
    Counters,
    CpuSlot,
    Msr,
    PerCpu,
    ThisCpu, //
};
use kernel::prelude::*;

use crate::switch::{
    Counter,
    Cpu,
    Event,
    Hardware,
    Observer,
    Permits,
    Sleeps,
    State,
    Vcpu, //
};

aperfmperf_hal::per_cpu! {
    /// What each CPU's MSRs hold.
    static CPUS: CpuSlot<Machine> = CpuSlot::new(Cpu::new());
}

aperfmperf_hal::export_host_counters!(Machine);

/// Closed by a CPU whose MPERF does not tick with its TSC.
static PERMITS: Permits = Permits::new();

/// The host's sleeps while the module was loaded.
static SLEEPS: Sleeps = Sleeps::new();

/// How guest reads are served on this host, for the log.
pub(crate) fn how_served() -> &'static str {
    if PERMITS.closed() {
        "intercepted"
    } else {
        "passed through"
    }
}

/// The counters of the CPU that executes.
struct Native(Counters);

impl Observer for Native {
    #[inline(always)]
    fn observe(&self, _event: Event) {}
}

impl Hardware for Native {
    #[inline(always)]
    fn tsc(&self) -> u64 {
        self.0.tsc()
    }

    #[inline(always)]
    fn read(&self, counter: Counter) -> u64 {
        self.0.read(counter.into())
    }

    #[inline(always)]
    fn write(&self, counter: Counter, value: u64) {
        self.0.write(counter.into(), value)
    }
}

impl From<Counter> for Msr {
    #[inline(always)]
    fn from(counter: Counter) -> Self {
        match counter {
            Counter::Aperf => Self::Aperf,
            Counter::Mperf => Self::Mperf,
        }
    }
}

impl From<Msr> for Counter {
    #[inline(always)]
    fn from(msr: Msr) -> Self {
        match msr {
            Msr::Aperf => Self::Aperf,
            Msr::Mperf => Self::Mperf,
        }
    }
}

/// The machine that the module runs on.
pub(crate) struct Machine;

type Here<'a> = ThisCpu<'a, Machine>;

fn native(here: &Here<'_>) -> Native {
    Native(here.counters())
}

/// After an operation that may have loaded guest values.
fn keep_user_isolation(here: &Here<'_>) {
    if here.state().state() != State::Host {
        here.restore_on_user_return();
    }
}

impl Backend for Machine {
    type Cpu = Cpu;
    type Vcpu = Vcpu;

    fn cpus() -> &'static PerCpu<CpuSlot<Self>> {
        &CPUS
    }

    fn online(here: &Here<'_>) -> Result {
        if here.state().calibrate(&native(here)) {
            return Ok(());
        }
        let known = PERMITS.closed();
        PERMITS.close().map_err(|vcpus| {
            pr_err!(
                "this CPU stays offline: MPERF does not tick with the TSC, and {vcpus} vCPUs read it\n"
            );
            // Not EBUSY, on which the kernel tries again and again.
            EOPNOTSUPP
        })?;
        if !known {
            pr_warn!("MPERF does not tick with the TSC here: all guest reads are intercepted\n");
        }
        Ok(())
    }

    fn offline(here: &Here<'_>) {
        here.state().leave(&native(here));
    }

    fn host_read(cpu: &Cpu, counters: Counters, msr: Msr) -> u64 {
        cpu.host_read(&Native(counters), msr.into())
    }

    fn host_write(here: &Here<'_>, msr: Msr, value: u64) {
        here.state().host_write(&native(here), msr.into(), value);
    }

    fn host_restore(here: &Here<'_>) {
        here.state().restore(&native(here));
    }

    fn sleep_begins() {
        SLEEPS.begin();
    }

    fn sleep_ends() {
        SLEEPS.end();
    }

    fn vcpu_create() -> Vcpu {
        Vcpu::new(PERMITS.issue())
    }

    fn load(here: &Here<'_>, vcpu: &mut Vcpu) {
        let hw = native(here);
        here.state().forget_sleep(&hw, vcpu, &SLEEPS);
        here.state().load(&hw, vcpu);
        keep_user_isolation(here);
    }

    fn put(here: &Here<'_>, vcpu: &mut Vcpu) {
        here.state().put(&native(here), vcpu);
    }

    fn set_c0(here: &Here<'_>, vcpu: &mut Vcpu, c0: bool) {
        here.state().set_c0(&native(here), vcpu, c0);
        keep_user_isolation(here);
    }

    fn read(here: &Here<'_>, vcpu: &mut Vcpu, msr: Msr) -> u64 {
        let hw = native(here);
        here.state().forget_sleep(&hw, vcpu, &SLEEPS);
        let value = here.state().guest_read(&hw, vcpu, msr.into());
        keep_user_isolation(here);
        value
    }

    fn write(here: &Here<'_>, vcpu: &mut Vcpu, msr: Msr, value: u64) {
        here.state()
            .guest_write(&native(here), vcpu, msr.into(), value);
        keep_user_isolation(here);
    }

    fn configure(here: &Here<'_>, vcpu: &mut Vcpu, ratio: u64, bits: u8, intercept: bool) {
        here.state()
            .configure(&native(here), vcpu, ratio, bits, intercept);
        keep_user_isolation(here);
    }

    fn forget_pause(here: &Here<'_>, vcpu: &mut Vcpu) {
        here.state().forget_pause(&native(here), vcpu);
    }

    fn passthrough(vcpu: &Vcpu) -> bool {
        vcpu.passthrough()
    }
}

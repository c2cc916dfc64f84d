// SPDX-License-Identifier: GPL-2.0

//! What KVM and the kernel call, carried out by the logic of `switch/`.

use core::sync::atomic::{
    AtomicBool,
    AtomicU32,
    Ordering::Relaxed, //
};

use aperfmperf_hal::{
    debugfs::{
        Directory,
        File,
        View, //
    },
    Backend,
    Counters,
    CpuSlot,
    Msr,
    PerCpu,
    ThisCpu, //
};
use kernel::{
    current,
    fmt,
    prelude::*, //
};

use crate::{
    native::{
        Native,
        Trial, //
    },
    observe::{
        CpuStats,
        VcpuStats, //
    },
    switch::{
        Calibration,
        Cpu,
        Permits,
        Sleeps,
        State,
        Vcpu, //
    },
};

aperfmperf_hal::per_cpu! {
    /// What each CPU's MSRs hold.
    static CPUS: CpuSlot<Machine> = CpuSlot::new(HostCpu {
        cpu: Cpu::new(),
        stats: CpuStats::new(),
        leaving: AtomicBool::new(false),
    });
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

/// Numbers vCPUs.
static VCPUS: AtomicU32 = AtomicU32::new(0);

/// A CPU, and what it has done.
pub(crate) struct HostCpu {
    cpu: Cpu,
    stats: CpuStats,
    /// It goes offline, or the machine down: a vCPU that still runs here leaves nothing behind.
    leaving: AtomicBool,
}

/// A vCPU, and what it has done.
pub(crate) struct GuestCpu {
    vcpu: Vcpu,
    stats: File<VcpuStats>,
}

/// The file of a CPU.
pub(crate) struct CpuFile(&'static HostCpu);

impl CpuFile {
    /// The files of all CPUs, in `directory`. Process context, may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn create_all(directory: &Directory) -> Result<KVec<File<Self>>> {
        let mut files = KVec::new();
        for (number, slot) in CPUS.all() {
            let file = File::create(directory, fmt!("cpu{number}"), Self(&slot.state))?;
            files.push(file, GFP_KERNEL)?;
        }
        Ok(files)
    }
}

impl View for CpuFile {
    type OwnerModule = crate::LocalModule;
}

impl fmt::Display for CpuFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostCpu { cpu, stats, .. } = self.0;
        let state = match cpu.state() {
            State::Host => "host",
            State::Live => "live",
            State::Stale => "stale",
        };
        let offset = cpu.offset();
        writeln!(f, "state {state}")?;
        writeln!(f, "aperf_offset {}", offset.aperf as i64)?;
        writeln!(f, "mperf_offset {}", offset.mperf as i64)?;
        fmt::Display::fmt(stats, f)
    }
}

/// The machine that the module runs on.
pub(crate) struct Machine;

type Here<'a> = ThisCpu<'a, Machine>;

/// Carries out `work` of the host's on its CPU.
#[inline(always)]
fn on_host<R>(here: &Here<'_>, work: impl FnOnce(&Cpu, &Native<'_>) -> R) -> R {
    let HostCpu { cpu, stats, .. } = here.state();
    let native = Native {
        counters: here.counters(),
        cpu: stats,
        vcpu: None,
    };
    work(cpu, &native)
}

/// Carries out `work` for a vCPU on this CPU.
#[inline(always)]
fn on_guest<R>(
    here: &Here<'_>,
    guest: &mut GuestCpu,
    work: impl FnOnce(&Cpu, &Native<'_>, &mut Vcpu) -> R,
) -> R {
    let HostCpu { cpu, stats, .. } = here.state();
    let native = Native {
        counters: here.counters(),
        cpu: stats,
        vcpu: Some(&guest.stats),
    };
    work(cpu, &native, &mut guest.vcpu)
}

/// After an operation that may have loaded guest values.
fn keep_user_isolation(here: &Here<'_>) {
    if here.state().cpu.state() != State::Host {
        here.restore_on_user_return();
    }
}

impl Backend for Machine {
    type Cpu = HostCpu;
    type Vcpu = GuestCpu;
    type Calibration = Calibration;

    fn cpus() -> &'static PerCpu<CpuSlot<Self>> {
        &CPUS
    }

    fn calibrate(here: &Here<'_>) -> Calibration {
        here.state().leaving.store(false, Relaxed);
        on_host(here, |cpu, native| cpu.calibrate(native, &Trial(native)))
    }

    fn online(calibration: Calibration) -> Result {
        match calibration {
            Calibration::Steady => return Ok(()),
            Calibration::Unsteady => {}
            Calibration::ReadOnly => {
                pr_err!("this CPU does not take writes to APERF and MPERF (a hypervisor's?)\n");
                return Err(EOPNOTSUPP);
            }
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
        here.state().leaving.store(true, Relaxed);
        on_host(here, |cpu, native| cpu.leave(native));
    }

    fn host_read(host: &HostCpu, counters: Counters, msr: Msr) -> u64 {
        let native = Native {
            counters,
            cpu: &host.stats,
            vcpu: None,
        };
        host.cpu.host_read(&native, msr.into())
    }

    fn host_write(here: &Here<'_>, msr: Msr, value: u64) {
        on_host(here, |cpu, native| {
            cpu.host_write(native, msr.into(), value)
        });
    }

    fn host_restore(here: &Here<'_>) {
        on_host(here, |cpu, native| cpu.restore(native));
    }

    fn resume(here: &Here<'_>) {
        on_host(here, |cpu, native| cpu.resume(native));
    }

    fn sleep_begins() {
        SLEEPS.begin();
    }

    fn sleep_ends() {
        SLEEPS.end();
    }

    fn shutdown() {
        for (_, slot) in CPUS.all() {
            slot.state.leaving.store(true, Relaxed);
        }
    }

    fn vcpu_create(directory: &Directory) -> Result<GuestCpu> {
        let vcpu = Vcpu::new(PERMITS.issue());
        let number = VCPUS.fetch_add(1, Relaxed);
        let creator = current!().group_leader().pid();
        let stats = VcpuStats::new(number, creator, vcpu.mode());
        Ok(GuestCpu {
            vcpu,
            stats: File::create(directory, fmt!("vcpu{number}"), stats)?,
        })
    }

    fn load(here: &Here<'_>, guest: &mut GuestCpu) {
        on_guest(here, guest, |cpu, native, vcpu| {
            cpu.forget_sleep(native, vcpu, &SLEEPS);
            cpu.load(native, vcpu);
        });
        keep_user_isolation(here);
    }

    fn put(here: &Here<'_>, guest: &mut GuestCpu) {
        on_guest(here, guest, |cpu, native, vcpu| cpu.put(native, vcpu));
        // KVM lets vCPUs run until its own notice of either, which comes later.
        if here.state().leaving.load(Relaxed) {
            here.restore();
        }
    }

    fn set_c0(here: &Here<'_>, guest: &mut GuestCpu, c0: bool) {
        on_guest(here, guest, |cpu, native, vcpu| {
            cpu.set_c0(native, vcpu, c0)
        });
        keep_user_isolation(here);
    }

    fn read(here: &Here<'_>, guest: &mut GuestCpu, msr: Msr) -> u64 {
        guest.stats.count_read();
        let value = on_guest(here, guest, |cpu, native, vcpu| {
            cpu.forget_sleep(native, vcpu, &SLEEPS);
            cpu.guest_read(native, vcpu, msr.into())
        });
        keep_user_isolation(here);
        value
    }

    fn write(here: &Here<'_>, guest: &mut GuestCpu, msr: Msr, value: u64) {
        guest.stats.count_write();
        on_guest(here, guest, |cpu, native, vcpu| {
            cpu.guest_write(native, vcpu, msr.into(), value)
        });
        keep_user_isolation(here);
    }

    fn configure(here: &Here<'_>, guest: &mut GuestCpu, ratio: u64, bits: u8, intercept: bool) {
        on_guest(here, guest, |cpu, native, vcpu| {
            cpu.configure(native, vcpu, ratio, bits, intercept)
        });
        keep_user_isolation(here);
    }

    fn forget_pause(here: &Here<'_>, guest: &mut GuestCpu) {
        on_guest(here, guest, |cpu, native, vcpu| {
            cpu.forget_pause(native, vcpu)
        });
    }

    fn passthrough(guest: &GuestCpu) -> bool {
        guest.vcpu.passthrough()
    }
}

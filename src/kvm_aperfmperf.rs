// SPDX-License-Identifier: GPL-2.0

//! Guest APERF/MPERF without VM exits.
//!
//! - `switch/`: what is in the MSRs, and how it changes. Pure logic.
//! - `native`: the real counters beneath it.
//! - `glue`: what KVM and the kernel call, carried out by that logic.
//! - `grant`: a VM gets a pair although its VMM does not ask for one.
//! - `observe`: what it tells an administrator.
//! - here: the module's life.
//!
//! Everything unsafe is in the crate `aperfmperf_hal`, in `rust/`.

#![forbid(unsafe_code)]

mod glue;
mod grant;
mod native;
mod observe;
mod switch;

use aperfmperf_hal::{
    debugfs::{
        Directory,
        File, //
    },
    Counters,
    Grant,
    Hooks,
    Hotplug,
    Prepared,
    SleepNotifier,
    Syscore, //
};
use kernel::prelude::*;

use glue::{
    CpuFile,
    Machine, //
};
use grant::Granted;

module! {
    type: AperfMperf,
    name: "kvm_aperfmperf",
    authors: ["kvm-aperfmperf developers"],
    description: "Guest APERF/MPERF without VM exits",
    license: "GPL v2",
}

/// The loaded module.
///
/// Dropped in this order: the host values come back while readers still use the offsets, and only
/// then do readers go back to RDMSR. No vCPU can come in between: a module that is being removed
/// can no longer be pinned.
struct AperfMperf {
    _hotplug: Hotplug<Machine>,
    _sleep: SleepNotifier<Machine>,
    _syscore: Syscore<Machine>,
    _hooks: Hooks<Machine>,
    _grant: Grant<Granted>,
    _files: KVec<File<CpuFile>>,
    _farewell: Farewell,
}

impl kernel::Module for AperfMperf {
    /// The last step that can fail is the one that lets vCPUs be created, so that no guest value
    /// has been in the MSRs when the steps before it are undone. Each undoes itself when dropped.
    /// Files come late: one that is open does not keep the code of a module that fails to load.
    fn init(module: &'static ThisModule) -> Result<Self> {
        let counters = Counters::probe().map_err(|missing| {
            pr_err!(
                "the host lacks {}: not supported here (under a hypervisor, let it pass through)\n",
                missing.0
            );
            ENODEV
        })?;
        let directory = Directory::create(c"kvm_aperfmperf")?;
        let hooks = Prepared::new(counters, module, &directory)?;
        let hotplug = Hotplug::install(counters)?;
        let sleep = SleepNotifier::register()?;
        let syscore = Syscore::register(counters)?;
        let files = CpuFile::create_all(&directory)?;
        let grant = grant::offer()?;
        let hooks = hooks.register().inspect_err(|error| {
            if *error == EBUSY {
                pr_err!("another module has taken the counters\n");
            }
        })?;
        pr_info!("loaded; guest reads are {}\n", glue::how_served());
        Ok(Self {
            _hotplug: hotplug,
            _sleep: sleep,
            _syscore: syscore,
            _hooks: hooks,
            _grant: grant,
            _files: files,
            _farewell: Farewell,
        })
    }
}

/// Says goodbye when everything else is gone.
struct Farewell;

impl Drop for Farewell {
    fn drop(&mut self) {
        pr_info!("unloaded; all CPUs have their host values\n");
    }
}

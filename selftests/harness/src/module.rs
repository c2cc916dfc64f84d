// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Loading and unloading of the kernel module under test.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::kernel;
use crate::log::Tail;

/// The module's name.
pub const NAME: &CStr = c"kvm_aperfmperf";
const FILE: &str = "/lib/modules/kvm_aperfmperf.ko";
const SYSFS: &str = "/sys/module/kvm_aperfmperf";

/// Whether the module is loaded.
pub fn is_loaded() -> bool {
    Path::new(SYSFS).exists()
}

/// How many vCPUs pin the module, as an administrator sees it.
pub fn users() -> Result<u64> {
    let users = fs::read_to_string(format!("{SYSFS}/refcnt")).context("refcnt")?;
    Ok(users.trim().parse()?)
}

/// Loads the module: finit_module(2).
///
/// # Errors
///
/// Those of finit_module(2), among them `ENOEXEC` if the kernel lacks the
/// project's patches.
pub fn insert() -> io::Result<()> {
    insert_file(FILE, c"")
}

fn insert_file(path: &str, parameters: &CStr) -> io::Result<()> {
    let file = File::open(path)?;
    let fd = file.as_raw_fd();
    // SAFETY: The parameter string is NUL-terminated.
    let ret = unsafe { libc::syscall(libc::SYS_finit_module, fd, parameters.as_ptr(), 0) };
    if ret == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Fails unless the module refuses to load on this machine, and says that `reason`.
pub fn expect_refusal(reason: &str) -> Result<()> {
    let mut tail = Tail::new()?;
    let error = insert().err().and_then(|error| error.raw_os_error());
    let log = tail.read()?;
    ensure!(
        error == Some(libc::ENODEV),
        "loading: {error:?}, not ENODEV"
    );
    ensure!(!is_loaded(), "it is half loaded");
    ensure!(
        log.contains(&format!("kvm_aperfmperf: {reason}")),
        "it does not say why: {log}"
    );
    kernel::expect_no_warning()
}

/// Unloads the module: delete_module(2).
///
/// # Errors
///
/// `EAGAIN` while a VM uses the module.
pub fn remove() -> io::Result<()> {
    remove_named(NAME)
}

fn remove_named(name: &CStr) -> io::Result<()> {
    // SAFETY: The name is NUL-terminated.
    let ret = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) };
    if ret == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The module as a test needs it; dropping this brings back what was.
#[must_use]
pub struct Module {
    was_loaded: bool,
}

impl Module {
    /// Sees to it that the module is loaded.
    pub fn loaded() -> Result<Self> {
        let module = Module {
            was_loaded: is_loaded(),
        };
        if !module.was_loaded {
            insert().with_context(|| format!("load {FILE}"))?;
        }
        Ok(module)
    }

    /// Sees to it that the module is not loaded.
    pub fn unloaded() -> Result<Self> {
        let module = Module {
            was_loaded: is_loaded(),
        };
        if module.was_loaded {
            remove().with_context(|| format!("unload {NAME:?}"))?;
        }
        Ok(module)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let restored = match (self.was_loaded, is_loaded()) {
            (true, false) => insert(),
            (false, true) => remove(),
            _ => Ok(()),
        };
        if let Err(error) = restored {
            println!("# {NAME:?} is not as it was before the test: {error}");
        }
    }
}

/// The module loaded anew, now and when this is dropped: what it found out about the CPUs
/// in between is forgotten.
#[must_use]
pub struct Anew(());

impl Anew {
    pub fn loaded() -> Result<Self> {
        if is_loaded() {
            remove().with_context(|| format!("unload {NAME:?}"))?;
        }
        insert().with_context(|| format!("load {FILE}"))?;
        Ok(Anew(()))
    }
}

impl Drop for Anew {
    fn drop(&mut self) {
        if let Err(error) = remove().and_then(|()| insert()) {
            println!("# {NAME:?} is not loaded anew: {error}");
        }
    }
}

/// One of the tests' own modules, until this is dropped. The module under test must be
/// loaded for longer.
#[must_use]
pub struct Helper(&'static CStr);

impl Helper {
    /// nmi_reader.ko, which reads the host pair in each NMI.
    pub fn nmi_reader() -> Result<Self> {
        Self::load(c"nmi_reader")
    }

    /// msr_helpers.ko, for [`Way::OneCpu`](crate::msr_device::Way::OneCpu) and others.
    pub fn msr_helpers() -> Result<Self> {
        Self::load(c"msr_helpers")
    }

    fn load(name: &'static CStr) -> Result<Self> {
        let file = format!("/lib/modules/{}.ko", name.to_str()?);
        insert_file(&file, c"").with_context(|| format!("load {file}"))?;
        Ok(Helper(name))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Err(error) = remove_named(self.0) {
            println!("# {:?} stays: {error}", self.0);
        }
    }
}

/// kvm-amd.ko that does not scale a guest's TSC, until this is dropped. There are no VMs
/// at both times.
#[must_use]
pub struct KvmWithoutTscScaling(());

const KVM_AMD: &str = "/lib/modules/kvm-amd.ko";

impl KvmWithoutTscScaling {
    pub fn loaded() -> Result<Self> {
        remove_named(c"kvm_amd").context("unload kvm_amd")?;
        let kvm = KvmWithoutTscScaling(());
        insert_file(KVM_AMD, c"tsc_scaling=0").with_context(|| format!("load {KVM_AMD}"))?;
        Ok(kvm)
    }
}

impl Drop for KvmWithoutTscScaling {
    fn drop(&mut self) {
        let _ = remove_named(c"kvm_amd");
        if let Err(error) = insert_file(KVM_AMD, c"") {
            println!("# kvm_amd is not as it was before the test: {error}");
        }
    }
}

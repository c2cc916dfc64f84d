// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! kvm-intel, loaded with the mediated PMU or without.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};

const NAME: &CStr = c"kvm_intel";
const FILE: &str = "/lib/modules/kvm-intel.ko";

/// Whether kvm-intel gives guests a mediated PMU.
pub fn has_mediated_pmu() -> Result<bool> {
    let value = fs::read_to_string("/sys/module/kvm_intel/parameters/enable_mediated_pmu")
        .context("parameter enable_mediated_pmu of kvm-intel")?;
    Ok(value.trim() == "Y")
}

/// kvm-intel without the mediated PMU; dropping this brings it back.
#[must_use]
pub struct Legacy;

impl Legacy {
    /// Loads kvm-intel anew. There must be no VM.
    pub fn load() -> Result<Self> {
        reload(false)?;
        Ok(Legacy)
    }
}

impl Drop for Legacy {
    fn drop(&mut self) {
        if let Err(error) = reload(true) {
            println!("# {NAME:?} is not as it was before the test: {error:#}");
        }
    }
}

fn reload(mediated_pmu: bool) -> Result<()> {
    // SAFETY: The name is NUL-terminated.
    let ret = unsafe { libc::syscall(libc::SYS_delete_module, NAME.as_ptr(), libc::O_NONBLOCK) };
    if ret != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("unload {NAME:?}"));
    }

    let file = File::open(FILE).with_context(|| format!("open {FILE}"))?;
    let parameters = CString::new(format!("enable_mediated_pmu={}", u8::from(mediated_pmu)))?;
    // SAFETY: The parameter string is NUL-terminated.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            parameters.as_ptr(),
            0,
        )
    };
    if ret != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("load {FILE}"));
    }
    ensure!(
        has_mediated_pmu()? == mediated_pmu,
        "{FILE} does not take enable_mediated_pmu"
    );
    Ok(())
}

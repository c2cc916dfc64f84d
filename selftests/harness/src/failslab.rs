// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Allocations that the kernel is made to fail (Documentation/fault-injection/).

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};

use crate::ktap::{self, Skip};
use crate::log::{self, TracesOffConsole};

const FAILSLAB: &str = "/sys/kernel/debug/failslab";

fn set(file: &str, value: &str) -> Result<()> {
    let path = format!("{FAILSLAB}/{file}");
    fs::write(&path, value).context(path)
}

/// What makes an allocation of this thread fail. It stays open, as to open it takes an
/// allocation, too.
pub struct FailNth {
    file: File,
    _traces: TracesOffConsole,
}

impl FailNth {
    /// Skips a test if the kernel cannot do that.
    pub fn open() -> Result<Self> {
        if fs::metadata(FAILSLAB).is_err() {
            bail!(Skip("the kernel has no failslab".into()));
        }
        // Not only allocations that must not sleep.
        set("ignore-gfp-wait", "N")?;
        set("verbose", "2")?;
        let traces = log::traces_off_console()?;
        let path = "/proc/self/fail-nth";
        let file = OpenOptions::new().write(true).open(path).context(path)?;
        Ok(FailNth {
            file,
            _traces: traces,
        })
    }

    /// Does `work` without its allocation `nth`, and returns what the kernel had to say,
    /// such as where that was asked for.
    pub fn during<T>(&self, nth: u64, work: impl FnOnce() -> T) -> Result<(T, Log)> {
        ktap::alive();
        let mut tail = log::Tail::new()?;
        self.file.write_all_at(nth.to_string().as_bytes(), 0)?;
        let done = work();
        self.file.write_all_at(b"0", 0)?;
        Ok((done, Log(tail.read()?)))
    }
}

impl Drop for FailNth {
    fn drop(&mut self) {
        set("verbose", "0").expect("it could be written before");
    }
}

/// What the kernel says of an allocation that failed, if there were so many.
pub struct Log(String);

impl Log {
    pub fn is_empty(&self) -> bool {
        !self.0.contains("FAULT_INJECTION")
    }

    /// Whether `function`, or a module's as "[name]", was to have the allocation.
    pub fn names(&self, function: &str) -> bool {
        self.0.contains(function)
    }
}

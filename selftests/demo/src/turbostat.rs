// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! turbostat on the host, which shows the frequency of the guest's CPU.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::CPU;

/// A turbostat that waits; it ends when this is dropped.
pub struct Turbostat {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Turbostat {
    /// It needs some time before it can be asked.
    pub fn start() -> Result<Self> {
        const NEVER: &str = "1000000";

        let mut process = Command::new("turbostat")
            .args(["--quiet", "--no-msr", "--show", "CPU,Bzy_MHz"])
            .args(["--interval", NEVER])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start turbostat")?;
        let output = process.stdout.take().context("no output")?;
        Ok(Turbostat {
            process,
            output: BufReader::new(output).lines(),
        })
    }

    /// The frequency of the guest's CPU while it was busy, since the last call.
    pub fn mhz(&mut self) -> Result<f64> {
        // SAFETY: kill() has no memory effects, and the process has not been waited for.
        let failed = unsafe { libc::kill(self.process.id() as i32, libc::SIGUSR1) } != 0;
        ensure!(!failed, "turbostat is gone");
        for line in self.output.by_ref() {
            let line = line?;
            if let Some(mhz) = line.strip_prefix(&format!("{CPU}\t")) {
                return mhz.trim().parse().with_context(|| line.clone());
            }
        }
        bail!("turbostat has ended")
    }
}

impl Drop for Turbostat {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

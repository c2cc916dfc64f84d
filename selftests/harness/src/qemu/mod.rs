// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A stock Linux guest under Debian's QEMU, with a shell that tests talk to.
//!
//! All vCPUs run on the first CPU, QEMU's other threads on the last one.

mod counters;
mod state;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::ktap::{self, Skip};
use crate::{cpu, kernel, linux};

pub use counters::{base_mhz, expect_mhz, seconds};

const QEMU: &str = "/usr/bin/qemu-system-x86_64-microvm";
const MACHINE: &str = "microvm,accel=kvm,auto-kernel-cmdline=off";
const QMP: &str = "/tmp/qmp";

/// The guest's initramfs with rdmsr, turbostat and cpupower.
const INITRD: &str = "/tmp/guest-with-tools";
const TOOLS: &str = "/guest/tools";

/// What the administrator opens for a VM whose VMM does not know the counters.
const GRANT: &str = "/dev/kvm_aperfmperf";

/// A QEMU that runs; it ends when this is dropped.
pub struct Qemu {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    qmp: BufReader<UnixStream>,
}

/// How to start a QEMU.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    /// QEMU's CPU model.
    pub cpu: &'a str,
    /// Number of vCPUs.
    pub vcpus: usize,
    /// Whether the administrator grants the counters.
    pub granted: bool,
}

impl Qemu {
    /// Boots the guest up to its shell, and has all vCPUs share the first CPU.
    pub fn boot(setup: &Setup) -> Result<Self> {
        let mut qemu = Self::start(setup, &[])?;
        // vCPUs that share a CPU wait for each other while they boot, and do not yield it.
        for (vcpu, thread) in qemu.vcpu_threads()?.into_iter().enumerate() {
            cpu::pin_thread(thread, vcpu % cpu::online())?;
        }
        qemu.read_until("guest: ready")?;
        qemu.share_first_cpu()?;
        Ok(qemu)
    }

    fn share_first_cpu(&mut self) -> Result<()> {
        for thread in self.vcpu_threads()? {
            cpu::pin_thread(thread, 0)?;
        }
        Ok(())
    }

    fn start(setup: &Setup, options: &[&str]) -> Result<Self> {
        expect_usable()?;
        let initrd = [fs::read(linux::INITRD)?, fs::read(TOOLS)?].concat();
        fs::write(INITRD, initrd).context("the guest's initramfs")?;
        let _ = fs::remove_file(QMP);

        // As on a shell's command line: a redirection is all that a grant takes.
        let grant = if setup.granted {
            format!("9<{GRANT}")
        } else {
            String::new()
        };
        let elsewhere = cpu::online() - 1;
        let mut command = Command::new("/bin/taskset");
        command
            .args(["-c", &elsewhere.to_string(), "/bin/sh", "-c"])
            .arg(format!("exec \"$0\" \"$@\" {grant}"))
            .args([QEMU, "-M", MACHINE])
            .args([
                "-cpu",
                setup.cpu,
                "-m",
                "192",
                "-smp",
                &setup.vcpus.to_string(),
            ])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio"])
            .args(["-qmp", &format!("unix:{QMP},server=on,wait=off")])
            .args(["-kernel", linux::KERNEL, "-initrd", INITRD])
            .args([
                "-append",
                "console=ttyS0 quiet panic=-1 kunit.enable=0 rdinit=/shell",
            ])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // A test that is killed shall not leave a busy guest behind.
        // SAFETY: prctl() may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut process = command.spawn().context("start QEMU")?;

        let input = process.stdin.take().context("no input")?;
        let output = BufReader::new(process.stdout.take().context("no output")?);
        let mut qemu = Qemu {
            process,
            input,
            output,
            qmp: BufReader::new(connect()?),
        };
        qemu.qmp("qmp_capabilities")?;
        Ok(qemu)
    }

    /// The kernel's names for the threads of the vCPUs.
    pub fn vcpu_threads(&mut self) -> Result<Vec<i32>> {
        let answer = self.qmp("query-cpus-fast")?;
        let after_names = answer.split("\"thread-id\": ").skip(1);
        let digits = |rest: &str| {
            rest.chars()
                .take_while(char::is_ascii_digit)
                .collect::<String>()
        };
        let threads: Result<Vec<i32>, _> = after_names.map(|rest| digits(rest).parse()).collect();
        threads.with_context(|| format!("no threads in {answer}"))
    }

    /// Executes a line of shell in the guest, and returns what it said.
    pub fn shell(&mut self, line: &str) -> Result<String> {
        ktap::alive();
        writeln!(self.input, "{line}").context("write to the guest")?;
        let said = self.read_until("guest: status ")?;
        let (output, status) = said.rsplit_once("guest: status ").context("no status")?;
        ensure!(status.trim() == "0", "'{line}' in the guest: {said}");
        Ok(output.to_owned())
    }

    /// What the guest says up to the end of a line that has `marker`.
    fn read_until(&mut self, marker: &str) -> Result<String> {
        let mut said = String::new();
        loop {
            let mut line = Vec::new();
            let length = self.output.read_until(b'\n', &mut line)?;
            ensure!(length > 0, "the guest is gone; it said: {said}");
            let line = String::from_utf8_lossy(&line).replace('\r', "");
            said.push_str(&line);
            if line.contains(marker) {
                return Ok(said);
            }
        }
    }

    /// Executes a command of QEMU's monitor protocol that takes no arguments.
    pub fn qmp(&mut self, command: &str) -> Result<String> {
        self.qmp_with(command, "{}")
    }

    /// Executes a command of QEMU's monitor protocol, with its arguments in JSON.
    pub fn qmp_with(&mut self, command: &str, arguments: &str) -> Result<String> {
        ktap::alive();
        let request = format!("{{\"execute\": \"{command}\", \"arguments\": {arguments}}}\n");
        self.qmp.get_mut().write_all(request.as_bytes())?;
        loop {
            let mut answer = String::new();
            let length = self.qmp.read_line(&mut answer)?;
            ensure!(length > 0, "QEMU is gone");
            if answer.starts_with("{\"return\"") {
                return Ok(answer);
            }
            if answer.starts_with("{\"error\"") {
                bail!("{command}: {answer}");
            }
        }
    }

    /// Asks by a command of QEMU's monitor protocol until `text` is in the answer.
    pub fn wait_for(&mut self, command: &str, text: &str) -> Result<()> {
        const TRIES: u32 = 600;

        let mut answer = String::new();
        for _ in 0..TRIES {
            answer = self.qmp(command)?;
            if answer.contains(text) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("{command} never said {text}; at last: {answer}")
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn expect_usable() -> Result<()> {
    ensure!(
        Path::new(QEMU).exists(),
        "there is no QEMU here: the run is 'tools' or 'one:tools:TEST'"
    );
    // With or without the counters; under the project's own monitor it does.
    if kernel::is_realtime()? {
        bail!(Skip(
            "a PREEMPT_RT guest's shell does not answer under QEMU's microvm".into()
        ));
    }
    Ok(())
}

/// Whether this QEMU has CPUID's bit as a feature of its CPU models.
pub fn knows_feature() -> Result<bool> {
    expect_usable()?;
    let help = Command::new(QEMU).args(["-cpu", "help"]).output()?;
    Ok(String::from_utf8_lossy(&help.stdout)
        .split_whitespace()
        .any(|word| word == "aperfmperf"))
}

/// What QEMU says when it refuses to start with this CPU model.
pub fn refusal(cpu: &str) -> Result<String> {
    let output = Command::new(QEMU)
        .args([
            "-M",
            MACHINE,
            "-cpu",
            cpu,
            "-nodefaults",
            "-display",
            "none",
        ])
        .output()?;
    ensure!(!output.status.success(), "QEMU started with -cpu {cpu}");
    Ok(String::from_utf8(output.stderr)?)
}

/// QEMU makes its socket some time after it was started.
fn connect() -> Result<UnixStream> {
    const TRIES: u32 = 500;

    for _ in 0..TRIES {
        if let Ok(stream) = UnixStream::connect(QMP) {
            return Ok(stream);
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!("QEMU offers no {QMP}")
}

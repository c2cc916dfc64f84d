// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rule host-continuity for an operator: turbostat, cpupower, perf, rdmsr and wrmsr
//! on the host show the same of a CPU that runs guests as of one that runs tasks.
//!
//! The guest sets its counters as far from the host's as can be. A tool that
//! averages does so over the run of a program, which is this one: it looks at the true
//! counters itself at its start and at its end. They are compared within 2 %, as some
//! tools show whole MHz, and have yet to start the program when they begin. A single
//! value is bracketed by two looks at the truth, and may lie outside by one switch.

use std::env;
use std::fs;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::guest::Guest;
use harness::host::{bracket, outside};
use harness::ktap::Skip;
use harness::module::Module;
use harness::msr_device::make_true;
use harness::oracle::{ALL_CPUS, RATIO_ONE, Ratio};
use harness::{ONE_SWITCH, cpu, foreign, guest_code, kernel, ktap, note, oracle, rules};

/// Where the load is; tools run elsewhere.
const CPU: usize = 0;

const THROTTLED: u64 = RATIO_ONE * 3 / 5;

guest_code! {
    /// Idles between bursts.
    write_and_halt:
        "cli"
        "far"
        "timer_one_shot"
        "mov r14, 400000"
        "2:"
        "burn 100000"
        "sleep r14"
        "exit"
        "jmp 2b"
}

/// What runs on [`CPU`] meanwhile.
#[derive(Clone, Copy, Debug)]
enum Load {
    Task,
    BusyGuest,
    HaltingGuest,
}

impl Load {
    const ALL: [Load; 3] = [Load::Task, Load::BusyGuest, Load::HaltingGuest];

    /// Runs on [`CPU`] until `stop`, after it has said the name of its thread.
    fn run(self, thread: Sender<i32>, stop: &AtomicBool) -> Result<()> {
        cpu::pin(CPU)?;
        let code = match self {
            Load::HaltingGuest => write_and_halt(),
            Load::Task | Load::BusyGuest => foreign::exits(),
        };
        let guest = Guest::with_irqchip(code)?;
        let mut vcpu = guest.vcpu(0)?;
        thread.send(cpu::thread_id())?;
        while !stop.load(Ordering::Relaxed) {
            match self {
                Load::Task => cpu::spin(100_000),
                Load::BusyGuest | Load::HaltingGuest => vcpu.resume()?,
            }
        }
        Ok(())
    }

    /// Does `work`, which is told the load's thread, beside the load.
    fn beside<T>(self, work: impl FnOnce(i32) -> Result<T>) -> Result<T> {
        let stop = AtomicBool::new(false);
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            let runner = scope.spawn(|| self.run(sender, &stop));
            let result = receiver
                .recv()
                .context("the load did not start")
                .and_then(work);
            stop.store(true, Ordering::Relaxed);
            runner.join().unwrap()?;
            result
        })
    }
}

fn prepare() -> Result<(Module, Ratio)> {
    oracle::require()?;
    cpu::require_two()?;
    cpu::pin(cpu::online() - 1)?;
    Ok((Module::loaded()?, Ratio::set(ALL_CPUS, THROTTLED)))
}

/// All that a tool says.
fn said_by(tool: &str, arguments: &[&str]) -> Result<String> {
    ktap::alive();
    let output = Command::new(tool)
        .args(arguments)
        .output()
        .with_context(|| tool.to_owned())?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{tool} failed: {said}");
    Ok(said)
}

/// What a tool found out about [`CPU`].
#[derive(Debug)]
struct Seen {
    /// The frequency while it was busy.
    mhz: f64,
    /// The share of time that it was.
    busy: f64,
}

/// The columns `mhz` and `busy`, in percent, of a table with one row for each CPU.
fn from_table(said: &str, separator: impl Fn(char) -> bool, mhz: &str, busy: &str) -> Result<Seen> {
    let cells = |line: &str| -> Vec<String> {
        let cells = line.split(&separator).map(str::trim);
        cells
            .filter(|cell| !cell.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let mut rows = said
        .lines()
        .map(cells)
        .skip_while(|row| !row.iter().any(|cell| cell == mhz));
    let header = rows
        .next()
        .with_context(|| format!("no {mhz} in: {said}"))?;
    let column = |name: &str| header.iter().position(|cell| cell == name);
    let cpu = column("CPU").context("no CPU")?;
    let row = rows
        .find(|row| row.get(cpu).is_some_and(|cell| *cell == CPU.to_string()))
        .with_context(|| format!("no CPU {CPU} in: {said}"))?;
    let value = |name: &str| -> Result<f64> {
        let cell = column(name).and_then(|column| row.get(column));
        Ok(cell
            .with_context(|| format!("no {name} in: {said}"))?
            .parse()?)
    };
    Ok(Seen {
        mhz: value(mhz)?,
        busy: value(busy)? / 100.0,
    })
}

/// What a tool has this program do: see [`interval`].
const INTERVAL: &str = "interval";
/// Where that leaves the truth.
const TRUTH: &str = "/tmp/host_tools.truth";

fn this_program() -> Result<String> {
    let path = env::current_exe()?;
    Ok(path.to_str().context("an odd path")?.to_owned())
}

/// Lets a tool see some time pass.
fn interval() -> Result<()> {
    let truth = || (cpu::tsc(), oracle::truth(CPU as u64).host);
    let before = truth();
    thread::sleep(Duration::from_millis(300));
    let after = truth();
    let busy = (after.1 - before.1).mperf as f64 / (after.0 - before.0) as f64;
    let mhz = base_mhz()? * (after.1 - before.1).ratio();
    Ok(fs::write(TRUTH, format!("{mhz} {busy}"))?)
}

/// What was true in the last [`interval`].
fn truth() -> Result<Seen> {
    let text = fs::read_to_string(TRUTH).context("the tool did not run its program")?;
    fs::remove_file(TRUTH)?;
    let (mhz, busy) = text.split_once(' ').context("two numbers")?;
    Ok(Seen {
        mhz: mhz.parse()?,
        busy: busy.parse()?,
    })
}

fn turbostat(_thread: i32) -> Result<Seen> {
    let said = said_by(
        "turbostat",
        &[
            "--quiet",
            "--no-msr",
            "--show",
            "CPU,Busy%,Bzy_MHz",
            &this_program()?,
            INTERVAL,
        ],
    )?;
    from_table(&said, char::is_whitespace, "Bzy_MHz", "Busy%")
}

fn cpupower(_thread: i32) -> Result<Seen> {
    let said = said_by(
        "cpupower",
        &["monitor", "-m", "Mperf", &this_program()?, INTERVAL],
    )?;
    from_table(&said, |c| c == '|', "Freq", "C0")
}

/// The value of `event` that `perf stat -x,` shows.
fn perf_value(said: &str, event: &str) -> Result<f64> {
    let line = said.lines().find(|line| line.contains(event));
    let line = line.with_context(|| format!("no {event} in: {said}"))?;
    Ok(line.split(',').next().unwrap_or_default().parse()?)
}

fn perf(of: &[&str], time: &str, ticks_per_unit: f64) -> Result<Seen> {
    let program = this_program()?;
    let events = format!("msr/aperf/,msr/mperf/,{time}");
    let arguments = [&["stat", "-x,", "-e", &events], of, &[&program, INTERVAL]].concat();
    let said = said_by("perf", &arguments)?;
    let (aperf, mperf) = (perf_value(&said, "aperf")?, perf_value(&said, "mperf")?);
    Ok(Seen {
        mhz: base_mhz()? * aperf / mperf,
        busy: mperf / (perf_value(&said, time)? * ticks_per_unit),
    })
}

fn perf_of_cpu(_thread: i32) -> Result<Seen> {
    perf(&["-C", &CPU.to_string()], "msr/tsc/", 1.0)
}

/// Beside a task's counters, perf counts the time that the scheduler gave it.
fn perf_of_task(thread: i32) -> Result<Seen> {
    let ticks_per_ms = base_mhz()? * 1e3;
    perf(&["-t", &thread.to_string()], "task-clock", ticks_per_ms)
}

fn base_mhz() -> Result<f64> {
    Ok(oracle::require()?.tsc_hz as f64 / 1e6)
}

/// Compares what `tool` shows with the true counters meanwhile.
fn agrees(tool: fn(i32) -> Result<Seen>, of_task: bool) -> Result<()> {
    let _setup = prepare()?;
    for load in Load::ALL {
        let seen = load.beside(tool)?;
        let truth = truth()?;

        // The time that the scheduler gives a task is the time that it is in C0.
        let busy = if of_task { 1.0 } else { truth.busy };
        note!(
            "{load:?}: {seen:.3?}, in truth {:.3} MHz, busy {busy:.3}",
            truth.mhz
        );
        ensure!(
            (seen.mhz / truth.mhz - 1.0).abs() <= 0.02,
            "{load:?}: another frequency"
        );
        ensure!(
            (seen.busy / busy - 1.0).abs() <= 0.02,
            "{load:?}: another share of time"
        );
    }
    Ok(())
}

fn true_aperf() -> u64 {
    oracle::truth(CPU as u64).host.aperf
}

/// A counter as `rdmsr` shows it.
fn rdmsr(msr: &str) -> Result<u64> {
    let said = said_by("rdmsr", &["-p", &CPU.to_string(), "-d", msr])?;
    Ok(said.trim().parse()?)
}

fn rdmsr_sees_the_host() -> Result<()> {
    let _setup = prepare()?;
    make_true(CPU)?;
    cpu::pin(cpu::online() - 1)?;
    for load in Load::ALL {
        let error = load.beside(|_| {
            let (seen, range) = bracket(true_aperf, || rdmsr("0xe8"));
            Ok(outside(seen?, range))
        })?;
        note!("{load:?}: rdmsr is off by {error} ticks");
        ensure!(error <= ONE_SWITCH, "off by {error} ticks");
    }
    Ok(())
}

/// What is written is as old as the start of wrmsr. To the scheduler APERF runs backwards
/// if that is many ticks ago, and then frequency invariance is off for good, guests or not.
fn wrmsr_moves_the_host() -> Result<()> {
    // Less than APERF advances in a tick, which is what the scheduler looks at.
    const MOVED: u64 = 1 << 17;

    let _setup = prepare()?;
    for load in Load::ALL {
        make_true(CPU)?;
        cpu::pin(cpu::online() - 1)?;
        let (moved, range) = load.beside(|_| {
            let written = true_aperf();
            let value = (written + MOVED).to_string();
            rules::host_pair_is_untrue();
            said_by("wrmsr", &["-p", &CPU.to_string(), "0xe8", &value])?;
            let late = true_aperf() - written;
            let (seen, range) = bracket(true_aperf, || rdmsr("0xe8"));
            Ok((seen? - MOVED, (range.0 - late, range.1)))
        })?;
        let error = outside(moved, range);
        note!("{load:?}: after wrmsr {error} ticks");
        ensure!(error <= ONE_SWITCH, "after wrmsr off by {error} ticks");
    }
    make_true(CPU)?;
    Ok(())
}

/// What is written is no older than what the scheduler bears, in a usual kernel.
fn invariance_after_wrmsr() -> Result<()> {
    if kernel::is_checked() {
        bail!(Skip("wrmsr takes many ticks to start here".into()));
    }
    kernel::expect_frequency_invariance()
}

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some(INTERVAL) {
        return match interval() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    ktap::run(&[
        ("turbostat", || agrees(turbostat, false)),
        ("cpupower monitor", || agrees(cpupower, false)),
        ("perf stat of a CPU", || agrees(perf_of_cpu, false)),
        ("perf stat of a task", || agrees(perf_of_task, true)),
        ("rdmsr", rdmsr_sees_the_host),
        (
            "the scheduler's frequency invariance stays on",
            kernel::expect_frequency_invariance,
        ),
        ("wrmsr", wrmsr_moves_the_host),
        (
            "frequency invariance stays on after wrmsr",
            invariance_after_wrmsr,
        ),
    ])
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Asks and commands the emulator from the machine inside it.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use harness::oracle::{self, ALL_CPUS, THIS_CPU, Truth};

/// Asks and commands the emulator from the machine inside it.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the number of CPUs and the TSC frequency; fail if this is not the emulator
    Present,
    /// Print true and hardware counters of a CPU
    Truth {
        /// Index of the CPU; default: the one that asks
        cpu: Option<u64>,
    },
    /// Print how often an event happened
    Count {
        /// Identifier of the event
        event: u64,
        /// Index of the CPU; default: the sum over all
        cpu: Option<u64>,
    },
    /// Set APERF ticks per MPERF tick, and print the previous ratio
    Ratio {
        /// Such as 0.6
        ratio: f64,
        /// Index of the CPU; default: all
        cpu: Option<u64>,
    },
    /// Copy standard input to standard output and append it to the verdict, as it comes
    Put,
    /// Leave the emulator
    Stop {
        /// Exit status of the emulator
        status: u8,
    },
}

fn main() -> Result<ExitCode> {
    let Arguments { command } = Arguments::parse();

    let Some(machine) = oracle::machine() else {
        eprintln!("oracle: this machine is not the emulator");
        return Ok(ExitCode::FAILURE);
    };
    match command {
        Command::Present => println!("CPUs {} TSC {} Hz", machine.cpus, machine.tsc_hz),
        Command::Truth { cpu } => {
            let Truth { host, hardware } = oracle::truth(cpu.unwrap_or(THIS_CPU));
            println!("host {host}\nhardware {hardware}");
        }
        Command::Count { event, cpu } => {
            println!("{}", oracle::count(cpu.unwrap_or(ALL_CPUS), event));
        }
        Command::Ratio { ratio, cpu } => {
            let one = oracle::RATIO_ONE as f64;
            let ticks = (ratio * one).round() as u64;
            let previous = oracle::set_ratio(cpu.unwrap_or(ALL_CPUS), ticks);
            println!("{}", previous as f64 / one);
        }
        Command::Put => put()?,
        Command::Stop { status } => oracle::stop(status),
    }
    Ok(ExitCode::SUCCESS)
}

/// One process for all of the input: one for each line would take the CPU from
/// the very test that has written the line.
fn put() -> Result<()> {
    let mut chunk = [0; 4096];
    loop {
        let text = match io::stdin().read(&mut chunk)? {
            0 => return Ok(()),
            length => &chunk[..length],
        };
        oracle::put(text);
        io::stdout().write_all(text)?;
        io::stdout().flush()?;
    }
}

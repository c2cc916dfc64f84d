// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Rules host-continuity, user-isolation, guest-mperf and guest-aperf when an NMI, a
//! stall or an interrupt hits the module, at every one of its instructions.
//!
//! A stall is what an SMI is to the CPU that it hits: 50 ms, in which all counters run and
//! nothing else happens. In each NMI, nmi_reader.ko reads the host pair, whose promise
//! is in `Cpu::host_read()`: exact, but for an MPERF that may run ahead by less than a
//! sample takes, and for an APERF at a frequency that has just changed, which does not
//! happen here. Bounds in ticks: see the constants.
//!
//! Without arguments: some of the points. With `--all`: all of them. With `run`, or
//! `run/nmi`: those of that action and event. With the name of a point, such as
//! `run/nmi/137`: that one, in this machine itself and not in a copy.

mod action;
mod look;

use std::cell::RefCell;
use std::env;
use std::fs;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::guest::{Guest, Vcpu};
use harness::host::Msrs;
use harness::ktap::{self, Skip, Test};
use harness::module::{Helper, Module};
use harness::oracle::{Event, From, Outcome, Point, RATIO_ONE, Ratio, THIS_CPU};
use harness::sweep::{self, Plan, Which, measure};
use harness::{Pair, UNFORESEEN, cpu, kernel, note, oracle};

use action::{ACTIONS, Action};
use look::Look;

/// What an NMI may find MPERF ahead by: less than the time of a sample.
const HOST_AHEAD: u64 = 16;
/// Of all CPUs: a whole number of APERF ticks for each MPERF tick. Nothing is rounded then,
/// so that an NMI must not find APERF off, nor MPERF behind, by a single tick.
const RATIO: u64 = 2 * RATIO_ONE;
/// How often the test itself has the host pair read in an NMI.
const NMIS_OF_TEST: u64 = 2;

/// 50 ms.
const STALL_TICKS: u32 = 10_000_000;

/// Bits that say what was wrong at a point.
mod wrong {
    pub const HOST: u32 = 1 << 0;
    pub const USER: u32 = 1 << 1;
    pub const GUEST: u32 = 1 << 2;
}

/// What comes, how often, and its name.
const EVENTS: [(&str, Event, u16); 5] = [
    ("nmi", Event::Nmi, 1),
    ("nmis", Event::Nmi, 8),
    ("stall", Event::Stall { ticks: STALL_TICKS }, 1),
    ("smi", Event::Smi, 1),
    // Linux's LOCAL_TIMER_VECTOR
    ("interrupt", Event::Interrupt { vector: 0xec }, 1),
];

/// Has nmi_reader.ko read the host pair now.
fn read_in_nmi() {
    oracle::within(0..0);
    oracle::inject(Event::Nmi, 1, From::Now, 0);
    oracle::disarm();
}

/// What the MSRs are ahead of the true pair.
fn ahead_of_truth() -> Pair {
    let truth = oracle::truth(THIS_CPU);
    truth.hardware - truth.host
}

/// TSC ticks from before an event to after it.
fn ticks_with(event: Event) -> u64 {
    (0..4)
        .map(|_| {
            let before = cpu::tsc();
            oracle::within(0..0);
            oracle::inject(event, 1, From::Now, 0);
            oracle::disarm();
            cpu::tsc() - before
        })
        .min()
        .unwrap()
}

/// What may be missing in the host pair after `event`: the time of an SMI, which is that of some
/// instructions of the BIOS here. The module does not tell it from that of a slow sample. On
/// silicon none is as short.
fn unseen(event: Event) -> u64 {
    match event {
        Event::Smi => {
            let ticks = ticks_with(event) - ticks_with(Event::Stall { ticks: 0 });
            note!("an SMI takes {ticks} ticks");
            ticks
        }
        _ => 0,
    }
}

/// Bits of what is wrong after `action`, before which the MSRs were `ahead`. Of the host pair
/// `unseen` ticks may be missing.
fn judge(vcpu: &mut Vcpu, action: &Action, before: &Look, ahead: Pair, unseen: u64) -> Result<u32> {
    let user = ahead_of_truth().distance(ahead);
    read_in_nmi();
    let after = Look::take(vcpu)?;
    let mperf = after.mperf_error(before, action.c0);
    let aperf = after.aperf_error(before, (action.runs + 1) * action.burn);

    let mut failures = 0;
    for (index, error, bound, bit) in [
        (
            measure::NMI_APERF_OFF,
            0,
            unseen * RATIO / RATIO_ONE,
            wrong::HOST,
        ),
        (measure::NMI_MPERF_AHEAD, 0, HOST_AHEAD, wrong::HOST),
        (measure::NMI_MPERF_BEHIND, 0, unseen, wrong::HOST),
        (measure::NMI_MPERF_BACKWARDS, 0, 0, wrong::HOST),
        (measure::USER, user, UNFORESEEN, wrong::USER),
        (measure::GUEST_MPERF, mperf, UNFORESEEN, wrong::GUEST),
        (measure::GUEST_APERF, aperf, UNFORESEEN, wrong::GUEST),
    ] {
        if oracle::measure(index, error) > bound {
            failures |= bit;
        }
    }
    Ok(failures)
}

/// What each test needs: the readers, and no more than one CPU. Dropped in this order.
struct Setup {
    _ratio: Ratio,
    _reader: Helper,
    _module: Module,
}

fn prepare() -> Result<Setup> {
    let machine = oracle::require()?;
    if machine.cpus > 1 {
        bail!(Skip("events are injected on machines with 1 CPU".into()));
    }
    cpu::pin(0)?;
    let module = Module::loaded()?;
    Ok(Setup {
        _reader: Helper::nmi_reader()?,
        _module: module,
        _ratio: Ratio::set(THIS_CPU, RATIO),
    })
}

/// Tries the event at points of the action.
fn try_points(action: &Action, event: usize, which: Which) -> Result<Vec<Point>> {
    let _setup = prepare()?;
    let guest = Guest::with_irqchip((action.code)())?;
    let mut vcpu = guest.vcpu(0)?;
    vcpu.resume()?;
    let before = Look::take(&mut vcpu)?;

    let (_, event, times) = EVENTS[event];
    let unseen = unseen(event);
    let plan = Plan {
        event,
        times,
        within: sweep::module_text()?,
        which,
        boundaries: action.boundaries,
    };
    read_in_nmi();
    let ahead = ahead_of_truth();
    // Both the action and the judgement need the vCPU.
    let vcpu = RefCell::new(vcpu);
    sweep::run(
        &plan,
        || (action.act)(&mut vcpu.borrow_mut()),
        || judge(&mut vcpu.borrow_mut(), action, &before, ahead, unseen),
    )
}

/// How many NMIs this machine had.
fn nmis() -> Result<u64> {
    let interrupts = fs::read_to_string("/proc/interrupts")?;
    let line = interrupts.lines().find(|line| line.contains("NMI:"));
    let count = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(count.context("NMI in /proc/interrupts")?.parse()?)
}

/// The other way to choose a point: an NMI comes when the next host read is done, and
/// not before.
fn after_access() -> Result<()> {
    let _setup = prepare()?;
    let msrs = Msrs::open(0)?;
    let alone = cpu::Alone::on(0)?;

    let before = nmis()?;
    // The tick reads the pair, too.
    kernel::wait_for_tick(&alone);
    oracle::within(0..0);
    oracle::inject(Event::Nmi, 1, From::Access, 3);
    let waited = nmis()?;
    msrs.error()?;
    oracle::disarm();
    let read = nmis()?;
    ensure!(waited == before, "an NMI came before the access");
    ensure!(read == before + 1, "{} NMIs came", read - before);
    Ok(())
}

/// One line of the table, and a line for each kind of failure.
fn report(action: &Action, event: &str, points: &[Point]) -> Result<()> {
    let worst = |index: usize| points.iter().map(|point| point.measures[index]).max();
    let worst = |index: usize| worst(index).unwrap_or(0);
    let wrong: Vec<&Point> = points
        .iter()
        .filter(|point| point.outcome != Outcome::Failures(0))
        .collect();
    note!(
        "sweep: {}/{event}: {} points, {} wrong; ticks: host APERF {} MPERF +{} -{} back {}, \
         user {}, guest MPERF {} APERF {}",
        action.name,
        points.len(),
        wrong.len(),
        worst(measure::NMI_APERF_OFF),
        worst(measure::NMI_MPERF_AHEAD),
        worst(measure::NMI_MPERF_BEHIND),
        worst(measure::NMI_MPERF_BACKWARDS),
        worst(measure::USER),
        worst(measure::GUEST_MPERF),
        worst(measure::GUEST_APERF),
    );
    for point in wrong.iter().take(10) {
        note!(
            "wrong: {}/{event}/{}: at {:#x}: {:?}: {:?}",
            action.name,
            point.boundary,
            point.rip,
            point.outcome,
            point.measures
        );
    }
    ensure!(wrong.is_empty(), "{} points are wrong", wrong.len());
    if event.starts_with("nmi") {
        ensure!(worst(measure::NMIS) > NMIS_OF_TEST, "no NMI came");
    }
    Ok(())
}

fn sweep(action: &str, event: &str, which: Which) -> Result<()> {
    let action = ACTIONS
        .iter()
        .find(|known| known.name == action)
        .with_context(|| format!("no action {action}"))?;
    let index = EVENTS
        .iter()
        .position(|known| known.0 == event)
        .with_context(|| format!("no event {event}"))?;
    report(action, event, &try_points(action, index, which)?)
}

/// Every event at every instruction of these actions.
fn every(wanted: impl Fn(&Action) -> bool) -> Result<()> {
    let mut wrong = Vec::new();
    for action in ACTIONS.iter().filter(|action| wanted(action)) {
        note!("{}: {}", action.name, action.what);
        for (event, ..) in EVENTS {
            ktap::alive();
            // A sweep takes no time in this machine: let what was said get out.
            thread::sleep(Duration::from_millis(100));
            if let Err(error) = sweep(action.name, event, Which::Every(action.stride)) {
                note!("{}/{event}: {error:#}", action.name);
                wrong.push(format!("{}/{event}", action.name));
            }
        }
    }
    ensure!(wrong.is_empty(), "wrong: {}", wrong.join(" "));
    Ok(())
}

fn only() -> Result<()> {
    let name = env::args().nth(1).unwrap_or_default();
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        [action] if ACTIONS.iter().any(|known| known.name == action) => {
            every(|known| known.name == action)
        }
        [action, event] => sweep(action, event, Which::Every(1)),
        [action, event, boundary] => sweep(action, event, Which::Only(boundary.parse()?)),
        _ => bail!("a point is ACTION[/EVENT[/NUMBER]], not {name}"),
    }
}

pub fn main() -> ExitCode {
    let some: &[Test] = &[
        ("NMIs in load, put and restore", || {
            sweep("run", "nmi", Which::Every(1))
        }),
        ("stalls in load, put and restore", || {
            sweep("run", "stall", Which::Every(4))
        }),
        ("an NMI after a host read", after_access),
        ("NMIs beside a HLT", || {
            sweep("halt", "nmi", Which::Every(8))
        }),
    ];
    match env::args().nth(1).as_deref() {
        None => ktap::run(some),
        Some("--all") => ktap::run(&[("every event at every instruction of the module", || {
            every(|_| true)
        })]),
        Some(_) => ktap::run(&[("the events that were asked for", only)]),
    }
}

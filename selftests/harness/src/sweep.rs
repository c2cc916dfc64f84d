// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Sweeps: the same piece of code again and again, with an event at another of its
//! instruction boundaries each time. See [`oracle::sweep`].

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;

use anyhow::{Context, Result, ensure};

use crate::oracle::{self, Event, From, Outcome, Point};
use crate::{module, note};

/// Measures of a point. The first are those of the NMI handler that reads the host
/// pair, see selftests/modules/nmi_reader.c. In ticks, but for the number of NMIs.
pub mod measure {
    pub const NMIS: usize = 0;
    pub const NMI_APERF_OFF: usize = 1;
    pub const NMI_MPERF_AHEAD: usize = 2;
    pub const NMI_MPERF_BEHIND: usize = 3;
    pub const NMI_MPERF_BACKWARDS: usize = 4;
    /// What the test measures in the end.
    pub const USER: usize = 8;
    pub const GUEST_MPERF: usize = 9;
    pub const GUEST_APERF: usize = 10;
}

/// The functions of the module under test: where each begins, and its name.
fn functions() -> Result<BTreeMap<u64, String>> {
    let symbols = fs::read_to_string("/proc/kallsyms").context("/proc/kallsyms")?;
    let owner = format!("[{}]", module::NAME.to_str()?);
    let functions: BTreeMap<u64, String> = symbols
        .lines()
        .filter(|line| line.ends_with(&owner))
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[1].eq_ignore_ascii_case("t"))
        .filter_map(|fields| Some((u64::from_str_radix(fields[0], 16).ok()?, fields[2].into())))
        .collect();
    ensure!(!functions.is_empty(), "the module has no symbols");
    Ok(functions)
}

/// Where the code of the module under test is.
pub fn module_text() -> Result<Range<u64>> {
    const PAGE: u64 = 4096;
    let functions = functions()?;
    let (first, _) = functions.first_key_value().context("no function")?;
    let (last, _) = functions.last_key_value().context("no function")?;
    Ok(first & !(PAGE - 1)..(last | (PAGE - 1)) + 1)
}

/// Where the module's function is whose name contains `part`. Its type is in front of it,
/// under a name of its own, and no code.
pub fn function(part: &str) -> Result<Range<u64>> {
    let functions = functions()?;
    let mut from = functions
        .iter()
        .skip_while(|(_, name)| name.starts_with("__cfi") || !name.contains(part));
    let (begin, _) = from.next().with_context(|| format!("no function {part}"))?;
    let (end, _) = from
        .next()
        .with_context(|| format!("nothing after {part}"))?;
    Ok(*begin..*end)
}

/// What comes, and at which boundaries.
#[derive(Clone, Debug)]
pub struct Plan {
    pub event: Event,
    pub times: u16,
    pub within: Range<u64>,
    pub which: Which,
    /// Of how many boundaries the action has to consist at least.
    pub boundaries: u64,
}

#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// Every nth, each in a copy of the machine.
    Every(u64),
    /// One, here and now.
    Only(u64),
}

/// Does `action` with events according to `plan`, and has `judge` say what was wrong
/// with the outcome, as bits that are the caller's. Returns the points that were tried,
/// or the one.
pub fn run(
    plan: &Plan,
    action: impl FnOnce() -> Result<()>,
    judge: impl FnOnce() -> Result<u32>,
) -> Result<Vec<Point>> {
    let before = oracle::point_done(0);
    oracle::within(plan.within.clone());
    match plan.which {
        Which::Every(stride) => oracle::sweep(plan.event, plan.times, stride),
        Which::Only(boundary) => oracle::inject(plan.event, plan.times, From::Now, boundary),
    }
    let done = action();
    let boundaries = oracle::disarm();
    done?;
    let failures = judge()?;
    let after = oracle::point_done(failures);

    // One event ends the counting.
    let least = match plan.which {
        Which::Every(_) => plan.boundaries,
        Which::Only(_) => 1,
    };
    note!("{boundaries} boundaries");
    ensure!(
        boundaries >= least,
        "the code under test was not executed: {boundaries} boundaries, not {least}"
    );
    Ok(match plan.which {
        Which::Every(_) => (before..after).map(oracle::point).collect(),
        Which::Only(boundary) => vec![Point {
            boundary,
            rip: 0,
            outcome: Outcome::Failures(failures),
            measures: std::array::from_fn(|measure| oracle::measure(measure, 0)),
        }],
    })
}

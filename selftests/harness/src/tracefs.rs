// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Trace events, of the module and of others.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const TRACEFS: &str = "/sys/kernel/tracing";

/// The directory of the module's events.
pub fn events() -> PathBuf {
    Path::new(TRACEFS).join("events/kvm_aperfmperf")
}

/// Events are on until this is dropped.
#[must_use]
pub struct Tracing {
    enable: PathBuf,
}

/// One event.
#[derive(Debug)]
pub struct Event {
    /// Where it was traced.
    pub cpu: usize,
    pub name: String,
    fields: HashMap<String, String>,
}

impl Tracing {
    /// Forgets what was traced before, and starts with all events of the module.
    pub fn start() -> Result<Self> {
        Self::of("kvm_aperfmperf")
    }

    /// The same with `events`, a directory below that of all events.
    pub fn of(events: &str) -> Result<Self> {
        fs::write(Path::new(TRACEFS).join("trace"), "").context("clear the trace")?;
        let enable = Path::new(TRACEFS)
            .join("events")
            .join(events)
            .join("enable");
        let tracing = Tracing { enable };
        tracing.set(true)?;
        Ok(tracing)
    }

    /// Stops, and returns the events in order.
    pub fn stop(self) -> Result<Vec<Event>> {
        self.set(false)?;
        buffer()
    }

    fn set(&self, on: bool) -> Result<()> {
        let file = &self.enable;
        fs::write(file, if on { "1" } else { "0" }).with_context(|| format!("{}", file.display()))
    }
}

/// All events since tracing was started, in order.
pub fn buffer() -> Result<Vec<Event>> {
    let trace = fs::read_to_string(Path::new(TRACEFS).join("trace")).context("trace")?;
    ensure!(!trace.contains("LOST"), "events were lost");
    trace
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(Event::parse)
        .collect()
}

impl Drop for Tracing {
    fn drop(&mut self) {
        if let Err(error) = self.set(false) {
            println!("# {error:#}");
        }
    }
}

impl Event {
    /// Of a line such as `task-pid [000] d..1. 12.345678: name: field=value field=value`.
    fn parse(line: &str) -> Result<Self> {
        let cpu = line
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'))
            .with_context(|| format!("no CPU: {line}"))?;
        let mut parts = line.splitn(3, ": ").skip(1);
        let name = parts.next().with_context(|| format!("no event: {line}"))?;
        let fields = parts.next().unwrap_or_default().split(' ');
        Ok(Event {
            cpu: cpu.0.parse()?,
            name: name.into(),
            fields: fields
                .filter_map(|field| field.split_once('='))
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        })
    }

    /// The value of `field`.
    pub fn text(&self, field: &str) -> Result<&str> {
        let value = self.fields.get(field);
        Ok(value.with_context(|| format!("no {field} in {self:?}"))?)
    }

    /// The value of `field`, a number.
    pub fn number(&self, field: &str) -> Result<u64> {
        let text = self.text(field)?;
        text.parse().with_context(|| format!("{field} is {text}"))
    }

    /// The event's pair of counters.
    pub fn pair(&self) -> Result<crate::Pair> {
        Ok(crate::Pair {
            aperf: self.number("aperf")?,
            mperf: self.number("mperf")?,
        })
    }
}

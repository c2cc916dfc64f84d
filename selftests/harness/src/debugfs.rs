// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What the module shows of CPUs and vCPUs in debugfs.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::guest::{Guest, Vcpu};

/// The module's directory.
pub const DIRECTORY: &str = "/sys/kernel/debug/kvm_aperfmperf";

/// The file of a CPU or vCPU, such as "cpu0".
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(DIRECTORY).join(name)
}

/// The names of all files that begin with `kind`.
pub fn names(kind: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(DIRECTORY).context(DIRECTORY)? {
        let name = entry?.file_name().into_string().ok();
        names.extend(name.filter(|name| name.starts_with(kind)));
    }
    Ok(names)
}

/// A new vCPU of `guest`, and the name of its file.
pub fn vcpu_with_name(guest: &Guest, id: u8) -> Result<(Vcpu, String)> {
    let before = names("vcpu")?;
    let vcpu = guest.vcpu(id)?;
    let after = names("vcpu")?;
    let new: Vec<_> = after.difference(&before).cloned().collect();
    ensure!(new.len() == 1, "a new vCPU has the files {new:?}");
    Ok((vcpu, new[0].clone()))
}

/// The contents of a file at one time.
pub struct Snapshot(HashMap<String, String>);

impl Snapshot {
    /// Reads the file of a CPU or vCPU.
    pub fn of(name: &str) -> Result<Self> {
        let text = fs::read_to_string(path(name)).with_context(|| format!("read {name}"))?;
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        Ok(Snapshot(
            pairs
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        ))
    }

    /// The value of `key`.
    pub fn text(&self, key: &str) -> Result<&str> {
        let value = self.0.get(key);
        Ok(value.with_context(|| format!("no {key}"))?)
    }

    /// The value of `key`, a number.
    pub fn number(&self, key: &str) -> Result<i64> {
        let text = self.text(key)?;
        text.parse().with_context(|| format!("{key} is {text}"))
    }

    /// By how much `key` has grown since `earlier`.
    pub fn advance(&self, earlier: &Snapshot, key: &str) -> Result<u64> {
        Ok((self.number(key)? - earlier.number(key)?) as u64)
    }

    /// Fails unless the value of `key` is `expected`.
    pub fn expect(&self, key: &str, expected: &str) -> Result<()> {
        let value = self.text(key)?;
        ensure!(value == expected, "{key} is {value} and not {expected}");
        Ok(())
    }
}

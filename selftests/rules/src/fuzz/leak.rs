// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Memory of the kernel that nobody gives back.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{kernel, note};

/// How long RCU and the workqueues of KVM need to free what they are to free.
const SETTLE: Duration = Duration::from_millis(300);

/// Of how many operations one may leave an object behind: far fewer than create a
/// vCPU, far more than KVM or this program cache.
const RARE: u64 = 100;

/// Of the caches' names.
const PREFIX: &str = "kmalloc-";

/// What the kernel caches for itself.
const CACHED: u64 = 300;
/// The same on PREEMPT_RT.
const CACHED_REALTIME: u64 = 400;

/// Objects that kmalloc() has given out.
pub fn objects() -> Result<u64> {
    thread::sleep(SETTLE);
    // Those in partly used slabs count as given out until the cache is shrunk.
    for cache in fs::read_dir("/sys/kernel/slab").context("/sys/kernel/slab")? {
        let cache = cache?;
        if cache.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::write(cache.path().join("shrink"), "1").context("shrink a cache")?;
        }
    }
    let slabs = fs::read_to_string("/proc/slabinfo").context("/proc/slabinfo")?;
    let caches = slabs.lines().filter(|line| line.starts_with(PREFIX));
    caches
        .map(|line| {
            let active = line.split_whitespace().nth(1).context("active objects")?;
            Ok(active.parse::<u64>()?)
        })
        .sum()
}

/// Fails if there are more objects than `before` by so many that each of a rare
/// kind of operations may have left one.
pub fn expect_none(before: u64, operations: u64) -> Result<()> {
    let after = objects()?;
    note!("{before} objects of kmalloc() before, {after} after");
    let cached = if kernel::is_realtime()? {
        CACHED_REALTIME
    } else {
        CACHED
    };
    ensure!(
        after <= before + cached + operations / RARE,
        "{} objects are left",
        after - before
    );
    Ok(())
}

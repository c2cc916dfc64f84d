// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The table of a guest of a few instructions.

/// The guest at one frequency.
pub struct Row {
    /// What the CPU was set to, in MHz.
    pub set_mhz: f64,
    /// What the CPU's true counters did meanwhile, in MHz.
    pub ran_mhz: f64,
    /// What the guest found out by itself, in MHz.
    pub seen_mhz: f64,
    /// VM exits that the guest's reads took.
    pub exits: u64,
    pub reads: u64,
    /// How far the host's own reads were off, in ticks.
    pub host_error: u64,
}

pub fn print(rows: &[Row]) {
    let line = "+----------+----------+-----------+-----------------+-----------+";
    println!("{line}");
    println!("|   CPU is |      CPU | the guest | VM exits by the | the host  |");
    println!("|   set to |   ran at |      sees | guest's reads   | is off by |");
    println!("{line}");
    for row in rows {
        let exits = format!("{} in {} reads", row.exits, row.reads);
        println!(
            "| {:>4.0} MHz | {:>4.0} MHz | {:>5.1} MHz | {exits:<15} | {:>3} ticks |",
            row.set_mhz, row.ran_mhz, row.seen_mhz, row.host_error,
        );
    }
    println!("{line}");
}

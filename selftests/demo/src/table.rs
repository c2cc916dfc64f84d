// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The table at the end.

/// One guest at one frequency.
pub struct Row {
    pub guest: &'static str,
    /// What the CPU was set to, in MHz.
    pub set_mhz: f64,
    /// What the CPU's true counters did meanwhile, in MHz.
    pub ran_mhz: f64,
    /// What the guest found out by itself, in MHz.
    pub seen_mhz: f64,
    /// VM exits that the guest's reads took, if the reads were counted.
    pub exits: Option<(u64, u64)>,
    /// How far the host's own reads were off, in ticks.
    pub host_error: u64,
}

pub fn print(rows: &[Row]) {
    let line = "+--------------+----------+----------+-----------+------------------+-----------+";
    println!("{line}");
    println!("| guest        |   CPU is |      CPU | the guest | VM exits by the  | the host  |");
    println!("|              |   set to |   ran at |      sees | guest's reads    | is off by |");
    println!("{line}");
    for (index, row) in rows.iter().enumerate() {
        if index > 0 && rows[index - 1].guest != row.guest {
            println!("{line}");
        }
        let exits = match row.exits {
            Some((exits, reads)) => format!("{exits} in {reads} reads"),
            None => String::new(),
        };
        println!(
            "| {:<12} | {:>4.0} MHz | {:>4.0} MHz | {:>5.1} MHz | {exits:<16} | {:>3} ticks |",
            row.guest, row.set_mhz, row.ran_mhz, row.seen_mhz, row.host_error,
        );
    }
    println!("{line}");
}

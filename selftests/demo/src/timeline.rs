// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What was seen over time: a line for people at once, and in the end all again as
//! CSV, which scripts/demo.sh takes out.

/// One sample of the guest's.
pub struct Moment {
    /// Since the first one.
    pub seconds: f64,
    /// A neighbour runs on the CPU.
    pub shared: bool,
    /// What the CPU's true counters did since the last one, in MHz.
    pub cpu_mhz: f64,
    /// The guest's share of it, in MHz, by the host scheduler's account.
    pub got_mhz: f64,
    /// What the guest's /proc/cpuinfo shows.
    pub guest_mhz: f64,
    /// What the host's /proc/cpuinfo shows for the same CPU.
    pub host_mhz: f64,
    /// What turbostat on the host shows for it since the last one.
    pub turbostat_mhz: f64,
    /// How far the host's own reads of the counters were off, in ticks.
    pub host_error: u64,
}

pub struct Timeline(Vec<Moment>);

impl Timeline {
    pub fn new() -> Self {
        Timeline(Vec::new())
    }

    pub fn head(&self) {
        println!();
        println!("  time     CPU  host sees  turbostat  off by     guest got  guest sees");
    }

    /// Shows the moment, with a bar of what the guest sees.
    pub fn add(&mut self, moment: Moment) {
        let Moment {
            seconds,
            shared,
            cpu_mhz,
            got_mhz,
            guest_mhz,
            host_mhz,
            turbostat_mhz,
            host_error,
        } = moment;
        println!(
            "{seconds:>5.2} s {cpu_mhz:>4.0} MHz {host_mhz:>6.0} MHz {turbostat_mhz:>6.0} MHz {host_error:>3} ticks \
             {got_mhz:>8.0} MHz {guest_mhz:>7.0} MHz {:<20}{}",
            "#".repeat((guest_mhz / 15.0) as usize),
            if shared { " shared" } else { "" },
        );
        self.0.push(moment);
    }

    pub fn csv(&self) {
        println!(
            "csv seconds,shared,cpu_mhz,guest_got_mhz,guest_sees_mhz,host_sees_mhz,\
             turbostat_mhz,host_off_ticks"
        );
        for m in &self.0 {
            println!(
                "csv {:.4},{},{:.1},{:.1},{:.1},{:.1},{:.1},{}",
                m.seconds,
                u8::from(m.shared),
                m.cpu_mhz,
                m.got_mhz,
                m.guest_mhz,
                m.host_mhz,
                m.turbostat_mhz,
                m.host_error
            );
        }
    }
}

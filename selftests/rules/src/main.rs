// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The kselftest collection `aperfmperf`: one program, called by links with the names of
//! its tests, each of which is a module. As programs of their own they made the emulated
//! machine load and unpack four times as much at each boot.

use std::env;
use std::process::ExitCode;

macro_rules! tests {
    ($($test:ident)*) => {
        $(mod $test;)*

        const TESTS: &[(&str, fn() -> ExitCode)] = &[$((stringify!($test), $test::main)),*];
    };
}

tests! {
    c0_hlt_in_guest
    c0_init_sipi
    c0_mp_state
    c0_mwait
    c0_nested_hlt
    c0_userspace_hlt
    c0_wake
    clean_exit
    cpuid_reset
    create_fails
    debugfs
    drift
    emulated_clocks
    emulated_watch
    fuzz
    grant
    guest_aperf
    guest_exit
    guest_halt
    guest_isolation
    guest_steal
    guest_write
    host_continuity
    host_readers
    host_writes
    hotplug
    intercepted_catchup
    intercepted_filter
    intercepted_high
    intercepted_host
    intercepted_tsc
    kexec
    kill
    linux_guest
    load_fails
    migrate_cpus
    migration
    msr_state
    neighbours
    no_counters
    no_exit
    opt_in
    pause
    perf_groups
    power_on
    pstate_driver
    rdpru
    suspend
    sweep
    tracepoints
    unload_busy
    unstable_tsc
    user_isolation
}

fn main() -> ExitCode {
    let called = env::args().next().unwrap_or_default();
    let name = called.rsplit('/').next().unwrap_or_default();
    match TESTS.iter().find(|(test, _)| *test == name) {
        Some((_, main)) => main(),
        None => {
            let names: Vec<_> = TESTS.iter().map(|(test, _)| *test).collect();
            eprintln!(
                "error: '{name}' is no test. Call this program by a link with the name of one: {}",
                names.join(" ")
            );
            ExitCode::from(2)
        }
    }
}

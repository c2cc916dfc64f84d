// SPDX-License-Identifier: GPL-2.0

//! Counters at the end of their range.

#[cfg_attr(not(test), kernel::macros::kunit_tests(kvm_aperfmperf_overflow))]
mod rules {
    use super::super::{
        super::{
            cpu::Cpu,
            hardware::{
                Counter::{
                    Aperf,
                    Mperf, //
                },
                Pair, //
            },
            simulator::Simulator, //
        },
        calibrated,
        guest_pair,
        host_error,
        in_c0,
        WINDOW, //
    };

    /// The value from which `ticks` remain until the overflow.
    const fn before_overflow(ticks: u64) -> u64 {
        0u64.wrapping_sub(ticks)
    }

    #[test]
    fn both_count_on_from_zero_when_guest_mperf_overflows() {
        let (sim, cpu) = (Simulator::new(512), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.load(&sim, &mut vcpu);
        cpu.guest_write(&sim, &mut vcpu, Aperf, 1 << 40);
        cpu.guest_write(&sim, &mut vcpu, Mperf, before_overflow(10_000));
        sim.run(50_000);
        let guest = guest_pair(&sim, &cpu, &mut vcpu);
        assert!(guest.mperf.abs_diff(40_000) <= WINDOW);
        assert!(guest.aperf.abs_diff(20_000) <= WINDOW);
    }

    #[test]
    fn both_count_on_from_zero_when_guest_aperf_overflows() {
        let (sim, cpu) = (Simulator::new(2048), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.load(&sim, &mut vcpu);
        cpu.guest_write(&sim, &mut vcpu, Aperf, before_overflow(20_000));
        cpu.guest_write(&sim, &mut vcpu, Mperf, 1 << 40);
        sim.run(50_000);
        let guest = guest_pair(&sim, &cpu, &mut vcpu);
        assert!(guest.mperf.abs_diff(40_000) <= WINDOW);
        assert!(guest.aperf.abs_diff(80_000) <= 2 * WINDOW);
    }

    #[test]
    fn guest_mperf_overflows_without_a_cpu_too() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.guest_write(&sim, &mut vcpu, Aperf, 1 << 40);
        cpu.guest_write(&sim, &mut vcpu, Mperf, before_overflow(10_000));
        sim.run(50_000);
        let guest = guest_pair(&sim, &cpu, &mut vcpu);
        assert!(guest.mperf.abs_diff(40_000) <= WINDOW);
        assert_eq!(guest.aperf, 0);
    }

    #[test]
    fn a_read_that_finds_an_overflow_ends_interception() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.load(&sim, &mut vcpu);
        cpu.guest_write(&sim, &mut vcpu, Mperf, before_overflow(10_000));
        sim.run(5_000);
        assert!(cpu.guest_read(&sim, &mut vcpu, Mperf) >= before_overflow(5_000));
        assert!(!vcpu.passthrough());

        sim.run(50_000);
        assert!(guest_pair(&sim, &cpu, &mut vcpu).mperf.abs_diff(45_000) <= 2 * WINDOW);
        assert!(vcpu.passthrough());
        let read = guest_pair(&sim, &cpu, &mut vcpu);
        assert_eq!(sim.msrs().mperf, read.mperf);
        assert!(host_error(&sim, &cpu, Mperf) <= WINDOW);
    }

    #[test]
    fn a_put_that_finds_an_overflow_ends_interception() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.load(&sim, &mut vcpu);
        cpu.guest_write(&sim, &mut vcpu, Aperf, before_overflow(10_000));
        sim.run(50_000);
        cpu.put(&sim, &mut vcpu);
        assert!(vcpu.passthrough());
        cpu.load(&sim, &mut vcpu);
        assert!(sim.msrs().aperf.abs_diff(40_000) <= WINDOW);
    }

    #[test]
    fn an_overflow_leaves_other_reasons_to_intercept() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.load(&sim, &mut vcpu);
        cpu.configure(&sim, &mut vcpu, 1 << 48, 48, true);
        cpu.guest_write(&sim, &mut vcpu, Mperf, before_overflow(10_000));
        sim.run(50_000);
        assert!(guest_pair(&sim, &cpu, &mut vcpu).mperf.abs_diff(40_000) <= WINDOW);
        assert!(!vcpu.passthrough());
    }

    #[test]
    fn the_first_overflow_takes_the_place_of_the_second() {
        let by = Pair {
            aperf: 4000,
            mperf: 1000,
        };
        let aperf_first = Pair {
            aperf: before_overflow(400),
            mperf: before_overflow(600),
        };
        let expected = Pair {
            aperf: 3600,
            mperf: 900,
        };
        assert_eq!(aperf_first.advanced(by), expected);

        let mperf_first = Pair {
            aperf: before_overflow(2100),
            mperf: before_overflow(200),
        };
        let expected = Pair {
            aperf: 3200,
            mperf: 800,
        };
        assert_eq!(mperf_first.advanced(by), expected);
    }

    #[test]
    fn a_host_counter_wraps_under_a_live_guest() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.load(&sim, &mut vcpu);
        cpu.host_write(&sim, Aperf, before_overflow(10_000));
        sim.run(50_000);
        assert!(cpu.host_read(&sim, Aperf).abs_diff(40_000) <= WINDOW);
        assert_eq!(host_error(&sim, &cpu, Mperf), 0);
        let guest = guest_pair(&sim, &cpu, &mut vcpu);
        assert!(guest.aperf.abs_diff(50_000) <= WINDOW);
        cpu.put(&sim, &mut vcpu);
        cpu.restore(&sim);
        assert!(sim.msrs().aperf.abs_diff(40_000) <= 2 * WINDOW);
        assert_eq!(host_error(&sim, &cpu, Mperf), 0);
    }

    #[test]
    fn a_host_counter_near_its_end_is_restored() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.load(&sim, &mut vcpu);
        cpu.host_write(&sim, Aperf, before_overflow(10_000));
        cpu.put(&sim, &mut vcpu);
        cpu.restore(&sim);
        assert!(sim.msrs().aperf.wrapping_neg() <= 10_000);
        sim.run(50_000);
        assert_eq!(sim.msrs(), Pair::ZERO);
    }

    #[test]
    fn an_intercepted_guest_survives_an_overflow_of_the_hosts() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.configure(&sim, &mut vcpu, 1 << 48, 48, true);
        cpu.load(&sim, &mut vcpu);
        cpu.host_write(&sim, Mperf, before_overflow(10_000));
        sim.run(50_000);
        assert_eq!(sim.msrs(), Pair::ZERO);
        let guest = guest_pair(&sim, &cpu, &mut vcpu);
        assert!(guest.mperf.abs_diff(50_000) <= WINDOW);
        assert!(guest.aperf <= 50_000 + WINDOW);
        sim.run(50_000);
        let aperf = cpu.guest_read(&sim, &mut vcpu, Aperf);
        assert!(aperf.abs_diff(guest.aperf + 50_000) <= WINDOW);
    }
}

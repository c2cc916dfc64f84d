// SPDX-License-Identifier: GPL-2.0

//! The host pair, as its readers and its users see it.

#[cfg_attr(not(test), kernel::macros::kunit_tests(kvm_aperfmperf_host))]
mod rules {
    use super::super::{
        super::{
            cpu::{
                Cpu,
                State, //
            },
            hardware::Counter::{
                Aperf,
                Mperf, //
            },
            simulator::Simulator, //
        },
        calibrated,
        host_error,
        in_c0,
        SAMPLE,
        WINDOW, //
    };

    /// TSC ticks that an SMI takes.
    const STALL: u64 = 10_000_000;

    #[test]
    fn host_continuity_over_many_switches() {
        let (sim, cpu) = (Simulator::new(700), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpus = [in_c0(&sim, &cpu), in_c0(&sim, &cpu), in_c0(&sim, &cpu)];
        for _ in 0..3000 {
            let vcpu = &mut vcpus[sim.random(3) as usize];
            cpu.load(&sim, vcpu);
            sim.run(sim.random(50_000));
            if sim.random(3) == 0 {
                cpu.set_c0(&sim, vcpu, false);
                sim.idle(sim.random(50_000));
                cpu.set_c0(&sim, vcpu, true);
            }
            assert_eq!(host_error(&sim, &cpu, Mperf), 0);
            cpu.put(&sim, vcpu);
            if sim.random(2) == 0 {
                cpu.restore(&sim);
            }
            sim.run(sim.random(2000));
            assert_eq!(host_error(&sim, &cpu, Mperf), 0);
            // Below one tick a switch, and rounding has no preferred direction. Uncompensated, it
            // would be WINDOW times the number of switches.
            assert!(host_error(&sim, &cpu, Aperf) <= 128);
        }
    }

    #[test]
    fn host_continuity_while_the_frequency_changes() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        for ratio in [256, 2048, 512] {
            sim.set_ratio(ratio);
            sim.run(1 << 15);
            let error = host_error(&sim, &cpu, Aperf);
            for _ in 0..500 {
                cpu.load(&sim, &mut vcpu);
                sim.run(50_000);
                cpu.put(&sim, &mut vcpu);
                cpu.restore(&sim);
                sim.run(50_000);
            }
            // The first switches still know the old frequency.
            let drift = host_error(&sim, &cpu, Aperf).abs_diff(error);
            assert!(drift <= 6 * WINDOW);
        }
    }

    #[test]
    fn host_continuity_after_a_reset_of_the_counters() {
        let (sim, cpu) = (Simulator::new(300), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        let offset = cpu.host_read(&sim, Aperf).wrapping_sub(sim.msrs().aperf);
        sim.reset();
        let reset = sim.truth().aperf;
        cpu.load(&sim, &mut vcpu);
        let since = cpu.host_read(&sim, Aperf).wrapping_sub(offset);
        // The rate that was known is as good as ever.
        assert!(since.abs_diff(sim.truth().aperf - reset) <= 2);
    }

    #[test]
    fn host_continuity_after_a_write_forward() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.host_write(&sim, Aperf, 1 << 40);
        sim.run(50_000);
        let moved = host_error(&sim, &cpu, Aperf);
        cpu.load(&sim, &mut vcpu);
        // The jump is no frequency.
        assert!(host_error(&sim, &cpu, Aperf).abs_diff(moved) <= 2);
    }

    #[test]
    fn host_continuity_with_a_stall_at_every_access() {
        for access in 0..24 {
            let (sim, cpu) = (Simulator::new(1500), Cpu::new());
            assert!(calibrated(&sim, &cpu));
            let mut vcpu = in_c0(&sim, &cpu);
            let start = sim.now();
            sim.stall_after(access, STALL);
            cpu.load(&sim, &mut vcpu);
            assert!(sim.msrs().mperf.abs_diff(sim.now() - start) <= 2 * WINDOW);
            sim.run(1000);
            assert_eq!(host_error(&sim, &cpu, Mperf), 0);
            cpu.put(&sim, &mut vcpu);
            cpu.restore(&sim);
            sim.run(1000);
            assert_eq!(host_error(&sim, &cpu, Mperf), 0);
            assert!(host_error(&sim, &cpu, Aperf) <= STALL >> 13);
            assert!(sim.msrs().mperf.abs_diff(sim.truth().mperf) <= WINDOW);
        }
    }

    #[test]
    fn host_continuity_for_an_nmi_at_every_access() {
        let cpu = Cpu::new();
        let sim = Simulator::new(600);
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        sim.nmi_reads(&cpu);
        for _ in 0..200 {
            cpu.load(&sim, &mut vcpu);
            sim.run(sim.random(40_000));
            cpu.put(&sim, &mut vcpu);
            cpu.restore(&sim);
        }
        assert!(sim.nmis.get() > 2000);
        assert!(sim.nmi_error.get().mperf <= SAMPLE);
        assert!(sim.nmi_error.get().aperf <= SAMPLE);
    }

    #[test]
    fn user_isolation_after_restore() {
        let (sim, cpu) = (Simulator::new(900), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        for _ in 0..1000 {
            cpu.load(&sim, &mut vcpu);
            sim.run(20_000);
            cpu.put(&sim, &mut vcpu);
            assert_eq!(cpu.state(), State::Stale);
            cpu.restore(&sim);
            assert_eq!(cpu.state(), State::Host);
            assert_eq!(sim.msrs().mperf, sim.truth().mperf);
            let host = cpu.host_read(&sim, Aperf);
            assert!(sim.msrs().aperf.abs_diff(host) <= 2);
        }
    }

    #[test]
    fn clean_exit_after_a_late_write() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.load(&sim, &mut vcpu);
        sim.run(20_000);
        cpu.put(&sim, &mut vcpu);
        // Between the last look at the TSC and the write of MPERF.
        sim.stall_after(6, 40);
        cpu.restore(&sim);
        assert!(sim.msrs().mperf.abs_diff(sim.truth().mperf) >= 40);
        cpu.leave(&sim);
        assert_eq!(sim.msrs().mperf, sim.truth().mperf);
    }

    #[test]
    fn restore_under_a_running_vcpu_leaks_nothing() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.load(&sim, &mut vcpu);
        cpu.restore(&sim);
        cpu.put(&sim, &mut vcpu);
        assert!(cpu.guest_read(&sim, &mut vcpu, Aperf) <= WINDOW);
        assert_eq!(cpu.state(), State::Host);
    }

    #[test]
    fn host_writes_move_the_host_only() {
        for intercept in [false, true] {
            let (sim, cpu) = (Simulator::new(1024), Cpu::new());
            assert!(calibrated(&sim, &cpu));
            let mut vcpu = in_c0(&sim, &cpu);
            cpu.configure(&sim, &mut vcpu, 1 << 48, 48, intercept);
            cpu.load(&sim, &mut vcpu);
            sim.run(1000);
            cpu.host_write(&sim, Aperf, 77);
            assert!(cpu.host_read(&sim, Aperf) <= 77 + WINDOW);
            sim.run(1000);
            cpu.put(&sim, &mut vcpu);
            sim.stall_after(6, 40);
            cpu.restore(&sim);
            let guest = cpu.guest_read(&sim, &mut vcpu, Aperf);
            assert!(guest >= 2000);
            assert!(guest <= 2000 + 2 * WINDOW);
            assert!(cpu.host_read(&sim, Aperf) <= 1077 + 4 * WINDOW);

            let before = sim.now();
            cpu.host_write(&sim, Mperf, 99);
            assert!(sim.msrs().mperf == 99);
            assert!(cpu.host_read(&sim, Mperf) <= 99 + (sim.now() - before));
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The rules, held against a simulated CPU.

#[cfg_attr(not(test), kernel::macros::kunit_tests(kvm_aperfmperf))]
mod rules {
    use super::super::{
        cpu::{
            Cpu,
            State, //
        },
        hardware::{
            Counter::{
                self,
                Aperf,
                Mperf, //
            },
            Hardware,
            Pair, //
        },
        simulator::Simulator,
        vcpu::Vcpu,
    };

    /// More ticks than any switch takes on the simulated CPU, uninterrupted.
    const WINDOW: u64 = 200;
    /// More ticks than one sample takes, NMIs at each of its accesses included.
    const SAMPLE: u64 = 64;
    const STALL: u64 = 10_000_000;

    fn calibrated(sim: &Simulator<'_>, cpu: &Cpu) -> bool {
        cpu.calibrate(sim)
    }

    fn in_c0(sim: &Simulator<'_>, cpu: &Cpu) -> Vcpu {
        let mut vcpu = Vcpu::new(false);
        cpu.configure(sim, &mut vcpu, 1 << 48, 48, false);
        cpu.set_c0(sim, &mut vcpu, true);
        vcpu
    }

    /// How far `counter`, as the host reads it, is from the truth.
    fn host_error(sim: &Simulator<'_>, cpu: &Cpu, counter: Counter) -> u64 {
        let read = cpu.host_read(sim, counter);
        read.abs_diff(sim.truth().get(counter))
    }

    fn guest_pair(sim: &Simulator<'_>, cpu: &Cpu, vcpu: &mut Vcpu) -> Pair {
        Pair {
            aperf: cpu.guest_read(sim, vcpu, Aperf),
            mperf: cpu.guest_read(sim, vcpu, Mperf),
        }
    }

    #[test]
    fn calibration_accepts_mperf_at_tsc_rate_only() {
        let (sim, cpu) = (Simulator::new(700), Cpu::new());
        assert!(calibrated(&sim, &cpu));

        struct Halved<'a>(Simulator<'a>);
        impl Hardware for Halved<'_> {
            fn tsc(&self) -> u64 {
                self.0.tsc()
            }
            fn read(&self, counter: Counter) -> u64 {
                self.0.read(counter) / 2
            }
            fn write(&self, counter: Counter, value: u64) {
                self.0.write(counter, value)
            }
        }
        assert!(!Cpu::new().calibrate(&Halved(Simulator::new(700))));
    }

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
    fn guest_aperf_advances_while_live_only() {
        let (sim, cpu) = (Simulator::new(2048), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        let mut live = 0;
        for _ in 0..100 {
            cpu.load(&sim, &mut vcpu);
            let start = sim.truth().aperf;
            sim.run(10_000);
            live += sim.truth().aperf - start;
            cpu.put(&sim, &mut vcpu);
            sim.run(30_000);
        }
        let read = cpu.guest_read(&sim, &mut vcpu, Aperf);
        assert!(read >= live);
        assert!(read - live <= 100 * 2 * SAMPLE);
    }

    #[test]
    fn guest_mperf_is_tsc_time_in_c0() {
        let (sim, cpu) = (Simulator::new(512), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        let start = sim.now();
        for _ in 0..3000 {
            cpu.load(&sim, &mut vcpu);
            sim.run(sim.random(3000));
            cpu.put(&sim, &mut vcpu);
            sim.run(sim.random(3000));
            sim.idle(sim.random(3000));
        }
        let read = cpu.guest_read(&sim, &mut vcpu, Mperf);
        assert!(read.abs_diff(sim.now() - start) <= SAMPLE);

        sim.run(100_000);
        cpu.load(&sim, &mut vcpu);
        assert!(sim.msrs().mperf.abs_diff(sim.now() - start) <= 2 * WINDOW);
        cpu.set_c0(&sim, &mut vcpu, false);
        let halted = guest_pair(&sim, &cpu, &mut vcpu);
        sim.run(1_000_000);
        assert_eq!(guest_pair(&sim, &cpu, &mut vcpu), halted);
        cpu.put(&sim, &mut vcpu);
        sim.run(1_000_000);
        assert_eq!(guest_pair(&sim, &cpu, &mut vcpu), halted);
    }

    #[test]
    fn a_late_write_of_guest_mperf_is_made_good() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        let start = sim.now();
        // Just before the WRMSR: after the checkpoint's RDTSC, a sample, the last look at the TSC
        // and the write of APERF.
        sim.stall_after(7, 40);
        cpu.load(&sim, &mut vcpu);
        let in_c0 = sim.now() - start;
        assert!(sim.msrs().mperf < in_c0);
        cpu.set_c0(&sim, &mut vcpu, false);
        assert!(cpu.guest_read(&sim, &mut vcpu, Mperf) >= in_c0);
    }

    #[test]
    fn guest_isolation_and_power_on_at_zero() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut first = in_c0(&sim, &cpu);
        cpu.load(&sim, &mut first);
        sim.run(5_000_000);
        assert!(sim.msrs().aperf < 5_000_000 + WINDOW);
        assert_eq!(cpu.guest_read(&sim, &mut first, Aperf), sim.msrs().aperf);
        assert_eq!(cpu.guest_read(&sim, &mut first, Mperf), sim.msrs().mperf);
        cpu.put(&sim, &mut first);

        let mut second = in_c0(&sim, &cpu);
        cpu.load(&sim, &mut second);
        assert!(sim.msrs().aperf <= WINDOW);
        assert!(sim.msrs().mperf <= 2 * WINDOW);
        assert_eq!(cpu.state(), State::Live);
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

    #[test]
    fn intercepted_mode_writes_nothing_and_scales_mperf() {
        let (sim, cpu) = (Simulator::new(512), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        let writes = sim.writes.get();
        cpu.configure(&sim, &mut vcpu, 3 << 31, 32, false);
        assert!(!vcpu.passthrough());
        let start = sim.now();
        cpu.load(&sim, &mut vcpu);
        let mut last = Pair::ZERO;
        for _ in 0..1000 {
            sim.run(1001);
            let now = guest_pair(&sim, &cpu, &mut vcpu);
            assert!(now.aperf >= last.aperf);
            assert!(now.mperf >= last.mperf);
            last = now;
        }
        let elapsed = sim.now() - start;
        assert!(last.mperf.abs_diff(elapsed + elapsed / 2) <= 2 * WINDOW);
        assert!(last.aperf.abs_diff(elapsed / 2) <= WINDOW);
        cpu.put(&sim, &mut vcpu);
        assert_eq!(sim.writes.get(), writes);
    }

    #[test]
    fn interception_for_the_hosts_sake_stays() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        let mut vcpu = Vcpu::new(true);
        assert!(!vcpu.passthrough());
        cpu.configure(&sim, &mut vcpu, 1 << 48, 48, false);
        assert!(!vcpu.passthrough());
    }

    #[test]
    fn a_cpu_with_a_tsc_slightly_behind_is_harmless() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        let mut vcpu = in_c0(&sim, &cpu);
        sim.run(5000);
        let before = cpu.guest_read(&sim, &mut vcpu, Mperf);
        sim.tsc_behind(100);
        assert_eq!(cpu.guest_read(&sim, &mut vcpu, Mperf), before);
    }

    #[test]
    fn a_change_of_mode_is_invisible() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.load(&sim, &mut vcpu);
        let start = sim.now();
        let mut last = Pair::ZERO;
        for turn in 0..400 {
            sim.run(sim.random(5000));
            cpu.configure(&sim, &mut vcpu, 1 << 48, 48, turn % 2 == 0);
            assert_eq!(vcpu.passthrough(), turn % 2 == 1);
            let now = guest_pair(&sim, &cpu, &mut vcpu);
            assert!(now.aperf >= last.aperf);
            assert!(now.mperf >= last.mperf);
            assert!(now.mperf.abs_diff(sim.now() - start) <= 2 * WINDOW);
            last = now;
        }
    }

    #[test]
    fn high_guest_values_never_reach_the_msrs() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.load(&sim, &mut vcpu);
        cpu.guest_write(&sim, &mut vcpu, Aperf, u64::MAX - 1000);
        assert!(!vcpu.passthrough());
        assert!(cpu.guest_read(&sim, &mut vcpu, Aperf) > u64::MAX - 1001);
        assert!(sim.msrs().aperf < 1 << 62);
        assert_eq!(host_error(&sim, &cpu, Mperf), 0);

        // Either overflow resets both.
        sim.run(10_000);
        cpu.guest_write(&sim, &mut vcpu, Mperf, 5);
        assert!(cpu.guest_read(&sim, &mut vcpu, Aperf) <= WINDOW);
        assert!(vcpu.passthrough());
        cpu.guest_write(&sim, &mut vcpu, Mperf, 1 << 62);
        assert!(!vcpu.passthrough());
    }

    #[test]
    fn only_a_change_disturbs_a_live_vcpu() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.load(&sim, &mut vcpu);
        sim.run(100_000);
        let writes = sim.writes.get();
        cpu.set_c0(&sim, &mut vcpu, true);
        cpu.configure(&sim, &mut vcpu, 1 << 48, 48, false);
        assert_eq!(sim.writes.get(), writes);
        cpu.guest_write(&sim, &mut vcpu, Aperf, 0);
        let now = guest_pair(&sim, &cpu, &mut vcpu);
        assert!(now.aperf <= 2 * WINDOW);
        assert!(now.mperf >= 100_000);
    }
}

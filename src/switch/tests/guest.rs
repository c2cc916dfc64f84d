// SPDX-License-Identifier: GPL-2.0

//! The guest pair, as an RDMSR in the guest sees it.

#[cfg_attr(not(test), kernel::macros::kunit_tests(kvm_aperfmperf_guest))]
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
        guest_pair,
        in_c0,
        SAMPLE,
        WINDOW, //
    };

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
    fn only_a_change_disturbs_a_live_vcpu() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.load(&sim, &mut vcpu);
        sim.run(100_000);
        let writes = sim.accesses().wrmsr;
        cpu.set_c0(&sim, &mut vcpu, true);
        cpu.configure(&sim, &mut vcpu, 1 << 48, 48, false);
        assert_eq!(sim.accesses().wrmsr, writes);
        cpu.guest_write(&sim, &mut vcpu, Aperf, 0);
        let now = guest_pair(&sim, &cpu, &mut vcpu);
        assert!(now.aperf <= 2 * WINDOW);
        assert!(now.mperf >= 100_000);
    }

    #[test]
    fn a_cpu_with_a_tsc_slightly_behind_is_harmless() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        let mut vcpu = in_c0(&sim, &cpu);
        sim.run(5000);
        let before = cpu.guest_read(&sim, &mut vcpu, Mperf);
        sim.tsc_behind(100);
        assert_eq!(cpu.guest_read(&sim, &mut vcpu, Mperf), before);
        // And back. Those ticks must not count twice.
        sim.idle(100);
        assert!(cpu.guest_read(&sim, &mut vcpu, Mperf) <= before + SAMPLE);
    }

    #[test]
    fn hops_between_cpus_of_different_tsc_do_not_add_up() {
        const BEHIND: u64 = 5000;
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        let start = sim.now();
        for _ in 0..100 {
            // There, where the TSC has not come so far yet, and back.
            sim.tsc_behind(BEHIND);
            cpu.load(&sim, &mut vcpu);
            cpu.put(&sim, &mut vcpu);
            sim.idle(BEHIND);
            cpu.load(&sim, &mut vcpu);
            cpu.put(&sim, &mut vcpu);
        }
        let read = cpu.guest_read(&sim, &mut vcpu, Mperf);
        assert!(read.abs_diff(sim.now() - start) <= BEHIND);
    }

    #[test]
    fn a_tsc_that_was_reset_is_followed() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        sim.run(5000);
        let before = cpu.guest_read(&sim, &mut vcpu, Mperf);
        sim.tsc_behind(1 << 39);
        assert_eq!(cpu.guest_read(&sim, &mut vcpu, Mperf), before);
        sim.run(5000);
        cpu.load(&sim, &mut vcpu);
        sim.run(5000);
        let read = cpu.guest_read(&sim, &mut vcpu, Mperf);
        assert!(read >= before + 10_000);
        assert!(read <= before + 10_000 + WINDOW);
    }
}

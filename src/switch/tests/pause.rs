// SPDX-License-Identifier: GPL-2.0

//! A guest that userspace has stopped, and what MPERF tells it about that.

#[cfg_attr(not(test), kernel::macros::kunit_tests(kvm_aperfmperf_pause))]
mod rules {
    use super::super::{
        super::{
            cpu::Cpu,
            hardware::Counter::Mperf,
            simulator::Simulator,
            vcpu::Vcpu, //
        },
        calibrated,
        in_c0,
        WINDOW, //
    };

    const RUN: u64 = 50_000;
    const PAUSE: u64 = 1_000_000;

    fn run(sim: &Simulator<'_>, cpu: &Cpu, vcpu: &mut Vcpu) {
        cpu.load(sim, vcpu);
        sim.run(RUN);
        cpu.put(sim, vcpu);
    }

    #[test]
    fn a_pause_is_forgotten_once() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        run(&sim, &cpu, &mut vcpu);
        sim.run(PAUSE);
        run(&sim, &cpu, &mut vcpu);
        sim.run(PAUSE);
        cpu.forget_pause(&sim, &mut vcpu);
        cpu.forget_pause(&sim, &mut vcpu);
        // The first pause is over: the guest may have seen it.
        let expected = 2 * RUN + PAUSE;
        let read = cpu.guest_read(&sim, &mut vcpu, Mperf);
        assert!(read.abs_diff(expected) <= 3 * WINDOW);
    }

    #[test]
    fn a_look_at_a_paused_guest_is_no_end_of_the_pause() {
        for intercept in [false, true] {
            let (sim, cpu) = (Simulator::new(1024), Cpu::new());
            assert!(calibrated(&sim, &cpu));
            let mut vcpu = in_c0(&sim, &cpu);
            run(&sim, &cpu, &mut vcpu);
            sim.run(PAUSE);
            cpu.guest_read(&sim, &mut vcpu, Mperf);
            sim.run(PAUSE);
            cpu.configure(&sim, &mut vcpu, 1 << 48, 48, !intercept);
            sim.run(PAUSE);
            cpu.configure(&sim, &mut vcpu, 1 << 48, 48, intercept);
            sim.run(PAUSE);
            cpu.forget_pause(&sim, &mut vcpu);
            let read = cpu.guest_read(&sim, &mut vcpu, Mperf);
            assert!(read.abs_diff(RUN) <= 2 * WINDOW);
        }
    }

    #[test]
    fn a_value_written_during_a_pause_stays() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        run(&sim, &cpu, &mut vcpu);
        sim.run(PAUSE);
        cpu.guest_write(&sim, &mut vcpu, Mperf, 2 * PAUSE);
        cpu.forget_pause(&sim, &mut vcpu);
        let read = cpu.guest_read(&sim, &mut vcpu, Mperf);
        assert!(read >= 2 * PAUSE);
        assert!(read <= 2 * PAUSE + WINDOW);
    }

    #[test]
    fn a_vcpu_that_is_restored_as_halted_has_exactly_what_was_saved() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.guest_write(&sim, &mut vcpu, Mperf, PAUSE);
        sim.run(PAUSE);
        cpu.set_c0(&sim, &mut vcpu, false);
        assert_eq!(cpu.guest_read(&sim, &mut vcpu, Mperf), PAUSE);

        // From here on its MP_STATE is known.
        cpu.set_c0(&sim, &mut vcpu, true);
        sim.run(PAUSE);
        cpu.set_c0(&sim, &mut vcpu, false);
        assert!(cpu.guest_read(&sim, &mut vcpu, Mperf) >= 2 * PAUSE);
    }

    #[test]
    fn a_vcpu_that_was_restored_and_ran_is_like_any_other() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.guest_write(&sim, &mut vcpu, Mperf, 0);
        run(&sim, &cpu, &mut vcpu);
        sim.run(PAUSE);
        cpu.set_c0(&sim, &mut vcpu, false);
        assert!(cpu.guest_read(&sim, &mut vcpu, Mperf) >= RUN + PAUSE);
    }

    #[test]
    fn time_on_a_cpu_is_no_pause() {
        for intercept in [false, true] {
            let (sim, cpu) = (Simulator::new(1024), Cpu::new());
            assert!(calibrated(&sim, &cpu));
            let mut vcpu = in_c0(&sim, &cpu);
            cpu.configure(&sim, &mut vcpu, 1 << 48, 48, intercept);
            cpu.load(&sim, &mut vcpu);
            sim.run(RUN);
            let before = cpu.guest_read(&sim, &mut vcpu, Mperf);
            sim.run(RUN);
            cpu.put(&sim, &mut vcpu);
            cpu.forget_pause(&sim, &mut vcpu);
            assert!(cpu.guest_read(&sim, &mut vcpu, Mperf) >= before + RUN);
        }
    }
}

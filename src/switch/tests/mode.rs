// SPDX-License-Identifier: GPL-2.0

//! Interception: when, and that the guest cannot tell.

#[cfg_attr(not(test), kernel::macros::kunit_tests(kvm_aperfmperf_mode))]
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

    #[test]
    fn intercepted_mode_writes_nothing_and_scales_mperf() {
        let (sim, cpu) = (Simulator::new(512), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        let writes = sim.accesses().wrmsr;
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
        assert_eq!(sim.accesses().wrmsr, writes);
    }

    #[test]
    fn intercepted_mode_leaves_out_a_halt_that_does_not_exit() {
        let (sim, cpu) = (Simulator::new(512), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.configure(&sim, &mut vcpu, 1 << 48, 48, true);
        cpu.load(&sim, &mut vcpu);
        let start = guest_pair(&sim, &cpu, &mut vcpu);
        let truth = sim.truth();
        for _ in 0..100 {
            sim.run(10_000);
            sim.idle(1_000_000);
        }
        let advance = guest_pair(&sim, &cpu, &mut vcpu).minus(start);
        assert!(advance.mperf.abs_diff(sim.truth().mperf - truth.mperf) <= WINDOW);
        assert!(advance.aperf.abs_diff(sim.truth().aperf - truth.aperf) <= WINDOW);
        cpu.put(&sim, &mut vcpu);
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

        cpu.guest_write(&sim, &mut vcpu, Aperf, 5);
        assert!(vcpu.passthrough());
        cpu.guest_write(&sim, &mut vcpu, Mperf, 1 << 62);
        assert!(!vcpu.passthrough());
    }
}

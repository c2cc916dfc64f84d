// SPDX-License-Identifier: GPL-2.0

//! A host that goes to sleep, and what its guests' MPERF tells about that.

#[cfg_attr(not(test), kernel::macros::kunit_tests(kvm_aperfmperf_sleep))]
mod rules {
    use super::super::{
        super::{
            cpu::Cpu,
            hardware::Counter::Mperf,
            simulator::Simulator,
            sleep::Sleeps,
            vcpu::Vcpu, //
        },
        calibrated,
        in_c0,
        WINDOW, //
    };

    const RUN: u64 = 50_000;
    const SLEEP: u64 = 1_000_000;

    /// KVM_RUN, as the module has it.
    fn run(sim: &Simulator<'_>, cpu: &Cpu, vcpu: &mut Vcpu, sleeps: &Sleeps) {
        cpu.forget_sleep(sim, vcpu, sleeps);
        cpu.load(sim, vcpu);
        sim.run(RUN);
        cpu.put(sim, vcpu);
    }

    #[test]
    fn a_sleep_does_not_count_whenever_the_vcpu_runs() {
        // Whether it runs again between the notice and the freezing of tasks, and between their
        // thawing and the notice of that.
        for (before, after) in [(false, false), (false, true), (true, false), (true, true)] {
            let (sim, cpu, sleeps) = (Simulator::new(1024), Cpu::new(), Sleeps::new());
            assert!(calibrated(&sim, &cpu));
            let mut vcpu = in_c0(&sim, &cpu);
            for _ in 0..2 {
                run(&sim, &cpu, &mut vcpu, &sleeps);
                let start = cpu.guest_read(&sim, &mut vcpu, Mperf);
                sleeps.begin();
                let mut runs = 1;
                if before {
                    run(&sim, &cpu, &mut vcpu, &sleeps);
                    runs += 1;
                }
                sim.run(SLEEP);
                if after {
                    run(&sim, &cpu, &mut vcpu, &sleeps);
                    runs += 1;
                }
                sleeps.end();
                run(&sim, &cpu, &mut vcpu, &sleeps);
                let advance = cpu.guest_read(&sim, &mut vcpu, Mperf) - start;
                assert!(advance.abs_diff(runs * RUN) <= runs * WINDOW);
            }
        }
    }

    #[test]
    fn time_between_sleeps_counts() {
        let (sim, cpu, sleeps) = (Simulator::new(1024), Cpu::new(), Sleeps::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        // The module was loaded in the midst of a sleep.
        sleeps.end();
        run(&sim, &cpu, &mut vcpu, &sleeps);
        sim.run(SLEEP);
        run(&sim, &cpu, &mut vcpu, &sleeps);
        sleeps.begin();
        sleeps.end();
        run(&sim, &cpu, &mut vcpu, &sleeps);
        sim.run(SLEEP);
        run(&sim, &cpu, &mut vcpu, &sleeps);
        let expected = 4 * RUN + 2 * SLEEP;
        let read = cpu.guest_read(&sim, &mut vcpu, Mperf);
        assert!(read.abs_diff(expected) <= 10 * WINDOW);
    }
}

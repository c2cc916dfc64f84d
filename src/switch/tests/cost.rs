// SPDX-License-Identifier: GPL-2.0

//! What each operation costs: on real CPUs the accesses are all that counts.

#[cfg_attr(not(test), kernel::macros::kunit_tests(kvm_aperfmperf_cost))]
mod rules {
    use super::super::{
        super::{
            cpu::Cpu,
            hardware::Counter::Aperf,
            simulator::{
                Accesses,
                Simulator, //
            }, //
        },
        calibrated,
        in_c0, //
    };

    /// The accesses that `operation` takes.
    fn cost(sim: &Simulator<'_>, operation: impl FnOnce()) -> Accesses {
        let before = sim.accesses();
        operation();
        let after = sim.accesses();
        Accesses {
            rdtsc: after.rdtsc - before.rdtsc,
            rdmsr: after.rdmsr - before.rdmsr,
            wrmsr: after.wrmsr - before.wrmsr,
        }
    }

    const NOTHING: Accesses = accesses(0, 0, 0);
    /// A checkpoint, or a look at a metered vCPU.
    const SAMPLE: Accesses = accesses(2, 2, 0);

    const fn accesses(rdtsc: u64, rdmsr: u64, wrmsr: u64) -> Accesses {
        Accesses {
            rdtsc,
            rdmsr,
            wrmsr,
        }
    }

    #[test]
    fn passed_through() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        let load = accesses(6, 4, 2);
        assert_eq!(cost(&sim, || cpu.load(&sim, &mut vcpu)), load);
        assert_eq!(cost(&sim, || cpu.put(&sim, &mut vcpu)), SAMPLE);
        // As expensive while another guest's values are there.
        assert_eq!(cost(&sim, || cpu.load(&sim, &mut vcpu)), load);
        assert_eq!(cost(&sim, || cpu.set_c0(&sim, &mut vcpu, true)), NOTHING);
        assert_eq!(cost(&sim, || cpu.set_c0(&sim, &mut vcpu, false)), SAMPLE);
        assert_eq!(cost(&sim, || cpu.set_c0(&sim, &mut vcpu, true)), load);
        cpu.put(&sim, &mut vcpu);
        assert_eq!(cost(&sim, || cpu.restore(&sim)), accesses(5, 4, 2));
        assert_eq!(cost(&sim, || cpu.restore(&sim)), NOTHING);
    }

    #[test]
    fn intercepted() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.configure(&sim, &mut vcpu, 1 << 48, 48, true);
        let load = accesses(3, 2, 0);
        assert_eq!(cost(&sim, || cpu.load(&sim, &mut vcpu)), load);
        let read = || {
            cpu.guest_read(&sim, &mut vcpu, Aperf);
        };
        assert_eq!(cost(&sim, read), SAMPLE);
        assert_eq!(cost(&sim, || cpu.put(&sim, &mut vcpu)), SAMPLE);
        assert_eq!(cost(&sim, || cpu.restore(&sim)), NOTHING);
    }

    #[test]
    fn host_reads() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        let read = || {
            cpu.host_read(&sim, Aperf);
        };
        assert_eq!(cost(&sim, read), accesses(0, 1, 0));
        cpu.load(&sim, &mut vcpu);
        assert_eq!(cost(&sim, read), accesses(0, 1, 0));
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What a CPU is measured for before anything is written there.

#[cfg_attr(not(test), kernel::macros::kunit_tests(kvm_aperfmperf_calibration))]
mod rules {
    use super::super::{
        super::{
            calibration::Calibration,
            cpu::Cpu,
            event::{
                Event,
                Observer, //
            },
            hardware::{
                Counter::{
                    self,
                    Aperf,
                    Mperf, //
                },
                Hardware, //
            },
            simulator::Simulator, //
        },
        calibrated,
        host_error,
        in_c0,
        WINDOW, //
    };

    /// TSC ticks that an SMI takes.
    const STALL: u64 = 1_000_000;

    /// A CPU that is not fit for guest values.
    struct Unfit<'a> {
        sim: Simulator<'a>,
        /// MPERF ticks per 1024 of the TSC's.
        mperf: u64,
        /// A counter that takes no writes.
        read_only: Option<Counter>,
    }

    impl Observer for Unfit<'_> {
        fn observe(&self, event: Event) {
            self.sim.observe(event)
        }
    }

    impl Hardware for Unfit<'_> {
        fn tsc(&self) -> u64 {
            self.sim.tsc()
        }
        fn read(&self, counter: Counter) -> u64 {
            let value = self.sim.read(counter);
            match counter {
                Aperf => value,
                Mperf => value.wrapping_mul(self.mperf) / 1024,
            }
        }
        fn write(&self, counter: Counter, value: u64) {
            if self.read_only != Some(counter) {
                self.sim.write(counter, value)
            }
        }
        fn relax(&self) {
            self.sim.relax();
        }
    }

    fn found(mperf: u64, read_only: Option<Counter>) -> (Calibration, u64) {
        let hw = Unfit {
            sim: Simulator::new(700),
            mperf,
            read_only,
        };
        let found = Cpu::new().calibrate(&hw, &hw);
        (found, hw.sim.accesses().wrmsr)
    }

    #[test]
    fn calibration_accepts_mperf_at_tsc_rate_only() {
        assert_eq!(found(1024, None).0, Calibration::Steady);
        for mperf in [512, 1023, 1025] {
            assert_eq!(found(mperf, None), (Calibration::Unsteady, 0));
        }
    }

    #[test]
    fn calibration_notices_that_writes_are_lost() {
        for counter in [Aperf, Mperf] {
            assert_eq!(found(1024, Some(counter)).0, Calibration::ReadOnly);
        }
    }

    #[test]
    fn the_time_that_a_write_takes_is_foreseen() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        sim.write_takes(90);
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.load(&sim, &mut vcpu);
        sim.run(20_000);
        cpu.put(&sim, &mut vcpu);
        cpu.restore(&sim);
        assert_eq!(sim.msrs().mperf, sim.truth().mperf);
    }

    #[test]
    fn an_interruption_of_the_calibration_spoils_nothing() {
        for access in 0..100 {
            let (sim, cpu) = (Simulator::new(700), Cpu::new());
            sim.stall_after(access, STALL);
            assert!(calibrated(&sim, &cpu));
            let mut vcpu = in_c0(&sim, &cpu);
            // In the window of the first exchange: shows how well the frequency is known.
            sim.stall_after(8, STALL);
            cpu.load(&sim, &mut vcpu);
            assert_eq!(host_error(&sim, &cpu, Mperf), 0);
            assert!(host_error(&sim, &cpu, Aperf) <= STALL >> 11);
        }
    }

    #[test]
    fn a_suspend_that_resets_the_counters_tells_no_rate() {
        let (sim, cpu) = (Simulator::new(256), Cpu::new());
        sim.reset();
        assert!(calibrated(&sim, &cpu));
        let before = sim.msrs().mperf;
        sim.set_ratio(2048);
        sim.reset();
        cpu.resume(&sim);
        // MPERF has passed where it was, and seems to have taken little time for it.
        sim.run(before + (1 << 13));
        let error = host_error(&sim, &cpu, Aperf);
        cpu.load(&sim, &mut in_c0(&sim, &cpu));
        assert!(host_error(&sim, &cpu, Aperf).abs_diff(error) <= WINDOW);
    }
}

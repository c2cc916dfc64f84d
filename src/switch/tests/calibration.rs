// SPDX-License-Identifier: GPL-2.0

//! What a CPU is measured for before anything is written there.

#[cfg_attr(not(test), kernel::macros::kunit_tests(kvm_aperfmperf_calibration))]
mod rules {
    use super::super::{
        super::{
            cpu::Cpu,
            hardware::{
                Counter,
                Hardware, //
            },
            simulator::Simulator, //
        },
        calibrated, //
    };

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
}

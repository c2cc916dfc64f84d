// SPDX-License-Identifier: GPL-2.0

//! Who may pass reads through.

#[cfg_attr(not(test), kernel::macros::kunit_tests(kvm_aperfmperf_permit))]
mod rules {
    use super::super::{
        super::{
            cpu::Cpu,
            permit::Permits,
            simulator::Simulator,
            vcpu::Vcpu, //
        },
        in_c0, //
    };

    #[test]
    fn permits_close_when_none_is_out() {
        let permits = Permits::new();
        let first = permits.issue();
        let second = permits.issue();
        assert!(first.is_some());
        assert_eq!(permits.close(), Err(2));
        drop(first);
        assert_eq!(permits.close(), Err(1));
        drop(second);
        assert!(!permits.closed());
        assert!(permits.issue().is_some());
        assert_eq!(permits.close(), Ok(()));
        assert!(permits.closed());
    }

    #[test]
    fn closed_permits_stay_closed() {
        let permits = Permits::new();
        assert_eq!(permits.close(), Ok(()));
        assert!(permits.issue().is_none());
        assert!(permits.closed());
        assert_eq!(permits.close(), Ok(()));
    }

    #[test]
    fn without_a_permit_nothing_is_passed_through() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(in_c0(&sim, &cpu).passthrough());
        let mut vcpu = Vcpu::new(None);
        assert!(!vcpu.passthrough());
        cpu.configure(&sim, &mut vcpu, 1 << 48, 48, false);
        assert!(!vcpu.passthrough());
    }
}

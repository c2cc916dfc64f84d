// SPDX-License-Identifier: GPL-2.0

//! What an observer is told: each step once, with the values that it had.

#[cfg_attr(not(test), kernel::macros::kunit_tests(kvm_aperfmperf_event))]
mod rules {
    use super::super::{
        super::{
            cpu::Cpu,
            event::Event,
            hardware::{
                Counter::{
                    Aperf,
                    Mperf, //
                },
                Pair, //
            },
            mode::{
                Mode,
                Reason, //
            },
            simulator::Simulator,
            vcpu::Vcpu, //
        },
        calibrated,
        guest_pair,
        in_c0,
        WINDOW, //
    };

    const NOTHING: [Option<Event>; 4] = [None; 4];

    /// Whether `earlier` was right at some moment of the last switch, at APERF's full rate.
    fn recent(now: Pair, earlier: Pair) -> bool {
        let since = now.minus(earlier);
        since.aperf <= WINDOW && since.mperf <= WINDOW
    }

    #[test]
    fn switches() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        for _ in 0..3 {
            sim.take_events();
            cpu.load(&sim, &mut vcpu);
            let [Some(Event::Exchange { lost, interrupted }), Some(Event::Load(pair)), None, None] =
                sim.take_events()
            else {
                panic!("not an exchange and a load");
            };
            assert!(!interrupted);
            assert!(0 < lost.mperf && lost.mperf <= WINDOW);
            assert_eq!(lost.aperf, lost.mperf);
            assert!(recent(guest_pair(&sim, &cpu, &mut vcpu), pair));

            sim.run(10_000);
            assert_eq!(sim.take_events(), NOTHING);
            cpu.put(&sim, &mut vcpu);
            let [Some(Event::Put(at_put)), None, None, None] = sim.take_events() else {
                panic!("not a put");
            };
            assert!(at_put.aperf - pair.aperf >= 10_000);
            assert_eq!(cpu.guest_read(&sim, &mut vcpu, Aperf), at_put.aperf);

            cpu.restore(&sim);
            let [Some(Event::Exchange { .. }), Some(Event::Restore(host)), None, None] =
                sim.take_events()
            else {
                panic!("not an exchange and a restore");
            };
            assert!(recent(sim.truth(), host));
            cpu.restore(&sim);
            assert_eq!(sim.take_events(), NOTHING);
        }
    }

    #[test]
    fn metered_switches() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.configure(&sim, &mut vcpu, 1 << 48, 48, true);
        sim.take_events();
        cpu.load(&sim, &mut vcpu);
        cpu.put(&sim, &mut vcpu);
        cpu.restore(&sim);
        let [Some(Event::Load(from)), Some(Event::Put(to)), None, None] = sim.take_events() else {
            panic!("not a load and a put");
        };
        assert!(to.aperf > from.aperf && to.mperf > from.mperf);
    }

    #[test]
    fn an_interrupted_exchange() {
        const STALL: u64 = 1 << 20;

        let (sim, cpu) = (Simulator::new(512), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        sim.take_events();
        // Right after the first write.
        sim.stall_after(6, STALL);
        cpu.load(&sim, &mut vcpu);
        let [Some(Event::Exchange {
            lost,
            interrupted: true,
        }), Some(Event::Exchange {
            interrupted: false, ..
        }), Some(Event::Load(_)), None] = sim.take_events()
        else {
            panic!("not an exchange again");
        };
        assert!(lost.mperf >= STALL);
        assert!(lost.aperf.abs_diff(lost.mperf / 2) <= 1);
    }

    #[test]
    fn modes() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        let mut configured = |multiplier, intercept| {
            sim.take_events();
            cpu.configure(&sim, &mut vcpu, multiplier, 48, intercept);
            let [event, None, None, None] = sim.take_events() else {
                panic!("more than one event");
            };
            event
        };
        let mode = |mode| Some(Event::Mode(mode));
        let intercepted = |reason| mode(Mode::Intercepted(reason));
        assert_eq!(configured(1 << 48, true), intercepted(Reason::Kvm));
        assert_eq!(configured(1 << 47, true), None);
        assert_eq!(configured(1 << 47, false), intercepted(Reason::TscRatio));
        assert_eq!(configured(1 << 48, false), mode(Mode::Passthrough));

        cpu.guest_write(&sim, &mut vcpu, Aperf, 1 << 62);
        assert_eq!(sim.take_events()[0], intercepted(Reason::HighValue));
        // An overflow is noticed by whoever looks.
        cpu.guest_write(&sim, &mut vcpu, Mperf, u64::MAX);
        sim.take_events();
        sim.run(10_000);
        cpu.guest_read(&sim, &mut vcpu, Mperf);
        assert_eq!(sim.take_events()[0], mode(Mode::Passthrough));
        assert_eq!(Vcpu::new(None).mode(), Mode::Intercepted(Reason::Host));
    }

    #[test]
    fn c0() {
        let (sim, cpu) = (Simulator::new(1024), Cpu::new());
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        cpu.load(&sim, &mut vcpu);
        sim.take_events();
        cpu.set_c0(&sim, &mut vcpu, true);
        assert_eq!(sim.take_events(), NOTHING);
        cpu.set_c0(&sim, &mut vcpu, false);
        let [Some(Event::Put(_)), Some(Event::C0(false)), None, None] = sim.take_events() else {
            panic!("not a put");
        };
        // A halted vCPU is not put once more.
        cpu.put(&sim, &mut vcpu);
        assert_eq!(sim.take_events(), NOTHING);
    }

    #[test]
    fn collisions() {
        let cpu = Cpu::new();
        let sim = Simulator::new(1024);
        assert!(calibrated(&sim, &cpu));
        let mut vcpu = in_c0(&sim, &cpu);
        sim.nmi_reads(&cpu);
        cpu.put(&sim, &mut vcpu);
        sim.run(1000);
        sim.take_events();
        cpu.host_read(&sim, Aperf);
        assert_eq!(sim.take_events(), NOTHING);
        cpu.load(&sim, &mut vcpu);
        assert!(sim.take_events().contains(&Some(Event::Collision)));
    }
}

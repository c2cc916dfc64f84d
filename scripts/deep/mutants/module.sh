# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2016
#
# mutant NAME FILE SED TEST...: see mutation.sh.

# Replacing the values in the MSRs.

mutant offset-not-stored src/switch/exchange.rs \
	's/self\.offset\.store(host\.plus(lost).*);/if self.lead.load(Relaxed) == 0 { & }/' \
	intel-1:host_continuity
mutant loss-not-counted src/switch/exchange.rs \
	's/host\.plus(lost)/host/' \
	intel-1:host_continuity
mutant loss-rarely-not-counted src/switch/exchange.rs \
	's/host\.plus(lost)/host.plus(if before.tsc \& 1023 == 0 { Pair::ZERO } else { lost })/' \
	intel-2:drift,--switches=20000
mutant tick-lost-now-and-then src/switch/exchange.rs \
	's/host\.plus(lost)/host.plus(lost).minus(Pair { aperf: 0, mperf: u64::from(before.tsc \& 3 == 0) })/' \
	intel-1:host_continuity
mutant tick-lost-at-random src/switch/exchange.rs \
	's/host\.plus(lost)/host.plus(lost).minus(Pair { aperf: 0, mperf: u64::from(before.tsc \& 3 == 0) })/' \
	intel-1:drift
mutant aperf-lost-at-base-frequency src/switch/exchange.rs \
	's/self\.rate\.advance(elapsed)/Pair { aperf: elapsed, mperf: elapsed }/' \
	intel-1:host_continuity
mutant rate-not-learned src/switch/exchange.rs \
	's/self\.rate\.learn(.*);//' \
	intel-1:host_continuity
mutant rate-learns-host-writes src/switch/exchange.rs \
	's/self\.rate\.learn(.*);/self.rate.learn(host);/' \
	intel-1:host_writes intel-1:kunit
mutant nmi-not-told src/switch/exchange.rs \
	's/self\.busy\.store(true, Release);//' \
	intel-1:sweep intel-1:kunit
mutant nmi-of-perf-not-told src/switch/exchange.rs \
	's/self\.busy\.store(true, Release);//' \
	intel-1:perf_groups
mutant nmi-finds-no-host-pair src/switch/exchange.rs \
	's/self\.host\.store(host);//' \
	intel-1:sweep
mutant nmi-finds-no-tsc src/switch/exchange.rs \
	's/self\.host_tsc\.store(.*);//' \
	intel-1:sweep
mutant nmi-told-before-host-is-known src/switch/exchange.rs \
	's/^.*self\.host\.store(host);/self.busy.store(true, Release);\n&/' \
	intel-1:sweep
mutant nmi-not-told-before-offset-is-known src/switch/exchange.rs \
	's/^.*self\.offset\.store(host\.plus(lost).*);/self.busy.store(false, Release);\n&/' \
	intel-1:sweep
mutant long-loss-not-counted src/switch/exchange.rs \
	's/let lost = self\.rate\.advance(elapsed);/let lost = self.rate.advance(elapsed.min(1000));/' \
	intel-1:sweep
mutant nmi-told-for-ever src/switch/exchange.rs \
	's/self\.busy\.store(false, Release);//' \
	intel-1:host_continuity
mutant sample-never-again src/switch/exchange.rs \
	's/const SAMPLES: usize = 16;/const SAMPLES: usize = 1;/' \
	intel-1:kunit
mutant sample-in-two-copies src/switch/exchange.rs \
	'/often it was tried/{n;d}' \
	intel-1:sweep
mutant exchange-never-again src/switch/exchange.rs \
	's/^const EXCHANGES: usize = 3;/const EXCHANGES: usize = 1;/' \
	intel-1:kunit!panic
mutant write-without-lead src/switch/exchange.rs \
	's/self\.lead\.load(Relaxed)/0/' \
	intel-1:kunit
mutant mperf-written-late src/switch/exchange.rs \
	's/mperf: elapsed,/mperf: 0,/' \
	intel-1:user_isolation intel-1:kunit
mutant aperf-of-away-advances src/switch/guest.rs \
	's/aperf_advances: false/aperf_advances: true/' \
	intel-1:guest_exit intel-1:kunit
mutant carry-of-rate-lost src/switch/rate.rs \
	's/self\.carry\.store(carry, Relaxed);//' \
	intel-1:kunit

# The host's values.

mutant host-read-raw src/switch/cpu.rs \
	's/\.wrapping_add(self\.offset\.load()\.get(counter))//' \
	intel-2:host_continuity
mutant host-read-raw-beside-driver src/switch/cpu.rs \
	's/\.wrapping_add(self\.offset\.load()\.get(counter))//' \
	amd-2:pstate
mutant host-write-into-guest src/switch/cpu.rs \
	's/State::Live | State::Stale => offset\.with(.*),$/_ => { hw.write(counter, value); offset.with(counter, 0) }/' \
	intel-2:host_writes
mutant host-write-not-remembered src/switch/cpu.rs \
	's/self\.moved\.store(.*);//' \
	intel-1:host_writes intel-1:kunit
mutant host-write-keeps-offset src/switch/cpu.rs \
	's/offset\.with(counter, 0)/offset/' \
	intel-1:host_writes intel-1:kunit
mutant restore-nothing src/switch/cpu.rs \
	's/if self\.state() == State::Host {/if true {/' \
	intel-1:user_isolation
mutant restore-stays-stale src/switch/cpu.rs \
	's/self\.set_state(State::Host);//' \
	intel-1:kunit
mutant leave-after-one-write src/switch/cpu.rs \
	's/for _ in 0\.\.LEAVES {/for _ in 0..0 {/' \
	intel-1:clean_exit intel-1:kunit
mutant any-mperf-is-steady src/switch/calibration.rs \
	's/if ticked\.abs_diff(elapsed) > slack {/if false {/' \
	intel-1:intercepted_host intel-1:kunit
mutant unsteady-cpu-is-written src/switch/calibration.rs \
	's/^.*return Calibration::Unsteady;/let _ = self.takes_writes(trial);\n&/' \
	intel-1:intercepted_host
mutant lost-writes-unnoticed src/switch/calibration.rs \
	's/if !self\.takes_writes(trial) {/if false {/' \
	intel-1:kunit
mutant unstable-tsc-unnoticed rust/counters.rs \
	's/bindings::check_tsc_unstable() } != 0/bindings::check_tsc_unstable() } < 0/' \
	intel-1:unstable_tsc
mutant missing-feature-unnoticed rust/counters.rs \
	's/return Err(Missing(name));/let _ = name;/' \
	intel-1:no_counters
mutant permit-for-ever src/switch/permit.rs \
	's/self\.0\.issued\.fetch_sub(1, Relaxed);//' \
	intel-2:intercepted_host
mutant resume-keeps-rate src/switch/calibration.rs \
	'/fn resume/,/^    }/s/self\.rate\.start(.*);/let _ = hw;/' \
	intel-1:suspend intel-1:kunit

# The guest's values.

mutant checkpoint-without-pair src/switch/guest.rs \
	's/vcpu\.pair = sample\.pair;//' \
	intel-1:guest_exit
mutant aperf-jumps-at-checkpoint src/switch/guest.rs \
	's/vcpu\.pair = sample\.pair;/&\n                vcpu.pair.aperf = vcpu.pair.aperf.wrapping_add(1 << 24);/' \
	intel-1:fuzz
mutant checkpoint-without-lag src/switch/guest.rs \
	's/sample\.tsc\.wrapping_sub(lag)/sample.tsc/' \
	intel-1:guest_exit intel-1:kunit
mutant enter-not-live src/switch/guest.rs \
	's/self\.set_state(State::Live);//' \
	intel-1:user_isolation
mutant halted-counts src/switch/guest.rs \
	's/if vcpu\.running \&\& vcpu\.c0 {/if vcpu.running {/' \
	intel-1:c0_wake
mutant put-keeps-running src/switch/guest.rs \
	's/|vcpu| vcpu\.running = false/|_| ()/' \
	intel-1:guest_steal intel-1:guest_isolation
mutant pause-not-forgotten src/switch/guest.rs \
	's/self\.change(hw, vcpu, Vcpu::forget_pause);/self.change(hw, vcpu, |_| ());/' \
	intel-1:pause
mutant pause-not-forgotten-of-qemu src/switch/guest.rs \
	's/self\.change(hw, vcpu, Vcpu::forget_pause);/self.change(hw, vcpu, |_| ());/' \
	intel-2:tools:qemu_pause
mutant mperf-runs-in-halt src/switch/vcpu.rs \
	's/if self\.c0 \&\& forward {/if forward {/' \
	intel-1:guest_halt
mutant pair-starts-high src/switch/vcpu.rs \
	'/fn new(/,/^    }/s/pair: Pair::ZERO,/pair: Pair { aperf: 1 << 40, mperf: 1 << 40 },/' \
	intel-1:power_on
mutant tsc-never-behind src/switch/vcpu.rs \
	's/let forward = elapsed >> 63 == 0;/let forward = true;/' \
	intel-1:kunit
mutant away-adds-up src/switch/vcpu.rs \
	'/fn leave/,/fn forget_pause/s/self\.away = 0;//' \
	intel-1:pause
mutant pause-forgotten-twice src/switch/vcpu.rs \
	'/fn forget_pause/,/fn start/s/self\.away = 0;//' \
	intel-1:pause
mutant written-mperf-is-away src/switch/vcpu.rs \
	'/fn set(/,/fn set_ratio/s/self\.away = 0;//' \
	intel-1:pause intel-1:kunit
mutant restored-in-c0 src/switch/vcpu.rs \
	's/self\.restored = !self\.running;/self.restored = false;/' \
	intel-1:migration intel-1:msr_state
mutant restored-for-ever src/switch/vcpu.rs \
	'/fn start/,/fn set_c0/s/self\.restored = false;//' \
	intel-1:kunit
mutant write-keeps-mode src/switch/vcpu.rs \
	'/fn set(/,/fn set_ratio/s/self\.choose_mode();//' \
	intel-1:intercepted_high

# Intercepted reads.

mutant intercept-not-asked src/switch/mode.rs \
	's/else if asked/else if false/' \
	intel-1:intercepted_filter
mutant permit-ignored src/switch/mode.rs \
	's/if !permitted/if false/' \
	intel-1:intercepted_host
mutant ratio-passed-through src/switch/mode.rs \
	's/!ratio\.is_one()/false/' \
	intel-1:intercepted_tsc
mutant ratio-keeps-mode src/switch/vcpu.rs \
	'/fn set_ratio/,/^    }/s/self\.choose_mode();//' \
	intel-1:intercepted_tsc
mutant high-passed-through src/switch/mode.rs \
	's/(pair\.aperf | pair\.mperf) >= TOO_HIGH/false/' \
	intel-1:intercepted_high
mutant high-mperf-passed-through src/switch/mode.rs \
	's/(pair\.aperf | pair\.mperf)/pair.aperf/' \
	intel-1:intercepted_high
mutant fraction-of-scaling-lost src/switch/mode.rs \
	's/\*carry = product.*;/*carry = 0;/' \
	intel-1:intercepted_tsc
mutant metered-twice src/switch/guest.rs \
	'/fn guest_read/,/fn change/s/vcpu\.place = Place::Metered { from };//' \
	intel-1:intercepted_tsc
mutant aperf-not-metered src/switch/guest.rs \
	's/vcpu\.accrue(now\.tsc, aperf);/vcpu.accrue(now.tsc, 0);/' \
	intel-1:intercepted_tsc
mutant intercepted-halt-counts src/switch/guest.rs \
	's/vcpu\.sit_out(idle);/let _ = idle;/' \
	intel-1:c0_hlt_in_guest
mutant overflow-of-one-only src/switch/overflow.rs \
	's/(false, false) => return sum,/_ if true => return sum,\n            (false, false) => false,/' \
	intel-1:intercepted_high
mutant later-overflow-wins src/switch/overflow.rs \
	's/aperf_left > mperf_left/aperf_left < mperf_left/' \
	intel-1:kunit
mutant overflow-keeps-mode src/switch/vcpu.rs \
	'/fn accrue/,/^    }/s/self\.choose_mode();//' \
	intel-1:intercepted_high
mutant overflow-stays-metered src/switch/guest.rs \
	's/self\.change(hw, vcpu, |_| ());/();/' \
	intel-1:intercepted_high

# Between the logic and the kernel.

mutant user-return-not-armed src/glue.rs \
	's/here\.restore_on_user_return();//' \
	intel-1:user_isolation
mutant user-return-not-armed-rdpru src/glue.rs \
	's/here\.restore_on_user_return();//' \
	amd-1:rdpru
mutant wake-does-not-arm src/glue.rs \
	'/fn set_c0/,/^    }/s/keep_user_isolation(here);//' \
	intel-1:user_isolation intel-1:c0_wake
mutant configure-does-not-arm src/glue.rs \
	'/fn configure/,/^    }/s/keep_user_isolation(here);//' \
	intel-1:intercepted_filter
mutant raw-reader-gets-no-restore src/glue.rs \
	'/fn host_restore/,/^    }/s/on_host(here.*;//' \
	intel-1:user_isolation
mutant guest-reads-mperf-only src/glue.rs \
	's/guest\.vcpu\.passthrough()/{ let _ = guest; false }/;s/cpu\.guest_read(native, vcpu, msr\.into())/{ let _ = msr; cpu.guest_read(native, vcpu, crate::switch::Counter::Mperf) }/' \
	intel-2:tools:qemu_guest
mutant permits-never-issued src/glue.rs \
	's/PERMITS\.issue()/None/' \
	intel-1:no_exit
mutant mwait-without-permit-counts src/glue.rs \
	's/PERMITS\.issue()/None/' \
	intel-1:c0_mwait
mutant unsteady-cpu-comes-online src/glue.rs \
	'/fn online/,/fn offline/s/})?;/}).ok();/' \
	intel-2:intercepted_host
mutant readers-leave-before-values src/kvm_aperfmperf.rs \
	'/^    _hotplug: /d;s/^    _farewell: .*/    _hotplug: Hotplug<Machine>,\n&/' \
	intel-2:clean_exit
mutant sched-out-unnoticed rust/preempt.rs \
	's/B::put(here, vcpu)/{ let _ = (here, vcpu); }/' \
	intel-1:guest_steal
mutant sched-out-unnoticed-by-hopper rust/preempt.rs \
	's/B::put(here, vcpu)/{ let _ = (here, vcpu); }/' \
	intel-2:migrate_cpus
mutant sched-in-unnoticed rust/preempt.rs \
	's/B::load(here, vcpu)/{ let _ = (here, vcpu); }/' \
	intel-1:guest_steal
mutant notifier-outlives-run rust/vcpu.rs \
	's/Preempt::unregister(.*);//' \
	intel-1:kill!hang
mutant interrupts-stay-on rust/irq.rs \
	's/"pushfq", "pop {}", "cli"/"pushfq", "pop {}"/' \
	intel-1:drift,--switches=20000
mutant offline-leaves-notifier rust/hotplug.rs \
	'/fn offline/,$s/here\.restore();//' \
	intel-2:clean_exit!panic
mutant offline-unnoticed rust/hotplug.rs \
	's/Some(offline::<B>)/None/' \
	intel-2:hotplug
mutant suspend-with-guest-values rust/syscore.rs \
	'/fn suspend/,/fn resume/s/on_this_cpu::<B, _>(.*)/()/' \
	intel-1:suspend
mutant sleep-begins-untold rust/sleep.rs \
	's/=> B::sleep_begins(),/=> (),/' \
	intel-1:suspend
mutant sleep-ends-untold rust/sleep.rs \
	's/B::sleep_ends()/()/' \
	intel-1:suspend
mutant sleep-not-forgotten-by-load src/glue.rs \
	'/fn load/,/^    }/s/cpu\.forget_sleep(native, vcpu, &SLEEPS);//' \
	intel-1:suspend
mutant shutdown-not-told rust/syscore.rs \
	'/fn shutdown/,$s/on_this_cpu::<B, _>(.*)/()/' \
	intel-2:kexec,asleep
mutant shutdown-forgets-running-vcpus src/glue.rs \
	's/if here\.state()\.leaving\.load(Relaxed)/if false/' \
	amd-2:kexec intel-2:kexec
mutant exported-pair-read-raw rust/exports.rs \
	's/aperf: read::<B>(Msr::Aperf),/aperf: Counters::assume_present().read(Msr::Aperf),/' \
	intel-2:host_readers
mutant anybody-is-granted rust/grant.rs \
	's/operations) != 0/operations) == 0/' \
	intel-1:grant
mutant failed-load-leaves-syscore src/kvm_aperfmperf.rs \
	's/let grant = grant::offer()?;/let Ok(grant) = grant::offer() else { core::mem::forget(syscore); return Err(ENOMEM); };/' \
	intel-1:load_fails!panic
mutant failed-load-leaves-hotplug src/kvm_aperfmperf.rs \
	's/let sleep = SleepNotifier::register()?;/let Ok(sleep) = SleepNotifier::register() else { core::mem::forget(hotplug); return Err(ENOMEM); };/' \
	intel-1:load_fails!panic
mutant vcpu-never-freed rust/vcpu.rs \
	's/drop(unsafe { KBox/core::mem::forget(unsafe { KBox/' \
	intel-1:fuzz,--operations=20000

# What an administrator sees.

mutant restores-not-counted src/observe.rs \
	's/stats\.restores\.add(1);//' \
	intel-1:debugfs
mutant modes-confused src/observe.rs \
	's/(Reason::HighValue) => 4/(Reason::HighValue) => 3/' \
	intel-1:debugfs intel-1:tracepoints
mutant put-traced-backwards src/observe.rs \
	's/trace::put(stats\.number, aperf, mperf)/trace::put(stats.number, mperf, aperf)/' \
	intel-1:tracepoints
mutant open-file-does-not-pin rust/debugfs.rs \
	's/owner: this_module.*,//' \
	intel-1:debugfs!panic
mutant files-stay rust/debugfs.rs \
	's/bindings::debugfs_remove(self\.0)/()/' \
	intel-1:debugfs

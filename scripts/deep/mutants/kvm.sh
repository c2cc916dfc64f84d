# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2016
#
# mutant NAME FILE SED TEST...: see mutation.sh.

# Which vCPUs have a pair.

mutant pair-without-cpuid arch/x86/kvm/aperfmperf.c \
	'/^static bool kvm_aperfmperf_wanted/,/^}/s/cpuid_entry_has(.*)/true/' \
	intel-1:opt_in
mutant pair-for-raw-readers arch/x86/kvm/aperfmperf.c \
	's/return !kvm_aperfmperf_in_guest(vcpu->kvm);/return true;/' \
	intel-1:neighbours
mutant pair-outlives-cpuid arch/x86/kvm/aperfmperf.c \
	'/int kvm_aperfmperf_set_cpuid/,/^}/s/kvm_aperfmperf_destroy_vcpu(vcpu);/;/' \
	intel-1:cpuid_reset
mutant pair-created-twice arch/x86/kvm/aperfmperf.c \
	'/^int kvm_aperfmperf_set_cpuid/,/^}/s/if (vcpu->arch\.aperfmperf)/if (false)/' \
	intel-1:fuzz
mutant cpuid-set-twice-warns arch/x86/kvm/aperfmperf.c \
	'/^int kvm_aperfmperf_set_cpuid/,/^}/s/if (vcpu->arch\.aperfmperf)/if (WARN_ON_ONCE(vcpu->arch.aperfmperf))/' \
	intel-1:fuzz
mutant raw-reader-is-granted arch/x86/kvm/aperfmperf.c \
	's/!kvm_aperfmperf_possible(vcpu) || !aperfmperf_granted()/!aperfmperf_granted()/' \
	intel-1:grant
mutant pair-outlives-vcpu arch/x86/kvm/x86.c \
	's/kvm_aperfmperf_destroy_vcpu(vcpu);/;/' \
	intel-1:clean_exit
mutant bit-offered-without-module arch/x86/kvm/cpuid.c \
	's/if (static_branch_unlikely(&aperfmperf_hooked))/if (true)/' \
	intel-1:opt_in
mutant pair-for-old-vcpu arch/x86/kvm/cpuid.c \
	'/if (!kvm_can_set_cpuid_and_feature_msrs(vcpu)) {/,/goto success;/s/goto success;/kvm_aperfmperf_set_cpuid(vcpu);\n\t\t&/' \
	intel-1:unload_busy
mutant grant-ignored arch/x86/kvm/cpuid.c \
	's/kvm_aperfmperf_grant_cpuid(vcpu);/;/' \
	intel-1:grant

# C0.

mutant mp-state-not-told arch/x86/kvm/x86.h \
	's/kvm_aperfmperf_set_c0(vcpu, mp_state == .*);/;/' \
	intel-1:guest_halt
mutant reset-hold-ends-untold arch/x86/kvm/x86.c \
	'/^static inline int vcpu_block/,/^}/s/kvm_set_mp_state(vcpu, KVM_MP_STATE_RUNNABLE);/if (vcpu->arch.mp_state == KVM_MP_STATE_AP_RESET_HOLD) vcpu->arch.mp_state = KVM_MP_STATE_RUNNABLE; else &/' \
	intel-1:c0_mp_state
mutant any-state-but-halted-is-c0 arch/x86/kvm/x86.h \
	'/^static inline void kvm_set_mp_state/,/^}/s/(vcpu, mp_state == KVM_MP_STATE_RUNNABLE)/(vcpu, mp_state != KVM_MP_STATE_HALTED)/' \
	intel-1:c0_mp_state
mutant init-not-told arch/x86/kvm/lapic.c \
	's/kvm_set_mp_state(vcpu, KVM_MP_STATE_INIT_RECEIVED);/vcpu->arch.mp_state = KVM_MP_STATE_INIT_RECEIVED;/' \
	intel-1:c0_init_sipi
mutant sipi-not-told arch/x86/kvm/lapic.c \
	'/kvm_x86_call(vcpu_deliver_sipi_vector)/,/}/s/kvm_set_mp_state(vcpu, \(.*\));/vcpu->arch.mp_state = \1;/' \
	intel-1:c0_init_sipi
mutant init-zeroes-aperf arch/x86/kvm/x86.c \
	'/^void kvm_vcpu_reset/,/^}/s/^\tkvm_lapic_reset(vcpu, init_event);/&\n\tif (init_event \&\& vcpu->arch.aperfmperf)\n\t\tvcpu->arch.aperfmperf->ops->write(vcpu->arch.aperfmperf, MSR_IA32_APERF, 0);/' \
	intel-1:c0_init_sipi
mutant nested-halt-for-ever-intel arch/x86/kvm/vmx/nested.c \
	'/in case we halted in L2/{n;s/kvm_set_mp_state(vcpu, \(.*\));/vcpu->arch.mp_state = \1;/}' \
	intel-1:c0_nested_hlt
mutant nested-halt-for-ever-amd arch/x86/kvm/svm/nested.c \
	'/in case we halted in L2/{n;s/kvm_set_mp_state(vcpu, \(.*\));/vcpu->arch.mp_state = \1;/}' \
	amd-1:c0_nested_hlt
mutant kick-not-told arch/x86/kvm/x86.h \
	's/vcpu->arch\.mp_state != mp_state)/vcpu->arch.mp_state != mp_state \&\& !vcpu->arch.pv.pv_unhalted)/' \
	intel-1:c0_wake
mutant c0-not-told-at-creation arch/x86/kvm/aperfmperf.c \
	's/v->ops->set_c0(v, .*);//' \
	intel-1:cpuid_reset
mutant userspace-halt-counts arch/x86/kvm/x86.c \
	's/kvm_aperfmperf_set_c0(vcpu, false);//' \
	intel-1:c0_userspace_hlt
mutant userspace-halt-for-ever arch/x86/kvm/aperfmperf.h \
	's/kvm_aperfmperf_set_c0(vcpu, vcpu->arch.*);//' \
	intel-1:c0_userspace_hlt
mutant halt-in-guest-counts arch/x86/kvm/vmx/vmx.c \
	's/kvm_aperfmperf_set_c0(vcpu, false);/;/' \
	intel-1:c0_hlt_in_guest
mutant halt-in-guest-for-ever arch/x86/kvm/x86.c \
	's/kvm_aperfmperf_set_c0(vcpu, vcpu->arch.*);/;/' \
	intel-1:c0_hlt_in_guest
mutant halt-in-guest-not-ended arch/x86/kvm/x86.c \
	's/kvm_aperfmperf_set_c0(vcpu, mp_state->.*);/;/' \
	intel-1:c0_hlt_in_guest
mutant pause-not-told arch/x86/kvm/x86.c \
	's/kvm_aperfmperf_forget_pause(vcpu);//' \
	intel-1:pause

# KVM_RUN.

mutant run-without-load arch/x86/kvm/x86.c \
	's/kvm_aperfmperf_load(vcpu);//;s/kvm_aperfmperf_put(vcpu);//' \
	intel-1:guest_aperf
mutant run-without-put arch/x86/kvm/x86.c \
	's/kvm_aperfmperf_put(vcpu);//' \
	intel-1:kill!hang
mutant load-without-run arch/x86/kvm/aperfmperf.h \
	'/kvm_aperfmperf_load/,/^}/s/ || !vcpu->wants_to_run//' \
	intel-1:c0_userspace_hlt
mutant raw-reader-finds-guest arch/x86/kvm/x86.c \
	's/aperfmperf_host_restore();/;/' \
	intel-1:neighbours

# Reads and writes.

mutant aperf-read-as-mperf arch/x86/kvm/aperfmperf.c \
	's/v->ops->read(v, msr_info->index)/v->ops->read(v, MSR_IA32_MPERF)/' \
	intel-1:msr_state
mutant write-lost arch/x86/kvm/aperfmperf.c \
	's/v->ops->write(v, .*);//' \
	intel-1:guest_write
mutant write-keeps-intercepts arch/x86/kvm/aperfmperf.c \
	'/^int kvm_aperfmperf_set_msr/,/^}/s/kvm_make_request(.*);//' \
	intel-1:intercepted_high
mutant overflow-keeps-intercepts arch/x86/kvm/aperfmperf.c \
	'/^int kvm_aperfmperf_get_msr/,/^}/s/kvm_make_request(.*);/;/' \
	intel-1:intercepted_high
mutant msrs-not-listed arch/x86/kvm/msrs.c \
	's/ MSR_IA32_APERF, MSR_IA32_MPERF,//' \
	intel-1:msr_state
mutant reads-always-exit arch/x86/kvm/aperfmperf.c \
	's/return !v || !v->ops->passthrough(v);/return true;/' \
	intel-1:no_exit
mutant reads-never-exit arch/x86/kvm/aperfmperf.c \
	's/return !v || !v->ops->passthrough(v);/return !v;/' \
	intel-1:intercepted_tsc
mutant raw-reads-exit arch/x86/kvm/aperfmperf.c \
	'/^bool kvm_need/,/^}/s/if (kvm_aperfmperf_in_guest(vcpu->kvm))/if (false)/' \
	intel-1:neighbours
mutant aperf-writes-never-exit-intel arch/x86/kvm/vmx/vmx.c \
	's/MSR_IA32_APERF, MSR_TYPE_R, intercept/MSR_IA32_APERF, MSR_TYPE_RW, intercept/' \
	intel-1:no_exit
mutant mperf-writes-never-exit-intel arch/x86/kvm/vmx/vmx.c \
	's/MSR_IA32_MPERF, MSR_TYPE_R, intercept/MSR_IA32_MPERF, MSR_TYPE_RW, intercept/' \
	intel-1:no_exit
mutant aperf-writes-never-exit-amd arch/x86/kvm/svm/svm.c \
	's/MSR_IA32_APERF, MSR_TYPE_R, intercept/MSR_IA32_APERF, MSR_TYPE_RW, intercept/' \
	amd-1:no_exit
mutant mperf-writes-never-exit-amd arch/x86/kvm/svm/svm.c \
	's/MSR_IA32_MPERF, MSR_TYPE_R, intercept/MSR_IA32_MPERF, MSR_TYPE_RW, intercept/' \
	amd-1:no_exit
mutant aperf-reads-exit-intel arch/x86/kvm/vmx/vmx.c \
	's/vmx_set_intercept_for_msr(vcpu, MSR_IA32_APERF, .*);//' \
	intel-1:no_exit
mutant mperf-reads-exit-intel arch/x86/kvm/vmx/vmx.c \
	's/vmx_set_intercept_for_msr(vcpu, MSR_IA32_MPERF, .*);//' \
	intel-1:no_exit
mutant aperf-reads-exit-amd arch/x86/kvm/svm/svm.c \
	's/svm_set_intercept_for_msr(vcpu, MSR_IA32_APERF, .*);//' \
	amd-1:no_exit
mutant mperf-reads-exit-amd arch/x86/kvm/svm/svm.c \
	's/svm_set_intercept_for_msr(vcpu, MSR_IA32_MPERF, .*);//' \
	amd-1:no_exit

# Reasons to intercept.

mutant aperf-filter-ignored arch/x86/kvm/aperfmperf.c \
	's/!kvm_msr_allowed(vcpu, MSR_IA32_APERF, KVM_MSR_FILTER_READ) ||//' \
	intel-1:intercepted_filter
mutant mperf-filter-ignored arch/x86/kvm/aperfmperf.c \
	's/!kvm_msr_allowed(vcpu, MSR_IA32_MPERF, KVM_MSR_FILTER_READ)/false/' \
	intel-1:intercepted_filter
mutant ratio-of-l2-amd arch/x86/kvm/aperfmperf.c \
	's/vcpu->arch\.l1_tsc_scaling_ratio/vcpu->arch.tsc_scaling_ratio/' \
	amd-1:intercepted_tsc
mutant ratio-of-l2-intel arch/x86/kvm/aperfmperf.c \
	's/vcpu->arch\.l1_tsc_scaling_ratio/vcpu->arch.tsc_scaling_ratio/' \
	intel-1:intercepted_tsc
mutant catchup-ignored arch/x86/kvm/aperfmperf.c \
	's/if (vcpu->arch\.tsc_always_catchup)/if (false)/' \
	amd-1:intercepted_catchup
mutant ratio-not-told arch/x86/kvm/x86.c \
	'/^static int kvm_set_tsc_khz/,/^}/s/kvm_aperfmperf_configure(vcpu);//' \
	intel-1:intercepted_tsc
mutant ratio-not-told-at-creation arch/x86/kvm/aperfmperf.c \
	'/^int kvm_aperfmperf_set_cpuid/,/^}/s/kvm_aperfmperf_configure(vcpu);//' \
	intel-1:intercepted_tsc
mutant ratio-keeps-intercepts arch/x86/kvm/x86.c \
	'/^static int kvm_set_tsc_khz/,/^}/s/kvm_make_request(KVM_REQ_RECALC_INTERCEPTS, vcpu);//' \
	intel-1:intercepted_tsc
mutant nested-bitmap-not-merged arch/x86/kvm/vmx/vmx.c \
	'/^void vmx_recalc_intercepts/,/^}/s/nested_vmx_recalc_msr_bitmap(vcpu);/;/' \
	intel-1:intercepted_tsc
mutant nested-msrpm-not-merged arch/x86/kvm/svm/svm.c \
	'/^static void svm_recalc_intercepts/,/^}/s/nested_svm_recalc_msrpm(vcpu);/;/' \
	amd-1:intercepted_tsc
mutant nested-rdpmc-forgotten arch/x86/kvm/vmx/vmx.c \
	'/^static void vmx_recalc_instruction_intercepts/,/^}/s/if (is_guest_mode(vcpu))/if (false)/' \
	intel-1:perf_metrics:nested_rdpmc
mutant nested-controls-forgotten arch/x86/kvm/vmx/vmx.c \
	'/^void vmx_recalc_intercepts/,/^}/s/nested.recalc_vmcs01_intercepts = true;/nested.recalc_vmcs01_intercepts = false;/' \
	intel-1:perf_metrics:nested_restored

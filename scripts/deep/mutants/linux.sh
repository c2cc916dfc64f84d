# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2016
#
# mutant NAME FILE SED TEST...: see mutation.sh. Each of these links a kernel.

mutant scheduler-reads-aperf-raw arch/x86/kernel/cpu/aperfmperf.c \
	'/^void arch_scale_freq_tick/,/^}/s/aperf = host_aperf();/rdmsrq(MSR_IA32_APERF, aperf);/' \
	intel-1:host_readers
mutant scheduler-reads-mperf-raw arch/x86/kernel/cpu/aperfmperf.c \
	'/^void arch_scale_freq_tick/,/^}/s/mperf = host_mperf();/rdmsrq(MSR_IA32_MPERF, mperf);/' \
	intel-1:host_readers
mutant intel-pstate-reads-aperf-raw drivers/cpufreq/intel_pstate.c \
	'/^static inline bool intel_pstate_sample/,/^}/s/aperf = host_aperf();/rdmsrq(MSR_IA32_APERF, aperf);/' \
	intel-2:pstate_driver
mutant intel-pstate-reads-mperf-raw drivers/cpufreq/intel_pstate.c \
	'/^static inline bool intel_pstate_sample/,/^}/s/mperf = host_mperf();/rdmsrq(MSR_IA32_MPERF, mperf);/' \
	intel-2:pstate_driver
mutant amd-pstate-reads-aperf-raw drivers/cpufreq/amd-pstate.c \
	'/^static inline bool amd_pstate_sample/,/^}/s/aperf = host_aperf();/rdmsrq(MSR_IA32_APERF, aperf);/' \
	amd-2:pstate_driver
mutant amd-pstate-reads-mperf-raw drivers/cpufreq/amd-pstate.c \
	'/^static inline bool amd_pstate_sample/,/^}/s/mperf = host_mperf();/rdmsrq(MSR_IA32_MPERF, mperf);/' \
	amd-2:pstate_driver
mutant perf-reads-raw arch/x86/events/msr.c \
	's/if (is_aperfmperf_hooked(event->hw\.event_base))/if (false)/' \
	intel-2:host_continuity
mutant device-reads-raw arch/x86/lib/msr-smp.c \
	'/^static void __rdmsr_safe_on_cpu/,/^}/s/if (is_aperfmperf_hooked(.*))/if (false)/' \
	intel-2:host_continuity
mutant device-reads-registers-raw arch/x86/lib/msr-smp.c \
	'/^static void __rdmsr_safe_regs_on_cpu/,/^}/s/if (is_aperfmperf_hooked(.*))/if (false)/' \
	intel-2:host_readers
mutant helper-reads-raw arch/x86/lib/msr-smp.c \
	'/^static void __rdmsr_on_cpu/,/^}/s/if (is_aperfmperf_hooked(.*))/if (false)/' \
	intel-2:host_readers
mutant helper-writes-raw arch/x86/lib/msr-smp.c \
	'/^static void __wrmsr_on_cpu/,/^}/s/if (is_aperfmperf_hooked(.*))/if (false)/' \
	intel-2:host_writes
mutant device-writes-raw arch/x86/lib/msr-smp.c \
	'/^static void __wrmsr_safe_on_cpu/,/^}/s/if (is_aperfmperf_hooked(.*))/if (false)/' \
	intel-2:host_writes
mutant device-writes-registers-raw arch/x86/lib/msr-smp.c \
	'/^static void __wrmsr_safe_regs_on_cpu/,/^}/s/if (is_aperfmperf_hooked(.*))/if (false)/' \
	intel-2:host_writes
mutant module-not-pinned arch/x86/kernel/cpu/aperfmperf_hooks.c \
	's/if (!aperfmperf_ops || !try_module_get(aperfmperf_ops->owner))/if (!aperfmperf_ops)/' \
	intel-1:unload_busy!panic
mutant module-pinned-for-ever arch/x86/kernel/cpu/aperfmperf_hooks.c \
	'/^void aperfmperf_vcpu_destroy/,/^}/s/module_put(owner);/(void)owner;/' \
	intel-1:unload_busy
mutant readers-stay-after-unload arch/x86/kernel/cpu/aperfmperf_hooks.c \
	's/static_branch_disable(&aperfmperf_hooked);//' \
	intel-2:clean_exit
mutant failed-creation-pins-module arch/x86/kernel/cpu/aperfmperf_hooks.c \
	'/vcpu_create(void)/,/^}/s/module_put(aperfmperf_ops->owner);//' \
	intel-1:create_fails
mutant failed-creation-is-no-pair arch/x86/kernel/cpu/aperfmperf_hooks.c \
	'/vcpu_create(void)/,/^}/s/return ERR_PTR(-ENOMEM);/return NULL;/' \
	intel-1:create_fails

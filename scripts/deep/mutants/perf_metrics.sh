# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2016
#
# mutant NAME FILE SED TEST...: see mutation.sh.

# What guests are offered.

mutant metrics-with-legacy-pmu arch/x86/kvm/vmx/vmx.c \
	's/if (enable_mediated_pmu && kvm_pmu_cap.num_counters_fixed > 3)/if (true)/' \
	intel-1:perf_metrics:metrics_offered
mutant slots-with-legacy-pmu arch/x86/kvm/pmu.c \
	's/(!enable_mediated_pmu ||$/(/' \
	intel-1:perf_metrics:metrics_offered
mutant metrics-without-slots arch/x86/kvm/vmx/vmx.c \
	's/if (vcpu_to_pmu(vcpu)->nr_arch_fixed_counters < 4)/if (false)/' \
	intel-1:perf_metrics:metrics_offered
mutant metrics-shown-without-slots arch/x86/kvm/vmx/vmx.c \
	's/if (!ret && !vcpu_to_pmu(vcpu)->has_perf_metrics)/if (false)/' \
	intel-1:perf_metrics:metrics_offered
mutant metrics-not-listed arch/x86/kvm/msrs.c \
	's/MSR_CORE_PERF_GLOBAL_CTRL, MSR_PERF_METRICS,/MSR_CORE_PERF_GLOBAL_CTRL,/' \
	intel-1:perf_metrics:metrics_offered
mutant metrics-reserved arch/x86/kvm/vmx/pmu_intel.c \
	's/pmu->global_ctrl_rsvd &= ~GLOBAL_CTRL_EN_PERF_METRICS;/;/' \
	intel-1:perf_metrics:metrics_read

# Intercepts.

mutant metrics-never-exit arch/x86/kvm/vmx/vmx.c \
	's/!pmu->has_perf_metrics);/false);/' \
	intel-1:perf_metrics:metrics_offered
mutant metrics-always-exit arch/x86/kvm/vmx/vmx.c \
	's/!pmu->has_perf_metrics);/true);/' \
	intel-1:perf_metrics:metrics_read
mutant metrics-rdpmc-never-exits arch/x86/kvm/pmu.c \
	's/pmu->has_perf_metrics != kvm_host_has_perf_metrics()/false/' \
	intel-1:perf_metrics:metrics_offered
mutant metrics-rdpmc-not-emulated arch/x86/kvm/pmu.c \
	's/if (pmu->has_perf_metrics && idx == INTEL_PMC_FIXED_RDPMC_METRICS)/if (false)/' \
	intel-1:perf_metrics:metrics_read
mutant metrics-not-merged-for-l2 arch/x86/kvm/vmx/nested.c \
	's/nested_vmx_merge_msr_bitmaps_rw(MSR_PERF_METRICS);//' \
	intel-1:perf_metrics:metrics_nested
mutant metrics-emulated-read-warns arch/x86/kvm/vmx/pmu_intel.c \
	's/msr_info->data = pmu->perf_metrics;/WARN_ON_ONCE(!msr_info->host_initiated);&/' \
	intel-1:perf_metrics:metrics_nested

# Load and put.

mutant metrics-not-loaded arch/x86/kvm/pmu.c \
	's/wrmsrq_safe(MSR_PERF_METRICS, pmu->perf_metrics))/false)/' \
	intel-1:perf_metrics:metrics_isolation
mutant metrics-loaded-first arch/x86/kvm/pmu.c \
	'/^static void kvm_pmu_load_guest_pmcs/,/^}/{s/^\tu32 i;/&\n\n\tif (kvm_pmu_needs_perf_metrics_switch(pmu))\n\t\twrmsrq(MSR_PERF_METRICS, pmu->perf_metrics);/;s/wrmsrq_safe(MSR_PERF_METRICS, pmu->perf_metrics))/false)/}' \
	intel-1:perf_metrics:metrics_isolation
mutant metrics-not-saved arch/x86/kvm/pmu.c \
	's/pmu->perf_metrics = rdpmc(INTEL_PMC_FIXED_RDPMC_METRICS);/;/' \
	intel-1:perf_metrics:metrics_isolation
mutant metrics-not-zeroed arch/x86/kvm/pmu.c \
	'/^static void kvm_pmu_put_guest_pmcs/,/^}/s/wrmsrq(MSR_PERF_METRICS, 0);/;/' \
	intel-1:perf_metrics:metrics_isolation
mutant metrics-zeroed-first arch/x86/kvm/pmu.c \
	'/^static void kvm_pmu_put_guest_pmcs/,/^}/{s/wrmsrq(MSR_PERF_METRICS, 0);/;/;s/^\t\tpmu->perf_metrics = rdpmc.*/\t{\n&\n\t\twrmsrq(MSR_PERF_METRICS, 0);\n\t}/}' \
	intel-1:perf_metrics:metrics_isolation
mutant metrics-switched-for-owners-only arch/x86/kvm/pmu.c \
	's/return kvm_host_has_perf_metrics() && pmu->nr_arch_fixed_counters > 3;/return pmu->has_perf_metrics;/' \
	intel-1:perf_metrics:metrics_isolation
mutant metrics-not-reset arch/x86/kvm/pmu.c \
	'/^static void kvm_pmu_reset/,/^}/s/pmu->perf_metrics = 0;/;/' \
	intel-1:perf_metrics:metrics_values

/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Host values of IA32_APERF and IA32_MPERF for other modules.
 *
 * kvm_aperfmperf may have loaded a guest's values into the MSRs. These return
 * what RDMSR would have returned had nobody ever done so. All are exported
 * with EXPORT_SYMBOL_GPL().
 *
 * Context: any, NMI included. The values are those of one CPU, so the caller
 * disables preemption if it matters which one.
 */
#ifndef _KVM_APERFMPERF_H
#define _KVM_APERFMPERF_H

#include <linux/types.h>

/**
 * struct host_aperfmperf - both counters and the time at which they were read
 * @aperf:	IA32_APERF, in cycles at the actual frequency.
 * @mperf:	IA32_MPERF, in TSC ticks.
 * @tsc:	The TSC just before, in ticks.
 */
struct host_aperfmperf {
	u64 aperf;
	u64 mperf;
	u64 tsc;
};

/* Host value of IA32_APERF on this CPU. */
u64 get_host_aperf(void);

/* Host value of IA32_MPERF on this CPU. */
u64 get_host_mperf(void);

/* Both of one CPU, and its TSC. No interrupt but an NMI comes in between. */
void get_host_aperfmperf(struct host_aperfmperf *host);

#endif /* _KVM_APERFMPERF_H */

/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _KVM_APERFMPERF_HELPERS_H
#define _KVM_APERFMPERF_HELPERS_H

#include <linux/types.h>

/* this_cpu_has() as a function. @feature: X86_FEATURE_*. */
bool kvm_aperfmperf_this_cpu_has(u32 feature);

/* wrmsrq_safe() as a function, for who looks at the MSR afterwards. */
void kvm_aperfmperf_wrmsrq_safe(u32 msr, u64 value);

struct notifier_block;

/* Functions also where the kernel cannot sleep; they do nothing then. */
int kvm_aperfmperf_register_pm_notifier(struct notifier_block *nb);
void kvm_aperfmperf_unregister_pm_notifier(struct notifier_block *nb);

#endif /* _KVM_APERFMPERF_HELPERS_H */

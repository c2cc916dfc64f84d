/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _KVM_APERFMPERF_HELPERS_H
#define _KVM_APERFMPERF_HELPERS_H

#include <linux/types.h>

/* boot_cpu_has() as a function. @feature: X86_FEATURE_*. */
bool kvm_aperfmperf_boot_cpu_has(u32 feature);

#endif /* _KVM_APERFMPERF_HELPERS_H */

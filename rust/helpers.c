// SPDX-License-Identifier: GPL-2.0
/*
 * What is a macro or an inline function in C and so out of bindgen's reach.
 */

#include <linux/module.h>
#include <linux/suspend.h>

#include <asm/cpufeature.h>
#include <asm/msr.h>
#include <asm/processor.h>

#include "helpers.h"

bool kvm_aperfmperf_this_cpu_has(u32 feature)
{
	return this_cpu_has(feature);
}

void kvm_aperfmperf_wrmsrq_safe(u32 msr, u64 value)
{
	wrmsrq_safe(msr, value);
}

int kvm_aperfmperf_register_pm_notifier(struct notifier_block *nb)
{
	return register_pm_notifier(nb);
}

void kvm_aperfmperf_unregister_pm_notifier(struct notifier_block *nb)
{
	unregister_pm_notifier(nb);
}

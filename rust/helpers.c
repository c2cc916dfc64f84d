// SPDX-License-Identifier: GPL-2.0
/*
 * What is a macro or an inline function in C and so out of bindgen's reach.
 */

#include <linux/module.h>
#include <linux/suspend.h>

#include <asm/cpufeature.h>

#include "helpers.h"

bool kvm_aperfmperf_boot_cpu_has(u32 feature)
{
	return boot_cpu_has(feature);
}

int kvm_aperfmperf_register_pm_notifier(struct notifier_block *nb)
{
	return register_pm_notifier(nb);
}

void kvm_aperfmperf_unregister_pm_notifier(struct notifier_block *nb)
{
	unregister_pm_notifier(nb);
}

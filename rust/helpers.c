// SPDX-License-Identifier: GPL-2.0
/*
 * What is a macro or an inline function in C and so out of bindgen's reach.
 */

#include <linux/module.h>

#include <asm/cpufeature.h>

#include "helpers.h"

bool kvm_aperfmperf_boot_cpu_has(u32 feature)
{
	return boot_cpu_has(feature);
}

// SPDX-License-Identifier: GPL-2.0
/*
 * Exports functions that are written in Rust (exports.rs): EXPORT_SYMBOL_GPL()
 * takes the C prototype.
 */

#include <linux/export.h>

#include "../include/kvm_aperfmperf.h"

EXPORT_SYMBOL_GPL(get_host_aperf);
EXPORT_SYMBOL_GPL(get_host_mperf);
EXPORT_SYMBOL_GPL(get_host_aperfmperf);

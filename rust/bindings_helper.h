/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What bindgen reads: the interfaces that the kernel crate's own bindings
 * lack. The allowlist is in bindgen_parameters.
 */

#include <linux/syscore_ops.h>
#include <linux/user-return-notifier.h>

#include <asm/aperfmperf.h>

#include "helpers.h"
#include "trace.h"

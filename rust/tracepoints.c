// SPDX-License-Identifier: GPL-2.0
/*
 * Defines the tracepoints, which only C's macros can, and the functions by
 * which Rust (trace.rs) calls those that are on.
 */

#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "trace.h"

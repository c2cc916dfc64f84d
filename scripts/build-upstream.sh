#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the kernel tree's own KVM selftests that touch these counters, or what
# is next to them, and make build/upstream a link to them.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"
. "$(dirname "$0")/lib/step.sh"
. "$(dirname "$0")/lib/cache.sh"

TESTS=(aperfmperf_test msrs_test state_test tsc_msrs_test)
KERNEL=$(readlink "$BUILD/kernel")

build() {
	step upstream "compile ${#TESTS[@]} KVM selftests of Linux" \
		make -C "$KERNEL/tools/testing/selftests/kvm" -j"$JOBS" OUTPUT="$1/obj" \
		LDFLAGS=-static "${TESTS[@]/#/$1/obj/x86/}"
	mv "${TESTS[@]/#/$1/obj/x86/}" "$1"
	strip "${TESTS[@]/#/$1/}"
	rm -rf "$1/obj"
}

cached upstream "$(hash_of "$(basename "$KERNEL")" "$(gcc --version)" "$0")" build

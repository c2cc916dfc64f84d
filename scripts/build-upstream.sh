#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the kernel tree's own KVM selftests that touch these counters, or what
# is next to them, and make build/upstream a link to them, one directory for each
# collection.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"
. "$(dirname "$0")/lib/step.sh"
. "$(dirname "$0")/lib/cache.sh"

declare -A COLLECTIONS=(
	[upstream]="aperfmperf_test msrs_test state_test tsc_msrs_test"
	[perf_metrics_upstream]="pmu_counters_test pmu_event_filter_test vmx_pmu_caps_test"
)
read -ra TESTS <<<"${COLLECTIONS[*]}"
KERNEL=$(readlink "$BUILD/kernel")

build() {
	local collection test

	step upstream "compile ${#TESTS[@]} KVM selftests of Linux" \
		make -C "$KERNEL/tools/testing/selftests/kvm" -j"$JOBS" OUTPUT="$1/obj" \
		LDFLAGS=-static "${TESTS[@]/#/$1/obj/x86/}"
	strip "${TESTS[@]/#/$1/obj/x86/}"
	for collection in "${!COLLECTIONS[@]}"; do
		mkdir "$1/$collection"
		for test in ${COLLECTIONS[$collection]}; do
			mv "$1/obj/x86/$test" "$1/$collection"
		done
	done
	rm -rf "$1/obj"
}

cached upstream "$(hash_of "$(basename "$KERNEL")" "$(gcc --version)" "$0")" build

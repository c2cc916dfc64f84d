#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Usage: check.sh [TEST]
#
# Run all tests, or one selftest such as no_exit or upstream:state_test, which may
# have arguments as in drift,--seed=7. The last line says how many passed, failed
# and were skipped.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"
. "$(dirname "$0")/lib/step.sh"

TEST=${1:-}
RESULTS=$BUILD/results
MACHINES=("intel-1 intel 1" "intel-2 intel 2" "amd-1 amd 1" "amd-2 amd 2")
# Where guests have the mediated PMU.
PMU_MACHINES=("intel-pmu-1 intel 1" "intel-pmu-2 intel 2")
# With QEMU and an operator's tools.
TOOLS_MACHINES=("intel-tools intel 2" "amd-tools amd 2")
# Where Linux controls the frequency.
PSTATE_MACHINES=("intel-pstate intel 2" "amd-pstate amd 2")
# The same twice, with two CPUs, preemption and hops.
TWINS=("twin-1 intel 2 one:aperfmperf:drift" "twin-2 intel 2 one:aperfmperf:drift")

into() {
	local file=$1
	shift
	"$@" >"$file"
}

# The disc, the machine and the module are the same: so must be each instruction.
determinism() {
	local here=ok

	cmp "$BUILD/run/$1/serial" "$BUILD/run/$2/serial" || here='not ok'
	printf 'TAP version 13\n1..1\n%s 1 two runs of %s give the same console, tick for tick\n' "$here" "$1"
}

rm -rf "$RESULTS"
mkdir "$RESULTS"
if [[ -n $TEST ]]; then
	[[ $TEST == *:* ]] || TEST=aperfmperf:$TEST
	[[ $TEST != perf_metrics:* ]] || MACHINES=("${PMU_MACHINES[@]}")
	[[ $TEST != tools:* ]] || MACHINES=("${TOOLS_MACHINES[@]}")
	[[ $TEST != aperfmperf:pstate_driver* ]] || MACHINES=("${PSTATE_MACHINES[@]}")
	BOOTS=("${MACHINES[@]/%/ one:$TEST}")
else
	BOOTS=("${MACHINES[@]/%/ selftests}" "${PMU_MACHINES[@]/%/ perf_metrics}"
		"${TOOLS_MACHINES[@]/%/ tools}" "${PSTATE_MACHINES[@]/%/ pstate}" "${TWINS[@]}")
	step lint "shell, Rust, patches, licences, documentation" into "$RESULTS/lint.ktap" "$ROOT/scripts/lint.sh"
	step core "tests of the pure part" into "$RESULTS/core.ktap" "$ROOT/scripts/core-tests.sh"
fi
printf '%s\n' "${BOOTS[@]}" | xargs -P "$JOBS" -L 1 "$ROOT/scripts/boot.sh" || true
for boot in "${BOOTS[@]}"; do
	name=${boot%% *}
	cp "$BUILD/run/$name/verdict" "$RESULTS/$name.ktap"
done
if [[ -z $TEST ]]; then
	determinism twin-1 twin-2 >"$RESULTS/determinism.ktap"
fi
cd "$RESULTS"
"$ROOT/scripts/ktap.awk" -- *.ktap | tee summary

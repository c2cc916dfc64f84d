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
. "$(dirname "$0")/lib/boots.sh"

TEST=${1:-}
RESULTS=$BUILD/results
OTHERS=()

# report NAME COMMAND...: keep the KTAP that COMMAND prints, and say when it is done.
report() {
	local name=$1
	shift

	SECONDS=0
	"$@" >"$RESULTS/$name.ktap" 2>"$BUILD/logs/$name.log" ||
		printf '1..1\nnot ok 1 %s ran to its end # log: %s\n' "$name" "$BUILD/logs/$name.log" >>"$RESULTS/$name.ktap"
	printf '%-64s %5d s\n' "$name" $SECONDS
}

# The disc, the machine and the module are the same: so must be each instruction.
determinism() {
	local here=ok

	cmp "$BUILD/run/$1/serial" "$BUILD/run/$2/serial" || here='not ok'
	printf 'TAP version 13\n1..1\n%s 1 two runs of %s give the same console, tick for tick\n' "$here" "$1"
}

# The machine ends where a rule is broken that it watches, and says where.
broken_rule() {
	local here=ok pair='APERF [0-9]+ MPERF [0-9]+'

	scripts/boot.sh broken-rule intel 1 one:aperfmperf:emulated_watch,--for-real >&2 || true
	grep -E "^not ok 1 the machine saw that a rule user-isolation is broken: CPU 0, tick [0-9]+, RIP 0x[0-9a-f]+: the registers hold $pair, the host pair is $pair$" \
		"$BUILD/run/broken-rule/verdict" >&2 || here='not ok'
	printf 'TAP version 13\n1..1\n%s 1 the machine ends where a rule is broken\n' "$here"
}

rm -rf "$RESULTS"
mkdir "$RESULTS"
if [[ -n $TEST ]]; then
	[[ $TEST == *:* ]] || TEST=aperfmperf:$TEST
	[[ $TEST != perf_metrics:* ]] || MACHINES=("${PMU_MACHINES[@]}")
	[[ $TEST != tools:* ]] || MACHINES=("${TOOLS_MACHINES[@]}")
	[[ $TEST != aperfmperf:pstate_driver* ]] || MACHINES=("${PSTATE_MACHINES[@]}")
	BOOTS=("${MACHINES[@]/%/ one:$TEST}")
	mapfile -t refusals < <(printf '%s\n' "${REFUSALS[@]}" | grep ":$TEST$")
	((${#refusals[@]} == 0)) || BOOTS=("${refusals[@]}")
else
	BOOTS=("${SUITES[@]}" "${KEXECS[@]}" "${REFUSALS[@]}" "${TWINS[@]}")
	OTHERS=("report lint scripts/lint.sh" "report core scripts/core-tests.sh"
		"report broken-rule broken_rule")
fi
cd "$ROOT"
export RESULTS
export -f report broken_rule
printf '%s\n' "${BOOTS[@]/#/scripts/boot.sh }" "${OTHERS[@]}" |
	xargs -P "$JOBS" -L 1 bash -c '"$@"' "$0" || true
for boot in "${BOOTS[@]}"; do
	name=${boot%% *}
	cp "$BUILD/run/$name/verdict" "$RESULTS/$name.ktap"
done
if [[ -z $TEST ]]; then
	determinism twin-1 twin-2 >"$RESULTS/determinism.ktap"
fi
cd "$RESULTS"
"$ROOT/scripts/ktap.awk" -- *.ktap | tee summary

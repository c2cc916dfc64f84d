#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Usage: phases.sh list | prepare | run CASE
#
# Run the suites of check.sh as they begin a part of a tick later: the same machine and
# the same tests always meet in the same way, and a test that hangs on how they meet
# would fail with the next change of anything. A case is a phase and a machine, such as
# 2-intel-1.
set -euo pipefail
. "$(dirname "$0")/../lib/env.sh"
. "$(dirname "$0")/../lib/boots.sh"

# Microseconds of the kernel's 4000 between two ticks.
PHASES=(700 1500 2300 3100)

list() {
	local number boot

	for number in "${!PHASES[@]}"; do
		for boot in "${SUITES[@]}" "${KEXECS[@]}"; do
			echo "$((number + 1))-$boot ${PHASES[number]}"
		done
	done
}

run() {
	local vendor cpus request phase

	read -r _ vendor cpus request phase < <(list | grep "^$1 ")
	PHASE=$phase "$ROOT/scripts/boot.sh" "phase-$1" "$vendor" "$cpus" "$request" >&2 || true
	cat "$BUILD/run/phase-$1/verdict"
}

case ${1:-} in
list) list ;;
prepare) ;;
run) run "$2" ;;
*) die "list, prepare or run CASE" ;;
esac

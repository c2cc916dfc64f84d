#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Usage: sweep.sh list | prepare | run CASE
#
# Hit each instruction of the module with each event, see ../sweep.sh, which tries
# single points. A case is a vendor and an action, such as intel-run.
set -euo pipefail
. "$(dirname "$0")/../lib/env.sh"

# An emulator of its own for each of thousands of points.
export TIME_LIMIT=14400
# A point begins with a fork, which copies page tables: with huge pages, few.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1

list() {
	local vendor

	for vendor in intel amd; do
		sed -nE "s/^        name: \"([a-z]+)\",$/$vendor-\1/p" "$ROOT/selftests/rules/src/sweep/action.rs"
	done
}

run() {
	"$ROOT/scripts/boot.sh" "sweep-$1" "${1%-*}" 1 "one:aperfmperf:sweep,${1#*-}" >&2 || true
	cat "$BUILD/run/sweep-$1/verdict"
}

case ${1:-} in
list) list ;;
prepare) ;;
run) run "$2" ;;
*) die "list, prepare or run CASE" ;;
esac

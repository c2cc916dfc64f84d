#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Usage: check-deep.sh [PART[:CASE]]
#
# Run what takes too long for check.sh, or one part of it, or one case of a part,
# and say in the last line how many passed, failed and were skipped.
#
# A result is kept for as long as the machine and the case are the same. So a run
# that was interrupted goes on where it was. What is named runs again in any case.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"
. "$(dirname "$0")/lib/step.sh"
. "$(dirname "$0")/lib/cache.sh"

WANTED=${1:-}
PARTS=(hot-paths series upstream qemu phases sweep mutation fuzz drift)
RESULTS=$BUILD/results-deep
MACHINE=$(hash_of "$(readlink "$BUILD/kernel")" "$(readlink "$BUILD/bochs")" "$ROOT/scripts/boot.sh")

# $1: part. The root file systems of its machines.
roots() {
	echo "$BUILD/initramfs/host.cpio.zst"
	case $1 in
	mutation | phases)
		printf '%s\n' "$BUILD"/{initramfs/acpi.cpio,initramfs/perf_metrics.cpio.zst,tools/tools.cpio.zst}
		;;
	esac
}

# $1: part. "PART:CASE HASH" for each of its cases that are wanted.
cases() {
	local roots machine name definition

	mapfile -t roots < <(roots "$1")
	machine=$(hash_of "$MACHINE" "${roots[@]}")
	"$ROOT/scripts/deep/$1.sh" list | while read -r name definition; do
		case $WANTED in
		'' | "$1" | "$1:$name") echo "$1:$name $(hash_of "$machine" "$name" "$definition")" ;;
		esac
	done
}

# Of these cases, those that have to be run.
without_result() {
	local name hash

	while read -r name hash; do
		if [[ -n $WANTED || ! -f $RESULTS/$name.ktap ||
			$(head -n 1 "$RESULTS/$name.ktap") != "# $hash" ]]; then
			echo "$name $hash"
		fi
	done
}

run_part() {
	local part=$1 todo

	without_result <"$RESULTS/$part.plan" >"$RESULTS/todo"
	mapfile -t todo < <(sed 's/^[^:]*://;s/ .*//' "$RESULTS/todo")
	((${#todo[@]})) || return 0
	step "$part" "prepare ${#todo[@]} of $(wc -l <"$RESULTS/$part.plan") cases" \
		"$ROOT/scripts/deep/$part.sh" prepare "${todo[@]}"
	xargs -P "$JOBS" -L 1 "$ROOT/scripts/deep/case.sh" <"$RESULTS/todo" || true
}

# The files of results that a plan asks for.
results() {
	sed 's/ .*/.ktap/' "$@"
}

# A row of the table: a part, and what its cases came to.
count() {
	local part=$1
	shift
	printf '%-12s %4d cases: %s\n' "$part" $# "$("$ROOT/scripts/ktap.awk" -- "$@" | tail -n 1)"
}

[[ -z $WANTED || " ${PARTS[*]} " == *" ${WANTED%%:*} "* ]] ||
	die "there is no part '${WANTED%%:*}', only: ${PARTS[*]}"
mkdir -p "$RESULTS"
rm -f "$RESULTS"/*.plan
for part in "${PARTS[@]}"; do
	cases "$part" >"$RESULTS/$part.plan"
	run_part "$part"
done

cd "$RESULTS"
mapfile -t all < <(results ./*.plan)
((${#all[@]})) || die "there is no case '${WANTED#*:}'; scripts/deep/${WANTED%%:*}.sh list names them"
echo
for part in "${PARTS[@]}"; do
	mapfile -t some < <(results "$part.plan")
	((${#some[@]} == 0)) || count "$part" "${some[@]}"
done
"$ROOT/scripts/ktap.awk" -- "${all[@]}" | tee summary

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Usage: sweep.sh [VENDOR] [ACTION[/EVENT[/NUMBER]]]
#
# Hit the module with NMIs, stalls, SMIs and interrupts at every one of its
# instructions, on an emulated Intel and an emulated AMD machine or on that of
# VENDOR, and print a table of what became of it. With ACTION, such as run, and EVENT,
# such as nmi, only these; with NUMBER that one point, with the rest of the machine to
# be seen in build/run/sweep-VENDOR.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"

VENDORS=(intel amd)
if [[ ${1:-} == intel || ${1:-} == amd ]]; then
	VENDORS=("$1")
	shift
fi
POINT=${1:---all}
[[ $POINT == --all || $POINT =~ ^[a-z]+(/[a-z]+(/[0-9]+)?)?$ ]] ||
	die "a point is ACTION/EVENT/NUMBER, such as run/nmi/137, not '$POINT'"
[[ -x $BUILD/bochs/bochs && -e $BUILD/initramfs/host.cpio.zst ]] ||
	die "there is no machine yet: run make machine"

# Thousands of points, each with an emulator of its own.
export TIME_LIMIT=14400
# A point begins with a fork, which copies page tables: with huge pages, few.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
status=0
echo "sweep: lines come as they are ready in build/run/sweep-*/verdict"
printf '%s\n' "${VENDORS[@]}" |
	xargs -P "$JOBS" -I VENDOR "$ROOT/scripts/boot.sh" sweep-VENDOR VENDOR 1 "one:aperfmperf:sweep,$POINT" ||
	status=1

for vendor in "${VENDORS[@]}"; do
	verdict=$BUILD/run/sweep-$vendor/verdict
	echo
	sed -nE "s/^(# )*(sweep|wrong): /$vendor \2: /p" "$verdict"
done
exit $status

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Usage: series.sh list | prepare | run PATCH
#
# Show that each patch to Linux builds by itself, and that what it builds boots and
# runs guests on both vendors, without the module: it needs the whole series. PATCH
# is a number.
set -euo pipefail
. "$(dirname "$0")/../lib/env.sh"
. "$(dirname "$0")/../lib/toolchain.sh"
. "$(dirname "$0")/../lib/pack.sh"
. "$(dirname "$0")/../lib/patch.sh"

SERIES=$BUILD/series
TREE=$SERIES/linux

# A line for each patch: its number, and all patches up to it.
list() {
	local patch sum=

	for patch in "${LINUX_PATCHES[@]}"; do
		sum=$({ echo "$sum"; cat "$patch"; } | sha256sum | cut -c1-16)
		echo "$(basename "$patch" | cut -d- -f1) $sum"
	done
}

prepare() {
	rm -rf "$SERIES"
	unpack_linux "$TREE"
	echo 0 >"$SERIES/applied"
}

# move_to PATCH: apply what comes up to it, take back what comes after it. Cases that run
# side by side get here in any order.
move_to() {
	local applied wanted patch

	applied=$(<"$SERIES/applied")
	wanted=$(list | grep -n "^$1 " | cut -d: -f1) || die "there is no patch $1"
	while ((applied > wanted)); do
		patch=${LINUX_PATCHES[--applied]}
		echo "taking back ${patch#"$ROOT"/}"
		GIT_CEILING_DIRECTORIES=$SERIES git -C "$TREE" apply --reverse "$patch"
	done
	apply_series "$TREE" "${LINUX_PATCHES[@]:applied:wanted-applied}"
	echo "$wanted" >"$SERIES/applied"
}

compile() {
	configured_as_built "$TREE"
	kernel_make -C "$TREE" bzImage modules
	install -D "${KERNEL_MODULES[@]/#/$TREE/}" -t "$1/lib/modules"
	cp "$TREE/arch/x86/boot/bzImage" "$1.bzImage"
	pack "$1" "$1.cpio.zst"
}

# boots PATCH VENDOR
boots() {
	BZIMAGE=$SERIES/$1.bzImage OVERLAY=$SERIES/$1.cpio.zst \
		"$ROOT/scripts/boot.sh" "series-$1-$2" "$2" 1 without:one:upstream:state_test
}

run() {
	local vendor number=1

	echo "TAP version 13"
	echo "1..3"
	exec {lock}>"$SERIES/lock"
	flock "$lock"
	move_to "$1" >&2
	compile "$SERIES/$1" >&2
	exec {lock}>&-
	echo "ok 1 $1 builds"
	for vendor in intel amd; do
		boots "$1" $vendor >&2 && verdict=ok || verdict='not ok'
		echo "$verdict $((++number)) $1 boots and runs a guest, $vendor"
	done
	rm -rf "${SERIES:?}/$1"*
}

case $1 in
list) list ;;
prepare) prepare ;;
run) run "$2" ;;
esac

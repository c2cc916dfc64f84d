#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run the demonstration on an Intel and on an AMD machine at once, show what they
# say as they say it, and draw it: build/demo/{intel,amd}.csv, demo.svg, demo.png.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"
. "$(dirname "$0")/lib/step.sh"

DEMO=$BUILD/demo
VENDORS=(intel amd)
declare -A machine

# Each machine is a process group of its own.
stop() {
	kill -- "${machine[@]/#/-}" 2>/dev/null || true
}

# $1: vendor. Follow the machine until it is gone.
follow() {
	local verdict=$BUILD/run/demo-$1/verdict

	while kill -0 "${machine[$1]}" 2>/dev/null && [[ ! -e $verdict ]]; do
		sleep 0.2
	done
	echo
	tail -n +1 --follow --pid="${machine[$1]}" --sleep-interval=0.2 "$verdict" |
		grep --line-buffered -v '^csv '
}

draw() {
	gnuplot -e "intel='$DEMO/intel.csv'; amd='$DEMO/amd.csv'; out='$DEMO/demo'" \
		"$ROOT/scripts/demo.gp"
	sed -i '1a <!-- SPDX-License-Identifier: GPL-2.0 -->' "$DEMO/demo.svg"
}

mkdir -p "$DEMO"
trap stop EXIT
set -m
for vendor in "${VENDORS[@]}"; do
	rm -rf "$BUILD/run/demo-$vendor"
	"$ROOT/scripts/boot.sh" "demo-$vendor" "$vendor" 2 demo >"$BUILD/logs/demo-$vendor.log" 2>&1 &
	machine[$vendor]=$!
done
for vendor in "${VENDORS[@]}"; do
	follow "$vendor" || true
	wait "${machine[$vendor]}" || { cat "$BUILD/logs/demo-$vendor.log"; exit 1; }
	sed -n 's/^csv //p' "$BUILD/run/demo-$vendor/verdict" >"$DEMO/$vendor.csv"
done
trap - EXIT
echo
step draw "draw build/demo/demo.svg and demo.png" draw

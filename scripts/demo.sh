#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run the demonstration on an Intel and on an AMD machine, and print its tables.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"

VENDORS=(intel amd)

status=0
printf 'demo-%s %s 2 demo\n' intel intel amd amd |
	xargs -P "$JOBS" -L 1 "$ROOT/scripts/boot.sh" || status=$?
for vendor in "${VENDORS[@]}"; do
	echo
	cat "$BUILD/run/demo-$vendor/verdict"
done
exit "$status"

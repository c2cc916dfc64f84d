#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Usage: case.sh PART:CASE HASH
#
# Run one case of check-deep.sh into build/results-deep, and say so. A part is a
# script beside this one:
#
#   PART.sh list      a line for each case: its name, and what it consists of
#   PART.sh prepare CASE...
#                     what these cases need together
#   PART.sh run CASE  run it: KTAP on standard output, all else on standard error
#
# It fails if it could not run the case. A case that ran and failed says so as KTAP.
set -euo pipefail
. "$(dirname "$0")/../lib/env.sh"

NAME=$1 HASH=$2
PART=${NAME%%:*} CASE=${NAME#*:}
RESULT=$BUILD/results-deep/$NAME.ktap
LOG=$BUILD/logs/$NAME.log

echo "# $HASH" >"$RESULT.new"
if "$ROOT/scripts/deep/$PART.sh" run "$CASE" >>"$RESULT.new" 2>"$LOG"; then
	"$ROOT/scripts/ktap.awk" -- "$RESULT.new" >/dev/null && verdict=passed || verdict=FAILED
else
	verdict='CANNOT RUN'
	{
		echo "TAP version 13"
		echo "1..1"
		tail -n 12 "$LOG" | sed 's/^/# /'
		echo "not ok 1 $NAME cannot be run # log: ${LOG#"$ROOT"/}"
	} >"$RESULT.new"
fi
mv "$RESULT.new" "$RESULT"
printf '%-64s %5d s %s\n' "$NAME" $SECONDS "$verdict"

# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Progress: one line a step with the time it took; the rest goes to a log.

# What compilers, make, apt, cargo and the kernel say when something is wrong.
TELLING='error|fatal|\*\*\*|undefined|panic|not found|No such|cannot|failed|^E:'

tell_failure() {
	local log=$1

	echo "  log: $log"
	{
		grep -niE "$TELLING" "$log" | head -n 12 || true
		echo '  ...'
		tail -n 8 "$log"
	} | cut -c1-240 | sed 's/^/  | /'
}

# Counts the seconds on a terminal, for as long as the step's shell lives.
tick() {
	local label=$1 shell=$2 start=$SECONDS

	while sleep 1 && kill -0 "$shell" 2>/dev/null; do
		printf '\r%-64s %5d s ' "$label" $((SECONDS - start))
	done
}

# step LOG TEXT COMMAND...: run COMMAND with its output in build/logs/LOG.log,
# print "LOG: TEXT" with the elapsed time, and leave the script if it fails.
step() {
	local log=$BUILD/logs/$1.log label="$1: $2" start=$SECONDS status ticker=
	shift 2

	printf '%-64s ' "$label"
	if [[ -t 1 ]]; then
		tick "$label" $BASHPID &
		ticker=$!
	fi
	# Not `|| status=$?`: bash would ignore errexit inside COMMAND.
	set +e
	(set -e; "$@") >"$log" 2>&1 </dev/null
	status=$?
	set -e
	if [[ -n $ticker ]]; then
		kill "$ticker" 2>/dev/null || true
		wait "$ticker" 2>/dev/null || true
		printf '\r%-64s ' "$label"
	fi
	printf '%5d s\n' $((SECONDS - start))
	if ((status)); then
		echo "$label: FAILED with status $status"
		tell_failure "$log"
		exit "$status"
	fi >&2
}

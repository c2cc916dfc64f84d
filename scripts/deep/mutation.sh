#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Usage: mutation.sh list | prepare MUTANT... | run MUTANT
#
# Break the module or the patched kernel in one place, and see the tests notice.
# The mutants are in mutants/, each a line such as
#
#   mutant NAME FILE SED TEST...
#
# where SED is what breaks FILE, and each TEST, such as intel-1:no_exit or
# intel-1:perf_metrics:metrics_read, a selftest on a machine that should notice. One of
# them must, by its own verdict, or the machine that watches while it runs. A run that
# ends in another way says nothing of the test, unless the mutant is known to end so:
# intel-1:kill!panic, or "warning", or "hang", see ENDS. The tests of the logic run in
# front, for the record: what counts is the machine. There "kunit" has them run, too, and
# "pstate" what check.sh runs where Linux controls the frequency.
set -euo pipefail
. "$(dirname "$0")/../lib/env.sh"
. "$(dirname "$0")/../lib/toolchain.sh"
. "$(dirname "$0")/../lib/pack.sh"
. "$(dirname "$0")/../lib/patch.sh"
. "$(dirname "$0")/../lib/breed.sh"

TESTS=("$BUILD"/initramfs/{host,perf_metrics}/kselftest/kselftest-list.txt)
# No test takes longer, unless its mutant made the machine hang.
export TIME_LIMIT=150

# A line of a verdict that a test failed by, or that the machine saw a rule broken by. A
# test that dies has no such line, but for kselftest's, which says how.
OWN='^(# | +)not ok |^not ok [0-9]+ (selftests: [^#]+$|the machine saw )'

# The other ends of a run that a mutant may have.
declare -A ENDS=(
	[warning]='^not ok 1 host: no kernel warning'
	[panic]='^not ok 1 the emulator left with status'
	[hang]='^not ok 1 the machine ran into a limit of time'
)

# killed NAME MACHINE RUN [END]: whether RUN on MACHINE fails, and says by what.
killed() {
	local run=mutant-$1 machine=$2 what=$3 end=${4:-} verdict killer

	verdict=$BUILD/run/$run/verdict
	# Several times as long as a short test takes with its boot.
	[[ $end != hang ]] || local -x TIME_LIMIT=30
	"$ROOT/scripts/boot.sh" "$run" "${machine%-*}" "${machine#*-}" "$what" >&2 || true
	[[ -s $verdict ]] || die "the machine did not start"
	if killer=$(grep -m 1 -E "$OWN${end:+|${ENDS[$end]}}" "$verdict"); then
		echo "# $machine: $what: $killer"
	elif killer=$(grep -m 1 -E '^not ok' "$verdict"); then
		echo "# $machine: $what: no test's verdict, but: $killer"
		return 1
	else
		echo "# $machine: $what: passes"
		return 1
	fi
}

# What a test, maybe with arguments, is to the machine.
what() {
	local test=${1#*:}

	case $test in
	kunit | pstate)
		echo "$test"
		return
		;;
	no_counters | unstable_tsc)
		echo "without:one:aperfmperf:$test"
		return
		;;
	esac
	[[ $test == *:* ]] || test=aperfmperf:$test
	grep -qx "${test%%,*}" "${TESTS[@]}" || die "there is no test '$test'"
	echo "one:$test"
}

# noticed NAME TEST...: whether one of those tests notices.
noticed() {
	local name=$1 test end run
	shift

	for test; do
		[[ $test == *!* ]] && end=${test#*!} || end=''
		[[ -z $end || -v ENDS[$end] ]] || die "no run ends by '$end'"
		test=${test%!*}
		run=$(what "$test") || exit
		! killed "$name" "${test%%:*}" "$run" "$end" || return 0
	done
	echo "# survives: none of its tests has noticed"
	return 1
}

# Has the machine boot what was compiled into OVERLAY.
use() {
	pack "$1" "$1.cpio.zst"
	export OVERLAY=$1.cpio.zst
	[[ ! -f $1.bzImage ]] || export BZIMAGE=$1.bzImage
}

# run NAME FILE SED TEST...
run() {
	local name=$1 overlay=$MUTANTS/overlay-$1 verdict=ok

	mkdir -p "$overlay"
	locked breed "$2" "$3" "$overlay"
	use "$overlay"
	noticed "$name" "${@:4}" || verdict='not ok'
	echo "$verdict 1 $name"
	rm -rf "$overlay" "$overlay".*
}

# What is compiled this way and not broken passes.
unbroken() {
	local overlay=$MUTANTS/overlay-unbroken verdict=ok machine

	mkdir -p "$overlay"
	locked compile_all "$overlay" >&2
	use "$overlay"
	for machine in intel-2 amd-2; do
		if TIME_LIMIT=600 "$ROOT/scripts/boot.sh" mutant-unbroken "${machine%-*}" "${machine#*-}" selftests >&2; then
			echo "# $machine: passes"
		else
			echo "# $machine: $(grep -m 1 -E '^(# |    )*not ok' "$BUILD/run/mutant-unbroken/verdict")"
			verdict='not ok'
		fi
	done
	echo "$verdict 1 unbroken"
	rm -rf "$overlay" "$overlay".*
}

# For each mutant of the lists: CALL NAME FILE SED TEST...
each() {
	local call=$1 list

	mutant() {
		"$call" "$@"
	}
	for list in "$ROOT"/scripts/deep/mutants/*.sh; do
		# shellcheck source=/dev/null
		. "$list"
	done
}

# shellcheck disable=SC2317 # called by each()
print() {
	echo "$*"
}

# shellcheck disable=SC2317 # called by each()
is_wanted() {
	[[ " ${WANTED[*]} " == *" $1 "* ]]
}

# shellcheck disable=SC2317 # called by each()
run_wanted() {
	! is_wanted "$1" || run "$@"
}

# shellcheck disable=SC2317 # called by each()
tree_of_wanted() {
	! is_wanted "$1" || tree_of "$2"
}

# The trees that the wanted mutants break. A Linux with all objects takes long.
wanted_trees() {
	! is_wanted unbroken || printf '%s\n' module linux
	each tree_of_wanted
}

WANTED=("${@:2}")
case $1 in
list) echo unbroken && each print ;;
prepare)
	mapfile -t trees < <(wanted_trees | sort -u)
	prepare_trees "${trees[@]}"
	;;
run)
	echo "TAP version 13"
	echo "1..1"
	if is_wanted unbroken; then unbroken; else each run_wanted; fi
	;;
esac

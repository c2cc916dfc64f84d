# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# A part of check-deep.sh that is one long test, with the machines as its cases.

# on_machines RUN MACHINE... -- VERB [MACHINE]
on_machines() {
	local run=$1 machines=() name
	shift

	while [[ $1 != -- ]]; do
		machines+=("$1")
		shift
	done
	case $2 in
	list) printf "%s $run\n" "${machines[@]}" ;;
	prepare) ;;
	run)
		name=$(basename "$0" .sh)-$3
		"$ROOT/scripts/boot.sh" "$name" "${3%-*}" "${3#*-}" "$run" >&2 || true
		cat "$BUILD/run/$name/verdict"
		;;
	esac
}

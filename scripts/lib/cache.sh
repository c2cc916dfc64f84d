# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# The build cache: entries named by a hash over everything that goes in, so an
# entry is either right or absent.

KEEP=5

# hash_of [FILE|STRING]...: a short name for the contents of files, and strings.
hash_of() {
	local input

	for input; do
		if [[ -f $input ]]; then
			sha256sum <"$input"
		else
			echo "$input"
		fi
	done | sha256sum | cut -c1-16
}

# cached KIND HASH COMMAND...: make build/KIND a link to the entry for HASH. If
# there is none, COMMAND is called with a directory to fill; it becomes the
# entry only when COMMAND succeeds. Others who want the same entry wait.
cached() {
	local kind=$1 entry=$CACHE/$1-$2 lock
	shift 2

	exec {lock}>"$entry.lock"
	flock "$lock"
	if [[ ! -d $entry ]]; then
		forget_abandoned "$kind"
		rm -rf "$entry.tmp"
		mkdir "$entry.tmp"
		"$@" "$entry.tmp"
		mv "$entry.tmp" "$entry"
	fi
	touch "$entry"
	ln -sfn "$entry" "$BUILD/$kind"
	exec {lock}>&-
	forget_old "$kind"
}

# Keeps the entries used last of one kind; a kernel tree takes much room. Locks
# stay: someone may be waiting for one.
forget_old() {
	find "$CACHE/" -maxdepth 1 -type d -name "$1-*" ! -name '*.tmp' -printf '%T@ %p\n' |
		sort -rn | tail -n +$((KEEP + 1)) | cut -d' ' -f2- | xargs -r rm -rf
}

# Removes what builds of this kind left behind that failed or were killed, but
# for those that go on elsewhere.
forget_abandoned() {
	local left

	for left in "$CACHE/$1"-*.tmp; do
		if [[ -d $left ]] && flock --nonblock "${left%.tmp}.lock" true; then
			step "$1-abandoned" "remove an unfinished build" \
				flock --nonblock "${left%.tmp}.lock" rm -rf "$left"
		fi
	done
}

# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash

# apply_series TREE PATCH...: apply patches in order, and name the one that fails.
apply_series() {
	local tree=$1 patch
	shift

	# The cache may be inside a git repository, such as one of the user's dot
	# files: without the ceiling git would skip every patch in silence.
	for patch; do
		echo "applying ${patch#"$ROOT"/}"
		if ! GIT_CEILING_DIRECTORIES=$(dirname "$tree") git -C "$tree" apply "$patch"; then
			echo "error: ${patch#"$ROOT"/} does not apply"
			return 1
		fi
	done
}

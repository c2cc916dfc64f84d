# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Sourced first by every script: where things are, and how to give up.

# Debian's own tools, whatever else the user has installed in front of them:
# the kernel, its Rust crates and the module must come from one toolchain.
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C.UTF-8

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BUILD=$ROOT/build
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/kvm-aperfmperf
mkdir -p "$BUILD/logs" "$CACHE"

JOBS=$(nproc)
export ROOT BUILD CACHE JOBS

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Sourced first by every script: where things are, and how to give up.

# Debian's own tools, whatever else the user has installed in front of them:
# the kernel, its Rust crates and the module must come from one toolchain.
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C.UTF-8

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Another kernel, see kernel-$FLAVOUR.config, has a build directory of its own.
FLAVOUR=${FLAVOUR:-}
BUILD=$ROOT/build${FLAVOUR:+/$FLAVOUR}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/kvm-aperfmperf

JOBS=$(nproc)
export ROOT FLAVOUR BUILD CACHE JOBS

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

[[ -z $FLAVOUR || -r $ROOT/scripts/kernel-$FLAVOUR.config ]] ||
	die "there is no scripts/kernel-$FLAVOUR.config: FLAVOUR is nothing, debug or rt"
mkdir -p "$BUILD/logs" "$CACHE"

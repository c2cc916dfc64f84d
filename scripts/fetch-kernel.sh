#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Get the source of Linux 7.3 and make build/linux.tar a link to its tarball.
#
# In this order: KERNEL_TARBALL=file, what is in the cache already, Debian's
# linux-source-7.3, kernel.org.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"
. "$(dirname "$0")/lib/step.sh"
. "$(dirname "$0")/lib/apt.sh"

SERIES=7.3
PACKAGE=linux-source-$SERIES
UPSTREAM=https://cdn.kernel.org/pub/linux/kernel/v${SERIES%%.*}.x
SOURCES=$CACHE/sources
LINK=$BUILD/linux.tar

cached_tarball() {
	find "$SOURCES/" -maxdepth 1 -name "linux-$SERIES*.tar.xz" | sort -V | tail -n 1
}

newest_package() {
	apt-cache madison "$PACKAGE" | awk '{ print $3 }' | sort -V | tail -n 1
}

# The newest 7.3.x in one suite. Chained, since a caller's `if` disarms errexit.
from_debian_suite() {
	local suite=$1 work=$SOURCES/package version

	with_suites "deb $suite" -- apt-get update &&
		version=$(with_suites "deb $suite" -- newest_package) &&
		[[ -n $version ]] &&
		rm -rf "$work" && mkdir "$work" && cd "$work" &&
		with_suites "deb $suite" -- apt-get download "$PACKAGE=$version" &&
		dpkg-deb --fsys-tarfile ./*.deb | tar -xO "./usr/src/$PACKAGE.tar.xz" >tarball &&
		mv tarball "$SOURCES/linux-${version%%-*}.tar.xz" &&
		rm -rf "$work"
}

from_debian() {
	local suite

	for suite in trixie-backports trixie sid; do
		if (from_debian_suite "$suite"); then
			return
		fi
	done
	return 1
}

# The list of checksums names the releases there are.
from_kernel_org() {
	local sum file

	read -r sum file < <(curl -fsSL "$UPSTREAM/sha256sums.asc" |
		grep -E " linux-${SERIES//./\\.}(\.[0-9]+)?\.tar\.xz$" | sort -k 2 -V | tail -n 1) &&
		curl -fsSL -o "$SOURCES/tarball" "$UPSTREAM/$file" &&
		echo "$sum $SOURCES/tarball" | sha256sum -c &&
		mv "$SOURCES/tarball" "$SOURCES/$file"
}

fetch() {
	if from_debian || from_kernel_org; then
		return
	fi
	echo "error: no source of Linux $SERIES: not in Debian's trixie-backports, trixie or sid on this" \
		"machine's mirror, not at kernel.org. Download linux-$SERIES.tar.xz and give KERNEL_TARBALL=file"
	return 1
}

if [[ -n ${KERNEL_TARBALL:-} ]]; then
	[[ -r $KERNEL_TARBALL ]] || die "KERNEL_TARBALL=$KERNEL_TARBALL: no such file"
	ln -sfn "$(realpath "$KERNEL_TARBALL")" "$LINK"
	exit
fi
mkdir -p "$SOURCES"
exec {lock}>"$SOURCES/lock"
flock "$lock"
if [[ -z $(cached_tarball) ]]; then
	step fetch-kernel "get the source of Linux $SERIES" fetch
fi
ln -sfn "$(cached_tarball)" "$LINK"

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Get the source of Bochs 3.0 from Debian and make build/bochs.tar a link to it.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"
. "$(dirname "$0")/lib/step.sh"
. "$(dirname "$0")/lib/apt.sh"

SOURCES=$CACHE/sources
TARBALL=$SOURCES/bochs-3.0.tar.xz

fetch() {
	local work=$SOURCES/package

	rm -rf "$work"
	mkdir "$work"
	with_suites "deb-src trixie" -- apt-get update
	(cd "$work" && with_suites "deb-src trixie" -- apt-get source --tar-only --download-only bochs)
	mv "$work"/bochs_3.0*.orig.tar.xz "$TARBALL"
	rm -rf "$work"
}

mkdir -p "$SOURCES"
exec {lock}>"$SOURCES/lock"
flock "$lock"
if [[ ! -e $TARBALL ]]; then
	step fetch-bochs "get the source of Bochs 3.0" fetch
fi
ln -sfn "$TARBALL" "$BUILD/bochs.tar"

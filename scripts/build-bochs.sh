#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build Bochs 3.0 with patches/bochs and make build/bochs a link to it.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"
. "$(dirname "$0")/lib/step.sh"
. "$(dirname "$0")/lib/cache.sh"
. "$(dirname "$0")/lib/patch.sh"

TARBALL=$BUILD/bochs.tar
shopt -s nullglob
PATCHES=("$ROOT"/patches/bochs/*.patch "$ROOT"/patches/bochs/perf-metrics/*.patch)
CONFIGURE=(
	--enable-cpu-level=6 --enable-x86-64 --enable-long-phy-address
	--enable-vmx=2 --enable-svm --enable-avx --enable-evex
	--enable-smp --enable-pci --enable-all-optimizations
	--with-nogui --disable-debugger --disable-docbook
)

unpack() {
	tar -C "$1" -xf "$TARBALL" --strip-components=1
	apply_series "$1" "${PATCHES[@]}"
}

compile() {
	cd "$1"
	./configure CFLAGS=-O2 CXXFLAGS=-O2 "${CONFIGURE[@]}"
	make -j"$JOBS" bochs
}

build() {
	local source=$1/source

	mkdir "$source"
	step bochs-patch "unpack Bochs, apply ${#PATCHES[@]} patches" unpack "$source"
	step bochs "compile Bochs" compile "$source"
	mv "$source/bochs" "$1"
	rm -rf "$source"
}

cached bochs "$(hash_of "$TARBALL" "${PATCHES[@]}" "$(g++ --version)" "$0" "$ROOT/scripts/lib/patch.sh")" build

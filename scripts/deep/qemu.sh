#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Usage: qemu.sh list | prepare | run MACHINE
#
# Build QEMU 10.0 with patches/qemu, as much of it as runs the tests' guests, and test
# the feature that the patch adds. The firmware is Debian's.
set -euo pipefail
. "$(dirname "$0")/../lib/env.sh"
. "$(dirname "$0")/../lib/step.sh"
. "$(dirname "$0")/../lib/cache.sh"
. "$(dirname "$0")/../lib/apt.sh"
. "$(dirname "$0")/../lib/pack.sh"
. "$(dirname "$0")/../lib/patch.sh"

VERSION=10.0
PATCHES=("$ROOT"/patches/qemu/*.patch)
TEST=tools:qemu_feature
# What Debian calls its QEMU for the same machine.
PROGRAM=usr/bin/qemu-system-x86_64-microvm
# Static: the emulated machine has the libraries of another Debian.
CONFIGURE=(
	--static --target-list=x86_64-softmmu --enable-system --enable-kvm --disable-tcg --enable-fdt=system
	--without-default-features --without-default-devices --with-devices-x86_64=microvm
	--disable-docs --disable-tools --disable-install-blobs --prefix=/usr --firmwarepath=/usr/share/qemu:/usr/share/seabios
)

list() {
	local machine sum

	sum=$(hash_of "${PATCHES[@]}" "$0" "$(readlink "$BUILD/tools")")
	for machine in intel-2 amd-2; do
		echo "$machine $TEST $sum"
	done
}

# $1: source. Debian leaves out the firmware, which nobody needs to build QEMU, and the
# meson that QEMU brings.
complete() {
	local wheels

	sed -i 's/^if unpack_edk2_blobs/if false/' "$1/pc-bios/meson.build"
	mapfile -t wheels < <(sed -nE 's/^(meson|pycotap) = .*installed = "([0-9.]+)".*/\1==\2/p' "$1/pythondeps.toml")
	/usr/bin/python3 -m venv "$1/venv"
	"$1/venv/bin/pip" download --no-deps --dest "$1/python/wheels" "${wheels[@]}"
}

unpack() {
	tar -C "$1" -xf "$BUILD/qemu.tar" --strip-components=1
	apply_series "$1" "${PATCHES[@]}"
	complete "$1"
	echo CONFIG_MICROVM=y >"$1/configs/devices/x86_64-softmmu/microvm.mak"
}

compile() {
	mkdir "$1/objects"
	cd "$1/objects"
	../configure "${CONFIGURE[@]}"
	ninja -j"$JOBS" qemu-system-x86_64
}

build() {
	local source=$1/source

	mkdir "$source"
	step qemu-patch "unpack QEMU, apply ${#PATCHES[@]} patches" unpack "$source"
	step qemu "compile QEMU" compile "$source"
	install -D --strip "$source/objects/qemu-system-x86_64" "$1/root/$PROGRAM"
	pack "$1/root" "$1/qemu.cpio.zst"
	rm -rf "$source"
}

prepare() {
	fetch_source qemu "$VERSION"
	cached qemu "$(hash_of "$BUILD/qemu.tar" "${PATCHES[@]}" "$(gcc --version)" "$0")" build
}

run() {
	OVERLAY=$BUILD/qemu/qemu.cpio.zst "$ROOT/scripts/boot.sh" "qemu-$1" "${1%-*}" "${1#*-}" "one:$TEST" >&2 || true
	cat "$BUILD/run/qemu-$1/verdict"
}

case ${1:-} in
list) list ;;
prepare) prepare ;;
run) run "$2" ;;
*) die "list, prepare or run MACHINE" ;;
esac

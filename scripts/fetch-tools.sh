#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Get what an operator uses from Debian 13, whatever runs here: QEMU, cpupower, perf,
# rdmsr; and turbostat from the kernel's own source. Pack them with all the shared
# libraries that they need, and nothing else, into an initramfs that the emulated host
# can have beside its own, with one like it for guests, and make build/tools a link to
# its directory. There is a directory with perf alone, too.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"
. "$(dirname "$0")/lib/step.sh"
. "$(dirname "$0")/lib/cache.sh"
. "$(dirname "$0")/lib/apt.sh"
. "$(dirname "$0")/lib/pack.sh"

PACKAGES=(qemu-system-x86 linux-cpupower linux-perf msr-tools)
GUEST_PROGRAMS=(usr/bin/cpupower usr/sbin/turbostat usr/sbin/rdmsr)
PROGRAMS=("${GUEST_PROGRAMS[@]}" usr/sbin/wrmsr usr/bin/perf usr/bin/qemu-system-x86_64-microvm)
FIRMWARE=(usr/share/seabios/bios-microvm.bin usr/share/qemu/linuxboot_dma.bin)
LIBRARIES=usr/lib/x86_64-linux-gnu
LOADER=lib64/ld-linux-x86-64.so.2
KERNEL=$(readlink "$BUILD/kernel")

# $1: directory. The packages and all that they depend on, as on an empty machine.
download() {
	mkdir -p "$1/partial"
	: >"$1/status"
	with_suites "deb trixie" -- apt-get update
	with_suites "deb trixie" -- apt-get install --yes --download-only --no-install-recommends \
		-o "Dir::State::status=$1/status" -o "Dir::Cache::archives=$1" "${PACKAGES[@]}"
}

# $1: directory of packages, $2: directory to unpack them in.
unpack() {
	local package

	mkdir "$2"
	for package in "$1"/*.deb; do
		echo "unpacking ${package##*/}"
		dpkg-deb --fsys-tarfile "$package" | tar -x -C "$2" --wildcards \
			./usr/bin './usr/sbin*' "./$LIBRARIES/*.so*" './usr/lib64*' './usr/share/qemu*' './usr/share/seabios*' \
			2>/dev/null || true
	done
}

needed() {
	readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'
}

# $1: where everything is, $2: where to install, $3: program or library with a path.
install_with_libraries() {
	local library

	[[ ! -e $2/$3 ]] || return 0
	install -D -m 755 "$1/$3" "$2/$3"
	for library in $(needed "$1/$3"); do
		if [[ $library != "${LOADER##*/}" ]]; then
			install_with_libraries "$1" "$2" "$LIBRARIES/$library"
		fi
	done
}

# $1: where everything is, $2: where to install the programs that follow.
install_programs() {
	local from=$1 to=$2 program
	shift 2

	for program; do
		install_with_libraries "$from" "$to" "$program"
	done
	install -D -m 755 "$from/usr/$LOADER" "$to/$LOADER"
}

# $1: where to install it, in place of Debian's. Static: it has libraries of this machine.
build_turbostat() {
	mkdir "$1/turbostat"
	make -C "$KERNEL/tools/power/x86/turbostat" O="$1/turbostat" LDFLAGS=-static turbostat
	install --strip "$1/turbostat/turbostat" "$1/usr/sbin/turbostat"
}

# $1: directory to fill.
fill() {
	local file

	download "$1/packages"
	unpack "$1/packages" "$1/all"
	build_turbostat "$1/all"
	install_programs "$1/all" "$1/guest" "${GUEST_PROGRAMS[@]}"
	install_programs "$1/all" "$1/host" "${PROGRAMS[@]}"
	install_programs "$1/all" "$1/perf" usr/bin/perf
	for file in "${FIRMWARE[@]}"; do
		install -D -m 644 "$1/all/$file" "$1/host/$file"
	done
	mkdir "$1/host/guest"
	pack "$1/guest" "$1/host/guest/tools"
	pack "$1/host" "$1/tools.cpio.zst"
	(cd "$1/packages" && printf '%s\n' *.deb) >"$1/versions"
	rm -rf "$1/all" "$1/packages"
}

get() {
	step fetch-tools "get QEMU and host tools from Debian, compile turbostat" fill "$1"
}

cached tools "$(hash_of "$(basename "$KERNEL")" "$(gcc --version)" "$0" "$ROOT/scripts/lib/pack.sh")" get

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Usage: initramfs.sh MODULE...
#
# Pack the emulated host's root file system into build/initramfs/host.cpio.zst:
# busybox, KVM and each MODULE, the selftests, and what a guest boots. What only the
# tests of IA32_PERF_METRICS need goes on top of it: perf_metrics.cpio.zst, with a
# list of tests of its own. In front of it may go acpi.cpio, tables that the machine's
# BIOS lacks.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"
. "$(dirname "$0")/lib/pack.sh"

KVMTOOL=${KVMTOOL:-}
KERNEL=$BUILD/kernel
OUT=$BUILD/initramfs

# $1: directory. Busybox under the names that scripts use.
add_busybox() {
	mkdir -p "$1"/{bin,dev,proc,sys,tmp}
	cp /bin/busybox "$1/bin/busybox"
	/bin/busybox --list | grep -vx busybox | while read -r applet; do
		ln -s busybox "$1/bin/$applet"
	done
}

# $1: directory of collections, $2: one of Linux's own.
add_upstream() {
	cp -rL "$BUILD/upstream/$2" "$1/$2"
	(cd "$1/$2" && printf "$2:%s\n" *) >>"$1/kselftest-list.txt"
}

rm -rf "$OUT"
mkdir -p "$OUT"

add_busybox "$OUT/host"
install -m 755 "$ROOT/scripts/initramfs/init" "$OUT/host/init"
install -D -m 755 "$ROOT/scripts/initramfs/timeout" "$OUT/host/usr/bin/timeout"
mkdir -p "$OUT/host/lib/modules" "$OUT/host/guest"
cp "$KERNEL"/{arch/x86/kvm/*,virt/lib/irqbypass}.ko "$@" "$OUT/host/lib/modules"
for collection in aperfmperf tools; do
	make -C "$ROOT/selftests" KSRC="$KERNEL" COLLECTION=$collection \
		INSTALL_PATH="$OUT/host/kselftest" install
done
add_upstream "$OUT/host/kselftest" upstream

add_busybox "$OUT/guest"
install -m 755 "$ROOT"/selftests/guest/{init,shell} "$OUT/guest"
pack "$OUT/guest" "$OUT/guest.cpio.zst"
cp "$OUT/guest.cpio.zst" "$OUT/host/guest/initramfs"
cp "$KERNEL/arch/x86/boot/bzImage" "$OUT/host/guest"
[[ -z $KVMTOOL ]] || install -m 755 "$KVMTOOL" "$OUT/host/guest/lkvm"

pack "$OUT/host" "$OUT/host.cpio.zst"

# Linux looks for tables where nothing is compressed.
mkdir -p "$OUT/acpi/kernel/firmware/acpi"
iasl -p "$OUT/acpi/kernel/firmware/acpi/cppc" "$ROOT/scripts/initramfs/cppc.asl"
pack "$OUT/acpi" "$OUT/acpi.cpio.zst"
zstd -q -d --rm "$OUT/acpi.cpio.zst"

mkdir -p "$OUT/perf_metrics/guest"
make -C "$ROOT/selftests" KSRC="$KERNEL" COLLECTION=perf_metrics \
	INSTALL_PATH="$OUT/perf_metrics/kselftest" install
add_upstream "$OUT/perf_metrics/kselftest" perf_metrics_upstream
cp -rT "$BUILD/tools/perf" "$OUT/guest"
install -m 755 "$ROOT/selftests/guest/topdown" "$OUT/guest/init"
pack "$OUT/guest" "$OUT/topdown.cpio.zst"
cp "$OUT/topdown.cpio.zst" "$OUT/perf_metrics/guest/topdown"
pack "$OUT/perf_metrics" "$OUT/perf_metrics.cpio.zst"

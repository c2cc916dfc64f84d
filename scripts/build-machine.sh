#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the module and the selftests, and pack them into the emulated host's
# root file system. What did not change is not built again.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"
. "$(dirname "$0")/lib/step.sh"
. "$(dirname "$0")/lib/toolchain.sh"

# The emulated host has no shared libraries.
if [[ -n ${KVMTOOL:-} ]] &&
	{ [[ ! -x $KVMTOOL ]] || readelf -l "$KVMTOOL" 2>&1 | grep -qE 'INTERP|Error'; }; then
	echo "error: KVMTOOL=$KVMTOOL is no static executable; make lkvm-static in kvmtool builds one" >&2
	exit 1
fi

step module "compile kvm_aperfmperf.ko" \
	make -C "$ROOT" KDIR="$BUILD/kernel" RUSTC=/usr/bin/rustc modules
mkdir -p "$BUILD/test-modules"
step test-modules "compile the tests' modules" \
	kernel_make -C "$BUILD/kernel" M="$ROOT/selftests/modules" MO="$BUILD/test-modules" \
	KBUILD_EXTRA_SYMBOLS="$BUILD/module/Module.symvers" modules
step selftests "compile the selftests" \
	make -C "$ROOT/selftests" KSRC="$BUILD/kernel" all
step initramfs "pack the emulated host's root file system" \
	"$ROOT/scripts/initramfs.sh" "$BUILD/module/kvm_aperfmperf.ko" \
	"$BUILD"/test-modules/{nmi_reader,msr_helpers}.ko

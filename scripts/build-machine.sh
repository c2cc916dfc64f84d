#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the module and the selftests, and pack them into the emulated host's
# root file system. What did not change is not built again.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"
. "$(dirname "$0")/lib/step.sh"

step module "compile kvm_aperfmperf.ko" \
	make -C "$ROOT" KDIR="$BUILD/kernel" RUSTC=/usr/bin/rustc modules
step selftests "compile the selftests" \
	make -C "$ROOT/selftests" KSRC="$BUILD/kernel" all
step initramfs "pack the emulated host's root file system" \
	"$ROOT/scripts/initramfs.sh" "$BUILD/module/kvm_aperfmperf.ko"

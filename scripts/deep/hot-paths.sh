#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Show, as KTAP on standard output, that a host without the module runs the code
# of the unpatched kernel: its hot paths are the same but for NOPs.
#
# The cached kernel has what compiling a single object takes. vcpu_enter_guest()
# is inlined into vcpu_run().
set -euo pipefail
. "$(dirname "$0")/../lib/env.sh"
. "$(dirname "$0")/../lib/toolchain.sh"

TREES=$BUILD/hot-paths
LOG=$BUILD/logs/hot-paths.log

compile() {
	kernel_make -C "$1" M=arch/x86/kvm x86.o
	kernel_make -C "$1" M=arch/x86/kernel/cpu aperfmperf.o
}

# What the series change elsewhere is not in the pruned tree, nor in these objects.
unpatch() {
	local patch

	find "$ROOT/patches/linux" -name '*.patch' -printf '%f %p\n' | sort -r | while read -r _ patch; do
		GIT_CEILING_DIRECTORIES=$TREES git -C "$1" apply -R --include='arch/x86/*' --include='include/*' "$patch"
	done
}

# compare OBJECT FUNCTION...
compare() {
	local object=$1
	shift

	/usr/bin/python3 "$ROOT/scripts/deep/same_code.py" llvm-readelf-$LLVM_VERSION llvm-objdump-$LLVM_VERSION \
		aperfmperf_hooked "$TREES/unpatched/$object" "$TREES/patched/$object" "$@"
}

prepare() {
	rm -rf "$TREES"
	mkdir -p "$TREES"
	cp -a "$BUILD/kernel/." "$TREES/patched"
	cp -a "$BUILD/kernel/." "$TREES/unpatched"
	unpatch "$TREES/unpatched"
	compile "$TREES/patched"
	compile "$TREES/unpatched"
}

prepare >"$LOG" 2>&1 || die "cannot compile the objects to compare, see $LOG"
{
	compare arch/x86/kvm/x86.o vcpu_run kvm_arch_vcpu_load kvm_arch_vcpu_put kvm_arch_vcpu_ioctl_run
	compare arch/x86/kernel/cpu/aperfmperf.o arch_scale_freq_tick
}
rm -rf "$TREES"

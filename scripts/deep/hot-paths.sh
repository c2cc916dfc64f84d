#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Usage: hot-paths.sh list | prepare | run CASE
#
# Show, as KTAP on standard output, that a host without the module runs the code
# of the unpatched kernel: its hot paths are the same but for NOPs. The case
# "without-key" shows that a difference would be seen: it compares code that the patches
# did change as if the static key, which makes NOPs of it, were any other.
#
# The cached kernel has what compiling a single object takes. vcpu_enter_guest()
# is inlined into vcpu_run().
set -euo pipefail
. "$(dirname "$0")/../lib/env.sh"
. "$(dirname "$0")/../lib/toolchain.sh"

TREE=$BUILD/hot-paths/tree
OBJECTS=$BUILD/hot-paths/objects

compile() {
	kernel_make -C "$1" M=arch/x86/kvm x86.o vmx/vmx.o
	kernel_make -C "$1" M=arch/x86/kernel/cpu aperfmperf.o
}

# What the series change elsewhere is not in the pruned tree, nor in these objects.
unpatch() {
	local patch

	find "$ROOT/patches/linux" -name '*.patch' -printf '%f %p\n' | sort -r | while read -r _ patch; do
		GIT_CEILING_DIRECTORIES=$BUILD/hot-paths git -C "$1" apply -R --include='arch/x86/*' --include='include/*' "$patch"
	done
}

# A line for each case: its name, the object, and the functions to compare.
list() {
	echo kvm arch/x86/kvm/x86.o vcpu_run kvm_arch_vcpu_load kvm_arch_vcpu_put kvm_arch_vcpu_ioctl_run
	echo vmx arch/x86/kvm/vmx/vmx.o vmx_vcpu_put
	echo without-key arch/x86/kvm/x86.o kvm_arch_vcpu_load kvm_arch_vcpu_ioctl_run
	echo scheduler arch/x86/kernel/cpu/aperfmperf.o arch_scale_freq_tick
}

prepare() {
	local kind

	for kind in patched unpatched; do
		rm -rf "$TREE"
		mkdir -p "$TREE"
		cp -a "$BUILD/kernel/." "$TREE"
		[[ $kind == patched ]] || unpatch "$TREE"
		compile "$TREE"
		list | while read -r _ object _; do
			install -D "$TREE/$object" "$OBJECTS/$kind/$object"
		done
	done
	rm -rf "$TREE"
}

# compare KEY OBJECT FUNCTION...
compare() {
	local key=$1 object=$2
	shift 2

	/usr/bin/python3 "$ROOT/scripts/deep/same_code.py" llvm-readelf-$LLVM_VERSION llvm-objdump-$LLVM_VERSION \
		"$key" "$OBJECTS/unpatched/$object" "$OBJECTS/patched/$object" "$@"
}

# Has the functions in KTAP pass that differ.
must_differ() {
	sed -E 's/^ok ([0-9]+ [^:]+).*/not ok \1: no difference is seen/;t
		s/^not (ok [0-9]+ [^:]+).*/\1: the difference is seen/'
}

case $1 in
list) list ;;
prepare) prepare ;;
run)
	read -r -a arguments < <(list | sed -n "s/^$2 //p")
	case $2 in
	without-key) compare none "${arguments[@]}" | must_differ ;;
	*) compare aperfmperf_hooked "${arguments[@]}" ;;
	esac
	;;
esac

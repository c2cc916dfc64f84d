#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Usage: preflight.sh KDIR RUSTC BINDGEN
#
# Say what keeps the module from being built against a kernel build tree, and
# the remedy. Distributions differ in what they ship, and Kbuild's own messages
# for the same faults come late and name neither cause nor cure.
set -euo pipefail

KDIR=$1 RUSTC=$2 BINDGEN=$3
NEEDED=7.3
BUILD_ONE="or build one with 'make kernel'"

refuse() {
	printf 'Cannot build kvm_aperfmperf against KDIR=%s\n  wrong:  %s\n  remedy: %s\n' "$KDIR" "$1" "$2" >&2
	exit 1
}

config() {
	sed -n "s/^$1=//p" "$KDIR/.config" | tr -d '"'
}

[[ -d $KDIR ]] ||
	refuse "there is no such directory" "name a Linux $NEEDED build tree with KDIR=, $BUILD_ONE"
[[ -r $KDIR/.config && -r $KDIR/include/config/kernel.release ]] ||
	refuse "this is not a configured and built kernel tree" "build the kernel there first, $BUILD_ONE"

release=$(<"$KDIR/include/config/kernel.release")
version=$(cut -d. -f1,2 <<<"${release%%-*}")
if [[ $version != "$NEEDED" ]]; then
	age="too new"
	[[ $(printf '%s\n' "$version" "$NEEDED" | sort -V | head -n 1) == "$version" ]] && age="too old"
	refuse "Linux $release is $age: the patches and the module are for $NEEDED" \
		"use a Linux $NEEDED tree, $BUILD_ONE"
fi

[[ $(config CONFIG_RUST) == y ]] ||
	refuse "this kernel was configured without Rust (CONFIG_RUST)" \
		"enable CONFIG_RUST ('make rustavailable' in the kernel says what it lacks) and build it again, $BUILD_ONE"

command -v "$RUSTC" >/dev/null ||
	refuse "there is no $RUSTC here" "install the kernel's $(config CONFIG_RUSTC_VERSION_TEXT), or name it with RUSTC="
here=$("$RUSTC" --version)
[[ $here == "$(config CONFIG_RUSTC_VERSION_TEXT)" ]] ||
	refuse "the kernel was built with $(config CONFIG_RUSTC_VERSION_TEXT), but $(command -v "$RUSTC") is $here" \
		"name the kernel's compiler with RUSTC=, or build the kernel with this one"

command -v "$BINDGEN" >/dev/null ||
	refuse "there is no $BINDGEN here" "install bindgen-cli, or name it with BINDGEN="

[[ -e $KDIR/rust/libkernel.rmeta ]] ||
	refuse "it has no rust/libkernel.rmeta: distribution headers do not carry the Rust crates" \
		"use the whole build tree of that kernel, $BUILD_ONE"

source=$KDIR
[[ -d $KDIR/source ]] && source=$KDIR/source
[[ -e $source/arch/x86/include/asm/aperfmperf.h ]] ||
	refuse "its source has no asm/aperfmperf.h: patches/linux is not applied" \
		"apply patches/linux/*.patch with 'git am' and build it again, $BUILD_ONE"
grep -qsw aperfmperf_register "$KDIR/Module.symvers" ||
	refuse "aperfmperf_register is not in its Module.symvers: the kernel was built without patches/linux, or without KVM" \
		"enable CONFIG_KVM, and build the patched kernel to the end ('make'), $BUILD_ONE"

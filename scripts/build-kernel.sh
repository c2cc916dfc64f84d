#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build Linux 7.3 with patches/linux and make build/kernel a link to its tree,
# which also serves as KDIR for the module. FLAVOUR=debug and FLAVOUR=rt build
# one that checks more, and one with PREEMPT_RT.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"
. "$(dirname "$0")/lib/step.sh"
. "$(dirname "$0")/lib/cache.sh"
. "$(dirname "$0")/lib/patch.sh"
. "$(dirname "$0")/lib/toolchain.sh"

FRAGMENTS=("$ROOT/scripts/kernel.config" ${FLAVOUR:+"$ROOT/scripts/kernel-$FLAVOUR.config"})

# Kconfig drops what has an unmet dependency without a word.
verify_config() {
	local line status=0

	while read -r line; do
		case $line in
		CONFIG_*=n) ! grep -q "^${line%=n}=" "$1/.config" ;;
		CONFIG_*) grep -qxF "$line" "$1/.config" ;;
		esac || { echo "error: $line of ${FRAGMENTS[*]##*/} did not take"; status=1; }
	done < <(cat "${FRAGMENTS[@]}")
	return $status
}

configure() {
	cat "${FRAGMENTS[@]}" >"$1/fragments.config"
	kernel_make -C "$1" KCONFIG_ALLCONFIG=fragments.config allnoconfig
	verify_config "$1"
}

# The same input shall give the same kernel: no builder, no date, no path.
compile() {
	kernel_make -C "$1" KBUILD_BUILD_USER=kvm-aperfmperf KBUILD_BUILD_HOST=localhost \
		KBUILD_BUILD_TIMESTAMP=1970-01-01 bzImage modules headers
}

# Building modules and kselftests takes headers, rmeta, scripts and tools; the
# rest of the source and the objects are four fifths of the tree. Some of the
# tools' headers are links to headers of drivers.
prune() {
	local link

	cd "$1"
	find tools -lname '*/drivers/*' -xtype f | while read -r link; do
		cp --remove-destination "$(readlink -f "$link")" "$link"
	done
	rm -rf Documentation block certs crypto drivers fs init io_uring ipc mm net samples security sound
	find arch -mindepth 1 -maxdepth 1 -type d ! -name x86 -exec rm -rf {} +
	find . \( -path ./scripts -o -path ./tools -o -path ./rust \) -prune -o \
		\( -name '*.o' -o -name '*.a' -o -name '.*.cmd' -o -name '.tmp_vmlinux*' \) -exec rm -f {} +
}

build() {
	step kernel-patch "unpack Linux, apply ${#LINUX_PATCHES[@]} patches" \
		unpack_linux "$1" "${LINUX_PATCHES[@]}"
	step kernel-config "configure Linux" configure "$1"
	step kernel "compile Linux" compile "$1"
	step kernel-prune "prune the kernel tree" prune "$1"
}

cached kernel "$(hash_of "$BUILD/linux.tar" "${LINUX_PATCHES[@]}" "${FRAGMENTS[@]}" \
	"$(toolchain_versions)" "$0" "$ROOT"/scripts/lib/{patch,toolchain}.sh)" build

# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034 # lists for those who source this

# The patches to Linux in order, and the modules that they change, with irqbypass.ko,
# which KVM needs.
LINUX_PATCHES=("$ROOT"/patches/linux/*.patch "$ROOT"/patches/linux/perf-metrics/*.patch)
KERNEL_MODULES=(virt/lib/irqbypass.ko arch/x86/kvm/{kvm,kvm-intel,kvm-amd}.ko)

# apply_series TREE PATCH...: apply patches in order, and name the one that fails.
apply_series() {
	local tree=$1 patch
	shift

	# The cache may be inside a git repository, such as one of the user's dot
	# files: without the ceiling git would skip every patch in silence.
	for patch; do
		echo "applying ${patch#"$ROOT"/}"
		if ! GIT_CEILING_DIRECTORIES=$(dirname "$tree") git -C "$tree" apply "$patch"; then
			echo "error: ${patch#"$ROOT"/} does not apply"
			return 1
		fi
	done
}

# unpack_linux TREE [PATCH...]: Linux's source in TREE, with these patches.
unpack_linux() {
	mkdir -p "$1"
	tar -C "$1" -xf "$BUILD/linux.tar" --strip-components=1
	apply_series "$@"
}

# configured_as_built TREE: give this source the configuration of build/kernel.
configured_as_built() {
	cp "$BUILD/kernel/.config" "$1"
	kernel_make -C "$1" olddefconfig
}

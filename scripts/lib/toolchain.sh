# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034 # constants for those who source this
#
# The one toolchain that builds the kernel and the module.

LLVM_VERSION=19
# Linux 7.3's minima, see scripts/min-tool-version.sh in its source.
RUST_MINIMUM=1.85.0
BINDGEN_MINIMUM=0.71.1

# Debian's bindgen when it is new enough, else the one in the cache.
bindgen_path() {
	if [[ -x $BUILD/bindgen/bin/bindgen ]]; then
		echo "$BUILD/bindgen/bin/bindgen"
	else
		command -v bindgen
	fi
}

# kernel_make ARGUMENT...: make with this toolchain. Kernels with other patches, or broken
# on purpose, have most of their objects in common: ccache has them.
kernel_make() {
	CCACHE_DIR=$CACHE/ccache CCACHE_MAXSIZE=2G LIBCLANG_PATH=/usr/lib/llvm-$LLVM_VERSION/lib \
		make -j"$JOBS" LLVM=-$LLVM_VERSION CC="ccache clang-$LLVM_VERSION" \
		BINDGEN="$(bindgen_path)" "$@"
}

toolchain_versions() {
	clang-$LLVM_VERSION --version
	ld.lld-$LLVM_VERSION --version
	rustc --version --verbose
	"$(bindgen_path)" --version
}

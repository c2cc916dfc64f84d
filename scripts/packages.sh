#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Install the Debian packages that are missing, saying which.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"
. "$(dirname "$0")/lib/step.sh"
. "$(dirname "$0")/lib/toolchain.sh"

COMMON=(
	# fetch and unpack
	ca-certificates curl git xz-utils zstd
	# kernel, module, emulator
	gcc g++ libc6-dev make ccache bc bison flex kmod libelf-dev libssl-dev perl rsync
	"clang-$LLVM_VERSION" "lld-$LLVM_VERSION" "llvm-$LLVM_VERSION" "libclang1-$LLVM_VERSION"
	# the emulated machine's disc and firmware
	acpica-tools bochsbios vgabios busybox-static grub-common grub-pc-bin mtools xorriso
	# QEMU, turbostat
	libglib2.0-dev libfdt-dev ninja-build libcap-dev
	# documentation, charts and lint
	python3-venv gnuplot-nox shellcheck
)

# candidate PACKAGE: the version that apt would install, or nothing.
candidate() {
	apt-cache policy "$1" | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'
}

candidate_at_least() {
	dpkg --compare-versions "$(candidate "$1")" ge "$2"
}

# Debian 12 has a new Rust under other names, in its security suite.
rust_packages() {
	if candidate_at_least rustc $RUST_MINIMUM; then
		echo rustc rust-src rustfmt rust-clippy cargo
	elif candidate_at_least rustc-web $RUST_MINIMUM; then
		echo rustc-web rust-web-src rustfmt-web rust-web-clippy cargo-web
	else
		die "no Rust >= $RUST_MINIMUM: enable this release's security or backports suite in apt"
	fi
}

# Without Debian's, build-bindgen.sh builds it.
bindgen_package() {
	if candidate_at_least bindgen $BINDGEN_MINIMUM; then
		echo bindgen
	fi
}

missing() {
	local package

	for package; do
		if [[ $(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null) != installed ]]; then
			echo "$package"
		fi
	done
}

as_root() {
	if ((EUID == 0)); then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		echo "error: needs root and there is no sudo; run as root: $*"
		return 1
	fi
}

update() {
	as_root apt-get update --quiet
}

install() {
	as_root env DEBIAN_FRONTEND=noninteractive \
		apt-get install --yes --quiet --no-install-recommends "$@"
}

# Old lists or a hiccup of the mirror are common: one more try, with new lists.
install_or_retry() {
	install "$@" || { update && install "$@"; }
}

if [[ -z $(candidate clang-$LLVM_VERSION) ]]; then
	step apt-update "update the package lists" update
fi
RUST=$(rust_packages)
BINDGEN=$(bindgen_package)
# shellcheck disable=SC2086 # lists of words
mapfile -t MISSING < <(missing "${COMMON[@]}" $RUST $BINDGEN)
if ((${#MISSING[@]})); then
	echo "packages: missing here, installing: ${MISSING[*]}"
	step packages "install ${#MISSING[@]} Debian packages" install_or_retry "${MISSING[@]}"
fi

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Make build/bindgen a link to bindgen, where Debian's is missing or too old.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"
. "$(dirname "$0")/lib/step.sh"
. "$(dirname "$0")/lib/cache.sh"
. "$(dirname "$0")/lib/toolchain.sh"

build() {
	step bindgen "compile bindgen $BINDGEN_MINIMUM" \
		cargo install --locked --root "$1" --target-dir "$1/target" --version $BINDGEN_MINIMUM bindgen-cli
	rm -rf "$1/target"
}

if version=$(command -v bindgen >/dev/null && bindgen --version) &&
	dpkg --compare-versions "${version#bindgen }" ge $BINDGEN_MINIMUM; then
	rm -f "$BUILD/bindgen"
	exit
fi
cached bindgen "$(hash_of $BINDGEN_MINIMUM "$(rustc --version)")" build

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run the lints that need no emulated machine, as KTAP on standard output.
set -uo pipefail
. "$(dirname "$0")/lib/env.sh"
cd "$ROOT" || exit

shell() {
	shellcheck -x -P SCRIPTDIR scripts/*.sh scripts/lib/*.sh scripts/deep/*.sh scripts/deep/mutants/*.sh \
		scripts/initramfs/{init,timeout} .ci/run
}

kernel_rustfmt() {
	find rust src -name '*.rs' -exec \
		rustfmt --check --edition 2021 --config-path build/kernel/.rustfmt.toml {} +
}

module_clippy() {
	make KDIR=build/kernel RUSTC=/usr/bin/rustc clippy
}

core_clippy() {
	cargo-clippy --quiet --locked --all-targets --manifest-path src/hosttest/Cargo.toml \
		--target-dir build/hosttest -- -D warnings
}

selftests_rustfmt() {
	find selftests -name target -prune -o -name '*.rs' -exec rustfmt --check --edition 2024 {} +
}

selftests_clippy() {
	cargo-clippy --quiet --release --locked --all-targets --manifest-path selftests/Cargo.toml \
		--target-dir build/selftests -- -D warnings
}

# The series does not touch MAINTAINERS: these files are maintained here. Two
# more checks misread what the kernel does in many places: the export of a
# static key, which is no plain variable, and the layout of KVM's
# kvm_cpu_cap_init(). By name, checkpatch takes a patch that git knows for a
# source file.
checkpatch() {
	local patch status=0

	for patch in patches/linux/*.patch patches/linux/perf-metrics/*.patch; do
		echo "$patch"
		perl build/kernel/scripts/checkpatch.pl --no-tree --strict --quiet --no-signoff \
			--ignore FILE_PATH_CHANGES,EXPORT_SYMBOL,PARENTHESIS_ALIGNMENT - <"$patch" || status=1
	done
	return $status
}

licences() {
	local without

	without=$(git ls-files | grep -vE '^LICENSES/|/Cargo\.lock$|\.patch$' | xargs grep -L 'SPDX-License-Identifier:')
	[[ -z $without ]] || { echo "no SPDX-License-Identifier in:"; echo "$without"; return 1; }
}

documentation() {
	make docs
}

LINTS=(shell licences checkpatch kernel_rustfmt module_clippy core_clippy
	selftests_rustfmt selftests_clippy documentation)

echo "TAP version 13"
echo "1..${#LINTS[@]}"
for ((i = 0; i < ${#LINTS[@]}; i++)); do
	if "${LINTS[i]}" >"$BUILD/logs/lint-${LINTS[i]}.log" 2>&1; then
		echo "ok $((i + 1)) ${LINTS[i]}"
	else
		sed 's/^/# /' "$BUILD/logs/lint-${LINTS[i]}.log" | head -n 20
		echo "not ok $((i + 1)) ${LINTS[i]} # log: build/logs/lint-${LINTS[i]}.log"
	fi
done

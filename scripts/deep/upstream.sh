#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Usage: upstream.sh list | prepare | run VENDOR | record
#
# Run all of Linux's own KVM selftests for x86 with the module loaded. None may do worse than
# it does on the unpatched kernel, as recorded in baseline/. "record" builds that
# kernel and writes baseline/ anew, for another version of Linux or of the emulator.
set -euo pipefail
. "$(dirname "$0")/../lib/env.sh"
. "$(dirname "$0")/../lib/step.sh"
. "$(dirname "$0")/../lib/cache.sh"
. "$(dirname "$0")/../lib/toolchain.sh"
. "$(dirname "$0")/../lib/pack.sh"
. "$(dirname "$0")/../lib/patch.sh"

BASELINE=$ROOT/scripts/deep/baseline
KERNEL=$(readlink "$BUILD/kernel")
COLLECTION=upstream_all
UNPATCHED=$BUILD/unpatched

# A test that hangs here hangs in an endless loop of the guest; none needs as long.
SECONDS_PER_TEST=20
export TIME_LIMIT=3000

compile_tests() {
	step upstream-all "compile all KVM selftests of Linux for x86" \
		make -C "$KERNEL/tools/testing/selftests/kvm" -j"$JOBS" OUTPUT="$1/obj" \
		LDFLAGS=-static all
	mkdir -p "$1/kselftest/$COLLECTION"
	find "$1/obj/x86" -maxdepth 1 -type f -executable \
		-exec install --strip -t "$1/kselftest/$COLLECTION" {} +
	rm -rf "$1/obj"
	echo "timeout=$SECONDS_PER_TEST" >"$1/kselftest/$COLLECTION/settings"
	(cd "$1/kselftest/$COLLECTION" && find . -type f -executable -printf "$COLLECTION:%P\n") |
		sort >"$1/kselftest/kselftest-list.txt"
}

compile_unpatched() {
	configured_as_built "$1"
	kernel_make -C "$1" KBUILD_BUILD_TIMESTAMP=1970-01-01 bzImage modules
}

build_unpatched() {
	rm -rf "$UNPATCHED"
	mkdir -p "$UNPATCHED/overlay/lib/modules"
	unpack_linux "$UNPATCHED/linux"
	step unpatched "compile Linux without patches" compile_unpatched "$UNPATCHED/linux"
	cp "$UNPATCHED"/linux/{arch/x86/kvm/*,virt/lib/irqbypass}.ko "$UNPATCHED/overlay/lib/modules"
	cp "$UNPATCHED/linux/arch/x86/boot/bzImage" "$UNPATCHED"
}

# verdicts NAME VENDOR RUN: a line for each test, "NAME pass|skip|fail".
verdicts() {
	"$ROOT/scripts/boot.sh" "$1" "$2" 1 "$3" >&2 || true
	sed -nE "s/^(not )?ok [0-9]+ selftests: $COLLECTION: ([a-z0-9_]+)(.*)/\2 \1\3/p" \
		"$BUILD/run/$1/verdict" |
		awk '{ print $1, $2 == "not" ? "fail" : /# SKIP/ ? "skip" : "pass" }'
}

# overlay NAME DIRECTORY...: pack what takes others' place in the root file system.
overlay() {
	local dir=$BUILD/$1 part
	shift

	rm -rf "$dir.overlay"
	mkdir -p "$dir.overlay"
	for part; do
		cp -r "$part/." "$dir.overlay"
	done
	pack "$dir.overlay" "$dir.cpio.zst"
	rm -rf "$dir.overlay"
}

prepare() {
	cached upstream-all "$(hash_of "$(basename "$KERNEL")" "$(gcc --version)" "$0")" compile_tests
	overlay upstream-all "$BUILD/upstream-all"
}

record() {
	local vendor

	prepare
	build_unpatched
	overlay unpatched "$BUILD/upstream-all" "$UNPATCHED/overlay"
	export BZIMAGE=$UNPATCHED/bzImage OVERLAY=$UNPATCHED.cpio.zst
	mkdir -p "$BASELINE"
	for vendor in intel amd; do
		{
			echo '# SPDX-License-Identifier: GPL-2.0'
			verdicts "baseline-$vendor" $vendor "without:collection:$COLLECTION"
		} >"$BUILD/baseline-$vendor"
		mv "$BUILD/baseline-$vendor" "$BASELINE/$vendor"
	done
	rm -rf "$UNPATCHED"
}

# A result for each test of the baseline; one that is missing has failed.
compare() {
	awk '
		BEGIN { rank["fail"] = 0; rank["skip"] = 1; rank["pass"] = 2 }
		NR == FNR { now[$1] = $2; next }
		/^#/ { next }
		{ line[++n] = $0 }
		END {
			print "TAP version 13\n1.." n
			for (i = 1; i <= n; i++) {
				split(line[i], was)
				is = was[1] in now ? now[was[1]] : "fail"
				print (rank[is] < rank[was[2]] ? "not ok " : "ok ") i " " was[1] ": " is ", was " was[2]
			}
		}' "$1" "$2"
}

run() {
	OVERLAY=$BUILD/upstream-all.cpio.zst verdicts "upstream-$1" "$1" "collection:$COLLECTION" >"$BUILD/upstream-$1.verdicts"
	[[ -s $BUILD/upstream-$1.verdicts ]] || die "no test has run, see $BUILD/run/upstream-$1"
	compare "$BUILD/upstream-$1.verdicts" "$BASELINE/$1"
}

case ${1:-} in
list) printf '%s\n' "intel $(hash_of "$BASELINE/intel")" "amd $(hash_of "$BASELINE/amd")" ;;
prepare) prepare ;;
run) run "$2" ;;
record) record ;;
*) die "list, prepare, run VENDOR or record" ;;
esac

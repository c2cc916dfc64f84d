# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Breaking one place of the module or of the patched kernel, in copies of their trees.

MUTANTS=$BUILD/mutants

# The module's source, to be broken. Make goes by the times of files, so those that
# did not change are left alone.
module_tree() {
	mkdir -p "$MUTANTS/module" "$MUTANTS/module-objects"
	rsync --recursive --checksum --executability --delete "$ROOT"/{Kbuild,src,rust,include} "$MUTANTS/module"
}

# The kernel's source, to be broken, and its objects, which the cached kernel lacks.
linux_tree() {
	local tree=$MUTANTS/linux hash

	hash=$(basename "$(readlink "$BUILD/kernel")")
	[[ ! -f $tree/.built || $(<"$tree/.built") != "$hash" ]] || return 0
	rm -rf "$tree" "$MUTANTS/linux.broken"
	unpack_linux "$tree" "${LINUX_PATCHES[@]}"
	configured_as_built "$tree"
	kernel_make -C "$tree" bzImage modules
	echo "$hash" >"$tree/.built"
}

# The tree that FILE is in.
tree_of() {
	case $1 in
	src/* | rust/*) echo module ;;
	*) echo linux ;;
	esac
}

# prepare_trees TREE...
prepare_trees() {
	local tree

	mkdir -p "$MUTANTS"
	for tree; do
		mend "$tree"
		"${tree}_tree"
	done
}

# compile_X OVERLAY: compile what is in a tree into files that take others' place: in
# the root file system those in OVERLAY, and OVERLAY.bzImage as the kernel.
compile_module() {
	kernel_make -C "$BUILD/kernel" M="$MUTANTS/module" MO="$MUTANTS/module-objects" \
		RUSTC=/usr/bin/rustc modules
	install -D "$MUTANTS/module-objects/kvm_aperfmperf.ko" -t "$1/lib/modules"
}

compile_kvm() {
	kernel_make -C "$MUTANTS/linux" "${KERNEL_MODULES[@]}"
	install -D "${KERNEL_MODULES[@]/#/$MUTANTS/linux/}" -t "$1/lib/modules"
}

compile_linux() {
	kernel_make -C "$MUTANTS/linux" bzImage
	cp "$MUTANTS/linux/arch/x86/boot/bzImage" "$1.bzImage"
}

compile_all() {
	compile_module "$1"
	compile_kvm "$1"
	compile_linux "$1"
}

# Says what the tests of the logic say.
logic() {
	local out

	if out=$(cargo test --quiet --manifest-path "$MUTANTS/module/src/hosttest/Cargo.toml" \
		--target-dir "$MUTANTS/hosttest" 2>&1); then
		echo "# tests of the logic: all pass"
	else
		echo "$out" >&2
		awk '/^    [a-z_:0-9]+$/ && !seen[$1]++ { first = first ? first : $1 }
			END { printf "# tests of the logic: %d fail, such as %s\n", length(seen), first }' <<<"$out"
	fi
}

# mend TREE: undo what breed did, now or in a run that was interrupted.
mend() {
	[[ -f $MUTANTS/$1.broken ]] || return 0
	cp "$MUTANTS/$1.whole" "$MUTANTS/$1/$(<"$MUTANTS/$1.broken")"
	rm "$MUTANTS/$1.broken"
}

# breed FILE SED OVERLAY: compile the broken FILE.
breed() {
	local file=$1 expression=$2 overlay=$3 tree compile whole

	tree=$(tree_of "$file")
	case $file in
	arch/x86/kvm/*) compile=compile_kvm ;;
	*) compile=compile_$tree ;;
	esac
	whole=$MUTANTS/$tree.whole
	prepare_trees "$tree" >&2

	cp "$MUTANTS/$tree/$file" "$whole"
	echo "$file" >"$MUTANTS/$tree.broken"
	sed -i "$expression" "$MUTANTS/$tree/$file"
	! cmp -s "$whole" "$MUTANTS/$tree/$file" || die "the mutation does not apply any more: $expression"
	{ diff "$whole" "$MUTANTS/$tree/$file" || true; } | sed -n 's/^\([<>].*\)/# \1/p'
	$compile "$overlay" >&2
	[[ $file != src/switch/* ]] || logic
	mend "$tree"
}

# locked COMMAND...: one at a time has the trees.
locked() {
	local lock

	exec {lock}>"$MUTANTS/lock"
	flock "$lock"
	"$@"
	exec {lock}>&-
}

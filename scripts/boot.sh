#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Usage: boot.sh NAME VENDOR CPUS RUN
#
# Boot the emulated host, an "intel" or an "amd" with CPUS processors, and let
# it do RUN (see initramfs/init), for TIME_LIMIT emulated seconds at most. RUN may
# be one test with arguments, such as one:aperfmperf:drift,--seed=7. All of it
# goes into build/run/NAME: bochsrc, serial (the console), emulator.log, and
# verdict. The verdict comes over a channel of its own; the console is for people.
# PHASE=N has it begin N microseconds later, so that everything meets the kernel's ticks
# elsewhere. BZIMAGE may name another kernel, and OVERLAY an initramfs with files that take the
# place of those in the root file system.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"

NAME=$1 VENDOR=$2 CPUS=$3 RUN=$4
DIR=$BUILD/run/$NAME

# A guest that hangs spins for ever: limits in emulated time and in real time. Kernels
# that check themselves take longer.
TIME_LIMIT=${TIME_LIMIT:-600${FLAVOUR:+0}}
[[ $TIME_LIMIT =~ ^[1-9][0-9]*$ ]] || die "TIME_LIMIT is a number of seconds, not '$TIME_LIMIT'"
# One tick is one instruction, and the TSC counts ticks. Intel's TSC is a multiple
# of 100 MHz; the kernel is told, as AMD has no way to ask.
TICKS_PER_SECOND=200000000
export ORACLE_TICK_LIMIT=$((TIME_LIMIT * TICKS_PER_SECOND))
WALL_LIMIT=$((TIME_LIMIT * 10))

case $VENDOR in
intel) MODEL=corei7_icelake_u ;;
amd) MODEL=ryzen ;;
*) die "vendor is intel or amd, not '$VENDOR'" ;;
esac

# What costs several seconds of boot is only for those who use it.
INITRAMFS=("$BUILD/initramfs/host.cpio.zst")
case $RUN in
demo | tools | one:tools:*) INITRAMFS+=("$BUILD/tools/tools.cpio.zst") ;;
*perf_metrics*) INITRAMFS+=("$BUILD/initramfs/perf_metrics.cpio.zst") ;;
esac
[[ -z ${OVERLAY:-} ]] || INITRAMFS+=("$OVERLAY")

# A machine whose frequency Linux controls. intel_pstate does not know this model of
# CPU. Told that it has HWP, the driver finds that it cannot use it, and does without on
# any model. amd-pstate needs CPPC from CPU and BIOS.
ARGUMENTS='' FEATURES=''
case $VENDOR:$RUN in
intel:pstate | intel:*:pstate_driver) ARGUMENTS='setcpuid=hwp intel_pstate=active' ;;
amd:pstate | amd:*:pstate_driver)
	ARGUMENTS='amd_pstate=passive' FEATURES=cppc
	INITRAMFS=("$BUILD/initramfs/acpi.cpio" "${INITRAMFS[@]}")
	;;
esac

# Machines that the module is not for, as far as their kernel is told.
case $RUN in
*:no_counters) ARGUMENTS+=' clearcpuid=aperfmperf' ;;
*:unstable_tsc) ARGUMENTS+=' tsc=unstable' ;;
esac

# On PREEMPT_RT a KUnit test of the kernel's Rust code warns.
[[ $FLAVOUR != rt ]] || ARGUMENTS+=" 'kunit.filter_glob=kvm_aperfmperf*'"

# A test of the logic that fails takes the kernel with it, when the module is loaded: one
# test alone shall show what it finds itself.
case $RUN in
one:*) ARGUMENTS+=' kunit.enable=0' ;;
esac

[[ -z ${PHASE:-} ]] || ARGUMENTS+=" aperfmperf.phase=$PHASE"

# A disc without dates and identifiers of its own, so that the same files boot
# in the same number of ticks.
make_disc() {
	local disc=$DIR/disc initramfs

	mkdir -p "$disc/boot/grub"
	for initramfs in "${INITRAMFS[@]}"; do
		ln "$initramfs" "$disc/boot/" 2>/dev/null || cp "$initramfs" "$disc/boot/"
	done
	cp "${BZIMAGE:-$BUILD/kernel/arch/x86/boot/bzImage}" "$disc/boot/bzImage"
	# A kernel that oopses panics, reboots by a triple fault, and that ends the emulator.
	cat >"$disc/boot/grub/grub.cfg" <<-EOF
		terminal_input console
		terminal_output console
		set timeout=0
		menuentry host {
			linux /boot/bzImage console=ttyS0,115200 panic=-1 oops=panic reboot=t tsc_early_khz=$((TICKS_PER_SECOND / 1000)) aperfmperf.run=$RUN $ARGUMENTS
			initrd ${INITRAMFS[@]/#*\//\/boot\/}
		}
	EOF
	find "$disc" -exec touch -hd @0 {} +
	SOURCE_DATE_EPOCH=0 grub-mkrescue -d /usr/lib/grub/i386-pc -o "$DIR/disc.iso" "$disc" \
		-- -volume_date all_file_dates =0
	rm -rf "$disc"
}

make_bochsrc() {
	cat >"$DIR/bochsrc" <<-EOF
		cpu: model=$MODEL, ${FEATURES:+add_features=$FEATURES, }count=$CPUS, ips=$TICKS_PER_SECOND, quantum=16, ignore_bad_msrs=0, reset_on_triple_fault=0
		memory: guest=1024, host=1024
		romimage: file=/usr/share/bochs/BIOS-bochs-latest
		vgaromimage: file=/usr/share/vgabios/vgabios-stdvga.bin
		vga: extension=vbe, update_freq=1, realtime=0
		clock: sync=none, time0=946684800
		display_library: nogui
		ata0-master: type=cdrom, path="$DIR/disc.iso", status=inserted
		boot: cdrom
		com1: enabled=1, mode=file, dev="$DIR/serial"
		log: "$DIR/emulator.log"
		panic: action=fatal
		error: action=report
		info: action=ignore
		debug: action=ignore
	EOF
}

# What the verdict alone cannot tell: whether the machine ran to its end.
judge() {
	case $1 in
	0) echo 'ok 1 the machine ran to its end' ;;
	10)
		if grep -q 'not ok' "$ORACLE_VERDICT"; then
			echo 'ok 1 the machine ran to its end, with failures'
		else
			echo 'not ok 1 the machine failed at something that is no test'
		fi
		;;
	124) echo 'not ok 1 the machine ran into a limit of time' ;;
	125) echo "not ok 1 the machine saw that a $(grep -o 'rule .*' "$DIR/output" | tail -n 1)" ;;
	*) echo "not ok 1 the emulator left with status $1" ;;
	esac
}

rm -rf "$DIR"
mkdir -p "$DIR"
make_disc >"$DIR/disc.log" 2>&1 || { cat "$DIR/disc.log"; die "cannot make the boot disc"; }
make_bochsrc
export ORACLE_VERDICT=$DIR/verdict
: >"$ORACLE_VERDICT"

status=0
timeout --foreground "$WALL_LIMIT" "$BUILD/bochs/bochs" -q -f "$DIR/bochsrc" \
	</dev/null >"$DIR/output" 2>&1 || status=$?
rm -f "$DIR/disc.iso"

if [[ $RUN != demo ]]; then
	printf 'TAP version 13\n1..1\n%s\n' "$(judge $status)" >>"$ORACLE_VERDICT"
fi
printf '%-64s %5d s\n' "boot: $RUN on $NAME" $SECONDS
case $status in
0) ;;
10) exit 1 ;;
*)
	{
		judge $status
		echo "  logs: $DIR/{serial,output,emulator.log}"
		tail -n 12 "$DIR/serial" | sed 's/^/  | /'
		tail -n 3 "$DIR/output" | sed 's/^/  | /'
	} >&2
	exit 1
	;;
esac

# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash

# pack DIRECTORY CPIO.ZST: make an initramfs. No times, no inode numbers, one
# order: the same files give the same bytes.
pack() {
	{
		echo 'nod /dev/console 600 0 0 c 5 1'
		find "$1" -mindepth 1 \
			\( -type d -printf 'dir /%P 755 0 0\n' \) -o \
			\( -type l -printf 'slink /%P %l 777 0 0\n' \) -o \
			\( -type f -printf 'file /%P %p %m 0 0\n' \)
	} | sort -k 2 >"$2.list"
	"$BUILD/kernel/usr/gen_init_cpio" -t 0 "$2.list" | zstd -q -f -9 -T1 -o "$2"
}

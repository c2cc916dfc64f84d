// SPDX-License-Identifier: GPL-2.0
/*
 * Reads the host's APERF and MPERF in each NMI, as perf does, and tells the
 * emulator's oracle how far they are from the truth. What they are off by in the
 * first NMI is from before the test, and taken off. For tests on one CPU only.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>

#include <asm/nmi.h>

#include "kvm_aperfmperf.h"

#define ORACLE_LEAF	0x4f524143
#define ORACLE_TRUTH	1
#define ORACLE_MEASURE	36
#define THIS_CPU	(~0ULL)

/* Measures, see selftests/harness/src/sweep.rs. In ticks, but for the first. */
enum {
	NMIS,
	APERF_OFF,
	MPERF_AHEAD,
	MPERF_BEHIND,
	MPERF_BACKWARDS,
};

struct pair {
	u64 aperf;
	u64 mperf;
};

static struct pair oracle(u64 function, u64 rbx, u64 rdx)
{
	u64 rax = ORACLE_LEAF;

	asm volatile("cpuid"
		     : "+a" (rax), "+b" (rbx), "+c" (function), "+d" (rdx));
	return (struct pair) { rax, rbx };
}

static void measure(u64 index, u64 value)
{
	oracle(ORACLE_MEASURE, index, value);
}

static u64 beyond(u64 value, u64 bound)
{
	s64 distance = value - bound;

	return distance > 0 ? distance : 0;
}

static int read_in_nmi(unsigned int type, struct pt_regs *regs)
{
	static struct pair off;
	static u64 nmis, last;
	struct pair start, middle, end;
	u64 aperf, mperf;

	start = oracle(ORACLE_TRUTH, THIS_CPU, 0);
	aperf = get_host_aperf();
	middle = oracle(ORACLE_TRUTH, THIS_CPU, 0);
	mperf = get_host_mperf();
	end = oracle(ORACLE_TRUTH, THIS_CPU, 0);

	if (!nmis++)
		off = (struct pair) { aperf - start.aperf, mperf - middle.mperf };
	aperf -= off.aperf;
	mperf -= off.mperf;

	measure(NMIS, nmis);
	measure(APERF_OFF, beyond(aperf, middle.aperf) + beyond(start.aperf, aperf));
	measure(MPERF_AHEAD, beyond(mperf, end.mperf));
	measure(MPERF_BEHIND, beyond(middle.mperf, mperf));
	if (nmis > 1)
		measure(MPERF_BACKWARDS, beyond(last, mperf));
	last = mperf;
	return NMI_HANDLED;
}

static int __init nmi_reader_init(void)
{
	if (oracle(0, 0, 0).aperf != 0x46525045504d4150ULL) {
		pr_err("this machine has no oracle\n");
		return -ENODEV;
	}
	return register_nmi_handler(NMI_LOCAL, read_in_nmi, 0, KBUILD_MODNAME);
}

static void __exit nmi_reader_exit(void)
{
	unregister_nmi_handler(NMI_LOCAL, KBUILD_MODNAME);
}

module_init(nmi_reader_init);
module_exit(nmi_reader_exit);
MODULE_DESCRIPTION("Reads the host's APERF and MPERF in NMIs, for tests in the emulator");
MODULE_LICENSE("GPL");

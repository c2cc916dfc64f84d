// SPDX-License-Identifier: GPL-2.0
/*
 * Gives user space the host's APERF and MPERF in the ways in which other parts of the
 * kernel get at them: by the plain helpers for MSRs of other CPUs, which no device uses,
 * and by what kvm_aperfmperf exports. For one reader or writer at a time.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/smp.h>
#include <linux/uaccess.h>

#include <asm/msr.h>

#include "kvm_aperfmperf.h"

/* A position in the file, see selftests/harness/src/msr_device.rs. */
#define POS_MSR(pos)	((u32)(pos))
#define POS_CPU(pos)	((unsigned int)((pos) >> 32 & 0xffff))
#define POS_HELPER(pos)	((unsigned int)((pos) >> 48))

enum {
	ONE_CPU,
	MANY_CPUS,
	EXPORTED,
};

static DEFINE_PER_CPU(struct msr, msrs);

static void read_exported(void *host)
{
	get_host_aperfmperf(host);
}

static ssize_t helpers_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	unsigned int cpu = POS_CPU(*pos);
	struct host_aperfmperf host = {};
	int err = 0;

	if (cpu >= nr_cpu_ids || !cpu_online(cpu))
		return -ENXIO;

	switch (POS_HELPER(*pos)) {
	case ONE_CPU:
		err = rdmsrq_on_cpu(cpu, POS_MSR(*pos), &host.aperf);
		break;
	case MANY_CPUS:
		rdmsr_on_cpus(cpumask_of(cpu), POS_MSR(*pos), &msrs);
		host.aperf = per_cpu(msrs, cpu).q;
		break;
	case EXPORTED:
		err = smp_call_function_single(cpu, read_exported, &host, true);
		break;
	default:
		err = -EINVAL;
	}
	if (err)
		return err;

	count = min(count, sizeof(host));
	return copy_to_user(buf, &host, count) ? -EFAULT : count;
}

static ssize_t helpers_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	unsigned int cpu = POS_CPU(*pos);
	int err = 0;
	u64 val;

	if (cpu >= nr_cpu_ids || !cpu_online(cpu))
		return -ENXIO;
	if (count != sizeof(val))
		return -EINVAL;
	if (copy_from_user(&val, buf, count))
		return -EFAULT;

	switch (POS_HELPER(*pos)) {
	case ONE_CPU:
		err = wrmsrq_on_cpu(cpu, POS_MSR(*pos), val);
		break;
	case MANY_CPUS:
		per_cpu(msrs, cpu).q = val;
		wrmsr_on_cpus(cpumask_of(cpu), POS_MSR(*pos), &msrs);
		break;
	default:
		err = -EINVAL;
	}
	return err ?: count;
}

static const struct file_operations helpers_fops = {
	.owner = THIS_MODULE,
	.read = helpers_read,
	.write = helpers_write,
};

static struct miscdevice helpers = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = KBUILD_MODNAME,
	.mode = 0600,
	.fops = &helpers_fops,
};

module_misc_device(helpers);
MODULE_DESCRIPTION("Accesses the host's APERF and MPERF by helpers of the kernel's, for tests");
MODULE_LICENSE("GPL");

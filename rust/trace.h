/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints. Counters are in ticks: APERF's at the actual frequency, MPERF's
 * at the TSC's. @vcpu is the number in the name of the vCPU's file in debugfs.
 */

#undef TRACE_SYSTEM
#define TRACE_SYSTEM kvm_aperfmperf

#if !defined(_KVM_APERFMPERF_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _KVM_APERFMPERF_TRACE_H

#include <linux/smp.h>
#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(aperfmperf_guest,
	TP_PROTO(u32 vcpu, u64 aperf, u64 mperf),
	TP_ARGS(vcpu, aperf, mperf),
	TP_STRUCT__entry(
		__field(u32, cpu)
		__field(u32, vcpu)
		__field(u64, aperf)
		__field(u64, mperf)
	),
	TP_fast_assign(
		__entry->cpu = smp_processor_id();
		__entry->vcpu = vcpu;
		__entry->aperf = aperf;
		__entry->mperf = mperf;
	),
	TP_printk("cpu=%u vcpu=%u aperf=%llu mperf=%llu",
		  __entry->cpu, __entry->vcpu, __entry->aperf, __entry->mperf)
);

/* The guest pair begins to advance, from these values. */
DEFINE_EVENT(aperfmperf_guest, aperfmperf_load,
	TP_PROTO(u32 vcpu, u64 aperf, u64 mperf),
	TP_ARGS(vcpu, aperf, mperf)
);

/* It stops, at these. */
DEFINE_EVENT(aperfmperf_guest, aperfmperf_put,
	TP_PROTO(u32 vcpu, u64 aperf, u64 mperf),
	TP_ARGS(vcpu, aperf, mperf)
);

/* The MSRs hold the host pair again, which is this. */
TRACE_EVENT(aperfmperf_restore,
	TP_PROTO(u64 aperf, u64 mperf),
	TP_ARGS(aperf, mperf),
	TP_STRUCT__entry(
		__field(u32, cpu)
		__field(u64, aperf)
		__field(u64, mperf)
	),
	TP_fast_assign(
		__entry->cpu = smp_processor_id();
		__entry->aperf = aperf;
		__entry->mperf = mperf;
	),
	TP_printk("cpu=%u aperf=%llu mperf=%llu",
		  __entry->cpu, __entry->aperf, __entry->mperf)
);

/* Both MSRs were written: the ticks that were lost and made good meanwhile. */
TRACE_EVENT(aperfmperf_exchange,
	TP_PROTO(u64 lost_aperf, u64 lost_mperf, bool interrupted),
	TP_ARGS(lost_aperf, lost_mperf, interrupted),
	TP_STRUCT__entry(
		__field(u32, cpu)
		__field(u64, lost_aperf)
		__field(u64, lost_mperf)
		__field(bool, interrupted)
	),
	TP_fast_assign(
		__entry->cpu = smp_processor_id();
		__entry->lost_aperf = lost_aperf;
		__entry->lost_mperf = lost_mperf;
		__entry->interrupted = interrupted;
	),
	TP_printk("cpu=%u lost_aperf=%llu lost_mperf=%llu interrupted=%u",
		  __entry->cpu, __entry->lost_aperf, __entry->lost_mperf,
		  __entry->interrupted)
);

/* How the vCPU's reads are served from now on; @mode as in src/observe.rs. */
TRACE_EVENT(aperfmperf_mode,
	TP_PROTO(u32 vcpu, u8 mode),
	TP_ARGS(vcpu, mode),
	TP_STRUCT__entry(
		__field(u32, cpu)
		__field(u32, vcpu)
		__field(u8, mode)
	),
	TP_fast_assign(
		__entry->cpu = smp_processor_id();
		__entry->vcpu = vcpu;
		__entry->mode = mode;
	),
	TP_printk("cpu=%u vcpu=%u mode=%s", __entry->cpu, __entry->vcpu,
		  __print_symbolic(__entry->mode,
			{ 0, "passthrough" },
			{ 1, "intercepted:host" },
			{ 2, "intercepted:kvm" },
			{ 3, "intercepted:tsc_ratio" },
			{ 4, "intercepted:high_value" }))
);

#endif /* _KVM_APERFMPERF_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>

# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034 # lists for those who source this
#
# What check.sh boots: "NAME VENDOR CPUS [RUN]", as boot.sh wants it.

# All lists have the longest first, so that no CPU waits for another in the end.
MACHINES=("amd-2 amd 2" "intel-2 intel 2" "amd-1 amd 1" "intel-1 intel 1")
# Where guests have the mediated PMU.
PMU_MACHINES=("intel-pmu-2 intel 2" "intel-pmu-1 intel 1")
# With QEMU and an operator's tools.
TOOLS_MACHINES=("intel-tools intel 2" "amd-tools amd 2")
# Where Linux controls the frequency.
PSTATE_MACHINES=("intel-pstate intel 2" "amd-pstate amd 2")
# All tests of a kind, each on its machines. Linux's own tests of the PMU take most of
# their machine's time and have nothing to do with the number of CPUs.
SUITES=("${TOOLS_MACHINES[@]/%/ tools}" "${MACHINES[@]/%/ selftests}"
	"${PMU_MACHINES[0]} perf_metrics" "${PMU_MACHINES[1]} collection:perf_metrics"
	"${PSTATE_MACHINES[@]/%/ pstate}")
# Where the test starts another kernel and ends there.
KEXECS=("intel-kexec intel 2 one:aperfmperf:kexec" "amd-kexec amd 2 one:aperfmperf:kexec"
	"intel-kexec-asleep intel 2 one:aperfmperf:kexec,asleep")
# Where the kernel is told that there are no counters, or of an unstable TSC, so that the
# module does not load.
REFUSALS=("intel-bare intel 1 without:one:aperfmperf:no_counters"
	"amd-bare amd 1 without:one:aperfmperf:no_counters"
	"intel-adrift intel 1 without:one:aperfmperf:unstable_tsc"
	"amd-adrift amd 1 without:one:aperfmperf:unstable_tsc")
# The same twice, with two CPUs, preemption and hops.
TWINS=("twin-1 intel 2 one:aperfmperf:drift" "twin-2 intel 2 one:aperfmperf:drift")

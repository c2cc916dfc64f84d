#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Usage: [SEED=n] fuzz.sh list | prepare | run MACHINE
#
# Ask KVM for random things, 100,000 times on each machine.
set -euo pipefail
. "$(dirname "$0")/../lib/env.sh"
. "$(dirname "$0")/../lib/machines.sh"

export TIME_LIMIT=6000
on_machines "one:aperfmperf:fuzz,--operations=100000,--seed=${SEED:-1}" \
	intel-1 intel-2 amd-1 amd-2 -- "$@"

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Usage: [SEED=n] drift.sh list | prepare | run MACHINE
#
# Switch between guests 1,000,000 times in a random order, on each machine.
set -euo pipefail
. "$(dirname "$0")/../lib/env.sh"
. "$(dirname "$0")/../lib/machines.sh"

export TIME_LIMIT=20000
on_machines "one:aperfmperf:drift,--switches=1000000,--seed=${SEED:-1}" \
	intel-1 intel-2 amd-1 amd-2 -- "$@"

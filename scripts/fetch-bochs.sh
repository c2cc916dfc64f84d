#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Get the source of Bochs 3.0 from Debian and make build/bochs.tar a link to it.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"
. "$(dirname "$0")/lib/step.sh"
. "$(dirname "$0")/lib/apt.sh"

fetch_source bochs 3.0

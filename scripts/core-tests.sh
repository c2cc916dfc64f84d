#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run the tests of the module's pure part as a program, as KTAP on standard output.
set -euo pipefail
. "$(dirname "$0")/lib/env.sh"

echo "TAP version 13"
cargo test --locked --manifest-path "$ROOT/src/hosttest/Cargo.toml" --target-dir "$BUILD/hosttest" 2>&1 |
	awk '
		/^running [0-9]+ tests?$/ { planned += $2 }
		/^test .* \.\.\. ok$/ { $0 = "ok " ++n " " $2 }
		/^test .* \.\.\. FAILED$/ { $0 = "not ok " ++n " " $2 }
		/^test .* \.\.\. ignored/ { $0 = "ok " ++n " " $2 " # SKIP" }
		!/^(not )?ok / { $0 = "# " $0 }
		{ text = text $0 "\n" }
		END { printf "1..%d\n%s", planned, text }
	'

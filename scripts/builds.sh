#!/usr/bin/env bash
# Two builds on one bus: this one, and one of the next version, as clients and as brokers of each other.
#
#   scripts/builds.sh [ARGUMENTS OF THE TEST PROGRAM]
#
# The other build is this source with the feature `next-build` (bus-core/src/control/next.rs says what it does otherwise). It is one test program more
# in the target directory, and shares with the first one everything that does not depend on bus-core.
set -euo pipefail
cd "$(dirname "$0")/.."

next=$(cargo test --no-run --locked -p bus-client --test builds --features next-build --message-format=json |
    sed -n 's/.*"name":"builds".*"executable":"\([^"]*\)".*/\1/p')
[ -x "$next" ] || { echo "the other build was not made" >&2; exit 1; }
BUS_NEXT_BUILD="$next" cargo test --locked -p bus-client --test builds -- --include-ignored "$@"

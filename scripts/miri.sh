#!/usr/bin/env bash
# The parts that Miri can see, under Miri: undefined behaviour shows wherever no system call is needed. It needs a nightly toolchain with the
# component miri; without one nothing is run, and the exit code is 3.
#
# Miri sees: serialising, validation of whatever bytes, messages between client and broker, names, patterns, schemas, settings, the arena, and the ring
# protocol over plain cells. It does not see: mapped memory, sockets, futexes, fences between processes. Those the tests, loom-tests and
# bus-torture see.
set -euo pipefail
cd "$(dirname "$0")/.."

toolchain=${BUS_MIRI_TOOLCHAIN:-nightly}
if ! cargo "+$toolchain" miri --version >/dev/null 2>&1; then
    echo "NOT RUN: no Miri here. Install it with: rustup toolchain install $toolchain --component miri,rust-src" >&2
    exit 3
fi

# Random tests read their number of cases here, and keep what failed in a file.
export PROPTEST_CASES=${PROPTEST_CASES:-4}
export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-strict-provenance ${MIRIFLAGS:-}"
miri() { cargo "+$toolchain" miri test --locked -p bus-core "$@"; }

echo "-- names, patterns, schemas, settings, control messages, the arena"
miri --lib -- \
    arena:: delivery:: name:: pattern:: schema:: settings:: wire:: a_list_has_its_numbers
echo "-- values into bytes and back, whatever the bytes"
miri --test heap
echo "-- the ring protocol over cells"
miri --test sequence --test interleave

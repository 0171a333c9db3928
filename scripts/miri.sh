#!/usr/bin/env bash
# The parts that Miri can see, under Miri: undefined behaviour shows wherever no system call is needed. It needs a nightly toolchain with the
# component miri; without one nothing is run, and the exit code is 77. It takes most of an hour.
#
# Miri sees: serialising, validation of whatever bytes, messages between client and broker, names, patterns, schemas, settings, the arena, and the ring
# protocol over plain cells. It does not see: mapped memory, sockets, futexes, fences between processes. Those the tests, loom-tests and
# bus-torture see.
set -euo pipefail
cd "$(dirname "$0")/.."

toolchain=${BUS_MIRI_TOOLCHAIN:-nightly}
if ! cargo "+$toolchain" miri --version >/dev/null 2>&1; then
    echo "NOT RUN: no Miri here. Install it with: rustup toolchain install $toolchain --component miri,rust-src" >&2
    exit 77
fi

# Random tests read their number of cases here, and keep what failed in a file.
export PROPTEST_CASES=${PROPTEST_CASES:-4}
# Tree borrows: rkyv's relative pointers lead out of the value that holds them, which the older model, stacked borrows, does not allow.
export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-strict-provenance -Zmiri-tree-borrows ${MIRIFLAGS:-}"
miri() { cargo "+$toolchain" miri test --locked -p bus-core "$@"; }

echo "-- names, patterns, schemas, settings, control messages, the arena"
# Schemas of thousands of fields take hours here, and are made of the same steps as the others.
miri --lib -- \
    arena:: delivery:: name:: pattern:: schema:: settings:: wire:: a_list_has_its_numbers \
    --skip too_many_fields --skip too_much_inside --skip large_schema --skip held_to_the_limits
echo "-- values into bytes and back, whatever the bytes"
miri --test all heap::
echo "-- the ring protocol over cells"
miri --test all -- sequence:: interleave::

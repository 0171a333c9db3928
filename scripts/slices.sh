#!/usr/bin/env bash
# A slice of each check that takes long, as the CI runs it: in release, with other random choices than the tests had before.
# BUS_TEST_SEED, which each prints, makes the same choices again. What runs them whole is named beside each.
set -euo pipefail
cd "$(dirname "$0")/.."

run() { cargo test --release --locked -p bus-client "$@"; }

echo "-- order and content, a million messages of each shape (ten million: scripts/ten-million.sh)"
BUS_TEST_MESSAGES=1000000 scripts/ten-million.sh

echo "-- kill -9 at other moments than in debug (BUS_TEST_KILLS=N for N of each kind)"
run --test all kills:: -- --nocapture --test-threads=1

echo "-- the same where publishers go past subscribers"
run --test all -- past:: evicted:: --nocapture --test-threads=1

echo "-- state, history, patterns of topics, parked handles"
run --test all -- delivery:: state:: history:: patterns:: parked:: selector::
cargo test --release --locked -p bus-core --test all -- race:: overrun:: interleave::

echo "-- joins, leaves, brokers that go, stopped processes and wake-ups, at full speed"
run --test all -- joins:: hosts:: stopped:: quiet:: threads:: --nocapture

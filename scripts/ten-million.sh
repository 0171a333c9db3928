#!/bin/sh
# Order and content of ten million messages for each of 1:1, 1:4 and 4:1, every end a process of its own.
# Prints what each subscriber received. BUS_TEST_MESSAGES sets another number.
set -eu
cd "$(dirname "$0")/.."
BUS_TEST_MESSAGES="${BUS_TEST_MESSAGES:-10000000}" \
    cargo test --release -p bus-client --test order publisher -- --nocapture --test-threads=1

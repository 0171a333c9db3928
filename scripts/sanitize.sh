#!/usr/bin/env bash
# The core's hostile tests and `bus-torture hostile` under a sanitizer. Takes some minutes, most of them to build.
#
#   scripts/sanitize.sh [address|thread] [SECONDS]     address and 60 where nothing is said
#
# address  The library and what tests it are instrumented; the standard library is not. It sees what is outside an allocation, used after it was
#          freed, or leaked. It knows nothing of what is mapped: a read outside a segment is a fault, or is noticed by the check of the
#          fast lane that every payload lies inside its segment.
# thread   The standard library has to be built with it, from its source. It sees races between threads on private memory (held messages,
#          doorbells, the broker's thread). It sees none between processes, and none between two mappings of one segment, for it goes
#          by address: those are what `loom-tests` is for. The fast lane's races are races on purpose, so that it is not run.
#
# Ends with 0 where all held, with 1 where something did not, and with 77 where this toolchain lacks what is needed. Nothing is downloaded.
set -euo pipefail
cd "$(dirname "$0")/.."
kind="${1:-address}"
seconds="${2:-60}"
host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/sanitize-$kind"

lacks() {
    echo "NOTHING WAS CHECKED: $1" >&2
    exit 77
}

case "$kind" in
    address) short=asan ;;
    thread) short=tsan ;;
    *) echo "usage: scripts/sanitize.sh [address|thread] [SECONDS]" >&2; exit 2 ;;
esac
# The stable toolchain has the runtime where its distributor put it in; the switch for it is that of the nightly one.
compgen -G "$(rustc --print target-libdir --target "$host")/librustc*_rt.$short.a" > /dev/null ||
    lacks "this toolchain has no runtime of the $kind sanitizer"
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=$kind -Cforce-frame-pointers=yes"
# What is instrumented is slow; without any optimisation the broker cannot keep up with the floods.
export CARGO_PROFILE_DEV_OPT_LEVEL=1
build=(--locked --offline --target "$host")

if [ "$kind" = thread ]; then
    [ -f "$(rustc --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock" ] ||
        lacks "the thread sanitizer needs the source of the standard library (rustup component add rust-src)"
    cargo test "${build[@]}" -Zbuild-std -p bus-core --test all -- holding:: hostile:: wake::
    cargo test "${build[@]}" -Zbuild-std -p bus-client --test all threads::
    echo "held under the thread sanitizer: bus-core holding, hostile, wake; bus-client threads"
    exit 0
fi

# What is freed is not kept for long, because the fast lane watches its own memory.
export ASAN_OPTIONS="${ASAN_OPTIONS:-quarantine_size_mb=4:detect_stack_use_after_return=1:strict_string_checks=1}"
cargo test "${build[@]}" -p bus-core --test all -- hostile:: hostile_overrun:: arena:: holding::
cargo run "${build[@]}" -p bus-torture -- hostile --lane fast --seconds "$seconds"
cargo run "${build[@]}" -p bus-torture -- hostile --lane control --seconds "$seconds" --patience 120
cargo run "${build[@]}" -p bus-torture -- hostile --lane live --seconds "$seconds" --patience 120
echo "held under the address sanitizer: bus-core hostile, hostile_overrun, arena, holding; bus-torture hostile"

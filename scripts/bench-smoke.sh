#!/bin/sh
# Runs every command of bus-bench and every criterion bench for a moment. Fails if one fails, or if a figure that is promised
# is not there. Asserts nothing about speed. Needs processors 0 and 1 and ptrace; takes about a minute, after the build.
set -eu
cd "$(dirname "$0")/.."
# Both at once: else shared dependencies are built twice, with different features.
cargo build --release --locked -p bus-bench --bins --benches
bench="${CARGO_TARGET_DIR:-target}/release/bus-bench"
out="$(mktemp)"
trap 'rm -f "$out"' EXIT

# figures "KEY KEY ..." COMMAND...: the command's JSON has a number at each of these keys.
figures() {
    keys="$1"
    shift
    echo "bus-bench $*"
    "$bench" "$@" --json >"$out"
    for key in $keys; do
        if ! grep -Eq "^  \"$key\": -?[0-9]" "$out"; then
            echo "bus-bench $*: no number at $key in:" >&2
            cat "$out" >&2
            exit 1
        fi
    done
}

# of "A B" "p q": A.p A.q B.p B.q
of() {
    for name in $1; do
        for key in $2; do
            printf '%s\\.%s ' "$name" "$key"
        done
    done
}

percentiles="p50_ns p99_ns p999_ns"
trip="$(of "bus floor" "$percentiles") ratio\.p50"
for payload in 8 40; do
    figures "$trip" latency --payload "$payload" --seconds 0.5 --rounds 1
done

figures "$trip" latency --lossy --payload 40 --seconds 0.5 --rounds 1
figures "$(of "with without" "publish_cpu_ns") ratio" stopped --seconds 0.5 --rounds 1
figures "$(of "bytes_64 bytes_256 bytes_1024" "state_ns private_ns changed_ns ratio")" state --seconds 0.5 --rounds 2
figures "$(of "text\.bytes_40 text\.bytes_1048576" "raw_ns in_place_ns copy_ns ratio")" tiers --rounds 5
figures "$(of "short long untouched\.short untouched\.long" "p50_ns") ratio untouched\.ratio" handoff --pairs 20

rate="$(of "bus floor" "msgs_per_s bytes_per_s publish_cpu_ns") ratio"
figures "$rate" throughput --seconds 0.5 --rounds 1
figures "$rate" throughput --seconds 0.5 --rounds 1 --batch 32
figures "$rate floor\.memcpy_bytes_per_s ratio\.memcpy" throughput --seconds 0.5 --rounds 1 --payload 65536
figures "$rate bus\.publish_cpu_ratio" throughput --seconds 0.5 --rounds 1 --subscribers 8
figures "$(of "bus floor" "msgs_per_s bytes_per_s") ratio" throughput --seconds 0.5 --rounds 1 --publishers 4

paced=""
for interval in 5 50 500; do
    paced="$paced $(of "bus.every_${interval}us bus.spin_20us.every_${interval}us" "$percentiles cpu")"
done
calls="$(of "bus floor" "sleep_calls wake_calls wake_calls_per_sleep")"
figures "$trip $calls $paced" wake --seconds 1 --rounds 1 --spins 0,20

calls="send_bytes try_send_bytes loan_bytes batch_bytes send try_send loan batch recv_bytes try_recv_bytes \
    recv_batch_bytes recv try_recv recv_batch iter"
limits="--check"
# The limits are for this processor's instructions.
[ "$(uname -m)" = x86_64 ] || limits=""
# No words where there are no limits.
# shellcheck disable=SC2086
figures "$calls" instructions $limits

versus="$(of "with without" "msgs_per_s $percentiles") ratio $(of "ratio" "p50 p99 p999")"
bursts="$(of "with\.single without\.single with\.burst without\.burst" "$percentiles") $(of "ratio\.single ratio\.burst" "p50 p99")"
figures "$versus $bursts always\.msgs_per_s ratio\.always" batching --seconds 1 --rounds 1
for content in telemetry quotes random; do
    figures "$versus size_ratio" compression --seconds 0.5 --rounds 1 --content "$content"
done

figures "$(of "alone idle_16" "floor\.p50_ns select\.p50_ns ratio\.p50") idle_16\.ratio_to_alone" select --seconds 1 --rounds 1 --idle 16

sides="$(of "bus.publisher bus.subscriber floor.publisher floor.subscriber" \
    "syscalls_per_msg context_switches_per_msg allocations_per_msg page_faults_per_msg resident_kib")"
joins="$(of "bus.topics_1 bus.topics_20" "joins_per_s join_p50_us join_p99_us publisher_join_p50_us \
    publisher_join_p99_us rss_kib_per_topic pss_kib_per_topic rss_kib_per_subscriber pss_kib_per_subscriber \
    broker_rss_kib_per_topic segment_kib_per_topic descriptors threads broker_rss_kib") \
    $(of "bus.processes_1 bus.processes_4" "joins_per_s join_p50_us")"
figures "$sides $joins" cost --messages 100000 --topics 20 --joins 50
figures "$(of "tasks.publisher tasks.subscriber" "syscalls_per_msg allocations_per_msg")" cost --subject tasks --messages 100000
figures "$(of "tasks floor" "$percentiles") ratio\.p50" wake --subject tasks --seconds 1 --rounds 1

echo "criterion benches"
# Each body runs once: whether they work, not what they measure.
cargo bench --locked -p bus-bench --bench parts -- --test
echo "all figures are there"

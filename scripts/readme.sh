#!/usr/bin/env bash
# What the README shows, run: the demo, the pipe with a real tar, the examples. Where a command here stands in the README, it has to
# stand there word for word, so that neither rots. Uses sockets of its own: a bus that is running is not disturbed.
set -euo pipefail
cd "$(dirname "$0")/.."

place=$(mktemp -d)
started=()
tidy() {
    # Only what is still running of what was started here.
    for process in "${started[@]}"; do kill -9 "$process" 2>/dev/null || true; done
    rm -rf "$place"
}
trap tidy EXIT
# The default path: there the examples host the broker.
unset BUS_SOCKET
export XDG_RUNTIME_DIR="$place"
socket="$place/bus.sock"
unset RUST_LOG

fail() {
    printf 'readme.sh: %s\n' "$*" >&2
    exit 1
}

# The README holds this text.
shows() {
    grep -qF -- "$1" README.md || fail "the README no longer shows: $1"
    echo "ok      the README shows: $1"
}

# The file holds this text.
holds() {
    grep -qF -- "$2" "$1" || { cat "$1" >&2; fail "no \"$2\" in the output of $3"; }
}

shows 'cargo run --release -p bus-cli -- demo'
shows 'cargo test --workspace'
shows 'cargo run -p bus-client --example strategy &'
shows 'cargo run -p bus-client --example feed'
shows 'cargo install --path bus-cli --locked'
shows 'cargo install --path bus-daemon --features busd --locked'
shows '| bus pub raw &'
shows 'bus sub raw | sha256sum'

target=$(cargo metadata --no-deps --locked --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

echo "-- its Rust examples compile as they stand there"
cargo build --locked -p bus-client --lib --examples
rustdoc --test README.md --edition 2024 -L "dependency=$target/debug/deps" --extern "bus_client=$target/debug/libbus_client.rlib" > "$place/examples" ||
    { cat "$place/examples" >&2; fail "an example of the README does not compile"; }
holds "$place/examples" '2 passed' "the README's examples"
echo "ok      they compile"

echo "-- the demo"
cargo build --release --locked -p bus-cli
code=0
timeout 120 cargo run --release --locked -p bus-cli -- demo --seconds 3 > "$place/demo" || code=$?
cat "$place/demo"
[ $code = 0 ] || fail "the demo ended with code $code"
for part in bus 'Unix sockets' pipes p50 p99.9; do
    holds "$place/demo" "$part" "the demo"
done

echo "-- the examples, each started first in turn"
example() { timeout 60 cargo run --quiet --locked -p bus-client --example "$1"; }
for order in 'strategy feed' 'feed strategy'; do
    read -r first second <<< "$order"
    example "$first" > "$place/$first" &
    started+=($!)
    example "$second" > "$place/$second" || fail "$second, started after $first, ended with code $?"
    wait $! || fail "$first, started before $second, ended with code $?"
    [ "$(cat "$place/strategy")" = "99.5 XETR" ] || fail "$first, then $second: strategy said \"$(cat "$place/strategy")\""
    echo "ok      $first, then $second: 99.5 XETR"
done

echo "-- the pipe: a real tar through the bus"
cargo install --path bus-cli --locked --root "$place/installed" --quiet
cargo install --path bus-daemon --features busd --locked --root "$place/installed" --quiet
bus="$place/installed/bin/bus"
busd="$place/installed/bin/busd"
# As in the README; what is not there on every machine is replaced by what is: this clone.
tree="${CARGO_HOME:-$HOME/.cargo}/registry"
[ -d "$tree" ] || tree=$PWD/.git
timeout 300 bus-cli/scripts/real-input.sh "$bus" "$tree"

echo "-- the same with a broker as a process of its own"
"$busd" &
broker=$!
started+=("$broker")
for _ in $(seq 500); do
    if [ -S "$socket" ]; then break; fi
    sleep 0.02
done
tar c -C bus-core . > "$place/tar"
timeout 60 "$bus" pub --no-embedded raw < "$place/tar" &
started+=($!)
got=$(timeout 60 "$bus" sub --no-embedded raw | sha256sum)
wait $! || fail "bus pub ended with code $?"
[ "$got" = "$(sha256sum < "$place/tar")" ] || fail "with busd, the digest differs"
kill -TERM "$broker"
wait "$broker" || fail "busd ended with code $? on SIGTERM"
[ ! -e "$socket" ] || fail "busd left its socket behind"
echo "ok      with busd; it ends cleanly"

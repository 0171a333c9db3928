#!/bin/sh
# Real input through `bus pub` and `bus sub`: a tar of a directory tree, to one subscriber, to two, and to one that is
# stopped for five seconds in the middle. Every digest has to be the one that the tar alone gives.
#
# usage: real-input.sh [PATH_OF_BUS [TREE]]
set -eu

bus=${1:-target/release/bus}
tree=${2:-${CARGO_HOME:-$HOME/.cargo}/registry}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export BUS_SOCKET="$place/bus.sock"

# Made once: the tree may change meanwhile.
tar c -C "$tree" . > "$place/tar"
expected=$(sha256sum < "$place/tar")
echo "$(wc -c < "$place/tar") bytes of $tree: $expected"

check() {
    if [ "$(cat "$2")" = "$expected" ]; then
        echo "ok      $1"
    else
        echo "DIFFERS $1" >&2
        exit 1
    fi
}

cat "$place/tar" | "$bus" pub raw &
"$bus" sub raw | sha256sum > "$place/one"
wait $!
check "one subscriber" "$place/one"

cat "$place/tar" | "$bus" pub raw --subscribers 2 &
publisher=$!
"$bus" sub raw | sha256sum > "$place/one" &
other=$!
"$bus" sub raw | sha256sum > "$place/two"
wait $publisher
wait $other
check "two subscribers: the first" "$place/one"
check "two subscribers: the second" "$place/two"

mkfifo "$place/out"
cat "$place/tar" | "$bus" pub raw &
publisher=$!
"$bus" sub raw > "$place/out" &
subscriber=$!
# Read a little, so that it is stopped in the middle; the rest waits.
{
    head -c 1000000
    kill -STOP $subscriber
    sleep 5
    kill -CONT $subscriber
    cat
} < "$place/out" | sha256sum > "$place/one"
wait $publisher
wait $subscriber
check "one subscriber, stopped for five seconds" "$place/one"

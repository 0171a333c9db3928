#!/usr/bin/env bash
# Everything that tries to break the bus, whole: every kill point, 10^9 hostile writes, 1,000 restarts, faults at every call, and soak and stops
# for as long as is said: "scripts/torture.sh 8h" (s, m, h; 1h by default). Prints a summary; fails if one of them failed, after all were run.
# BUS_TORTURE_SEED makes the same choices again.
set -euo pipefail
cd "$(dirname "$0")/.."

duration="${1:-1h}"
case "$duration" in
    *h) total=$((${duration%h} * 3600)) ;;
    *m) total=$((${duration%m} * 60)) ;;
    *) total=${duration%s} ;;
esac

cargo build --release --locked -p bus-torture
torture="$(cargo metadata --no-deps --locked --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/release/bus-torture"
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
summary=""
failed=0

# run NAME ARGUMENTS...: one command; goes on with the others whatever comes of it.
run() {
    local name="$1" began=$SECONDS verdict=held
    shift
    echo "== bus-torture $*"
    if ! "$torture" "$@" ${BUS_TORTURE_SEED:+--seed "$BUS_TORTURE_SEED"} | tee "$results/$name"; then
        verdict=FAILED
        failed=1
    fi
    local tried seed
    tried=$(awk '$1 == "tried" { print $2; exit }' "$results/$name")
    seed=$(awk '$1 == "seed" { print $2; exit }' "$results/$name")
    summary+=$(printf '%-12s %-8s %14s tried  seed %-12s %6ss' "$name" "$verdict" "${tried:-0}" "${seed:-?}" $((SECONDS - began)))$'\n'
}

run kill-points kill-points
run faults faults
run hostile hostile --mutations 1000000000 --jobs 2
run fuzz fuzz --seconds 300 --corpus fuzz/corpus
run simulate simulate --steps 20000000
run restarts restarts --count 1000
run stops stops --seconds $((total / 5))
run soak soak --seconds $((total * 4 / 5))

printf '\n%s' "$summary"
exit $failed

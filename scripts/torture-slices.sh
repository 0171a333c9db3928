#!/usr/bin/env bash
# A slice of everything that tries to break the bus, as the CI runs it: about three minutes on two cores, after the build.
# scripts/torture.sh runs it whole. Each prints the seed that makes its choices again.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --locked -p bus-torture
torture="$(cargo metadata --no-deps --locked --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/release/bus-torture"

for slice in "kill-points 25" "hostile 30 --mutations 10000000" "fuzz 6 --corpus fuzz/corpus" "simulate 60 --steps 1000000" "faults 20" "stops 15" "restarts 25" "soak 40"; do
    read -r command seconds more <<<"$slice"
    echo "-- bus-torture $command --seconds $seconds $more"
    # What more there is are words.
    # shellcheck disable=SC2086
    timeout --kill-after 10 120 "$torture" "$command" --seconds "$seconds" $more
done

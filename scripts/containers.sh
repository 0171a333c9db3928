#!/usr/bin/env bash
# A broker and its clients in containers of their own, which share nothing but the directory of the socket: they join, send, and outlive the broker.
#
#   scripts/containers.sh [DIRECTORY]      where `bus` and `busd` are; they are built first where nothing is said
#
# A container is a process in new user, process, mount, network, System V and host name namespaces. It sees the files of this machine, as an image
# would give them, but for /tmp, /run and /dev/shm. The directory of the socket, /mnt/volume inside, is the only one that containers share.
#
# Each step prints `ok` or `FAILS`. Ends with 0 where all hold, with 1 where one does not, and with 77 where there are no such namespaces here.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -gt 0 ]; then
    programs=$(realpath "$1")
else
    cargo build --locked -p bus-cli -p bus-daemon --features bus-daemon/busd
    programs=$(realpath "${CARGO_TARGET_DIR:-target}/debug")
fi
apart=(unshare --user --map-root-user --pid --fork --kill-child --mount --mount-proc --net --ipc --uts)
"${apart[@]}" mount -t tmpfs tmpfs /mnt || {
    echo "NOTHING WAS CHECKED: there are no namespaces here" >&2
    exit 77
}

place=$(mktemp -d)
declare -A started
failures=0
finish() {
    for one in "${!started[@]}"; do destroy "$one"; done
    rm -rf "$place"
}
trap finish EXIT

# Starts a container: container NAME PROGRAM ARGUMENTS. NAME.out has its output, NAME.log its errors, and NAME.in takes its input.
container() {
    local name=$1
    shift
    mkfifo "$place/$name.in"
    # Held open at both ends, so that it does not end and nobody waits for it to be opened.
    exec {input}<> "$place/$name.in"
    "${apart[@]}" sh -c '
        set -e
        volume=$1 programs=$2
        shift 2
        mount -t tmpfs tmpfs /mnt
        mkdir /mnt/volume /mnt/programs
        mount --bind "$volume" /mnt/volume
        mount --bind "$programs" /mnt/programs
        for hidden in /tmp /run /dev/shm; do mount -t tmpfs tmpfs "$hidden"; done
        cd /mnt
        exec env PATH="/mnt/programs:$PATH" BUS_SOCKET=/mnt/volume/bus.sock "$@"
    ' sh "$volume" "$programs" "$@" <&"$input" > "$place/$name.out" 2> "$place/$name.log" {input}>&- &
    started[$name]=$!
}

# Ends a container as the kernel does it: with everything in it, at once. It may have ended by itself. The shell would report each one as killed.
destroy() {
    { kill -9 "${started[$1]}" && wait "${started[$1]}"; } 2> "$place/ended" || true
    unset "started[$1]"
}

# Waits until a command holds: within WHAT COMMAND ARGUMENTS. Says whether it did.
within() {
    local what=$1 deadline=$((SECONDS + 20))
    shift
    until "$@"; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            echo "FAILS  $what"
            failures=$((failures + 1))
            for log in "$place"/*.log; do
                # The first line is what happened, what follows it is a backtrace.
                grep -m1 -HE '^(bus|Error|busd):' "$log" | sed "s|^$place/|       ( |" || true
            done
            return
        fi
        sleep 0.05
    done
    echo "ok     $what"
}
has() { grep -qsx "$2" "$place/$1.out"; }
says() { grep -qs "$2" "$place/$1.log"; }
listens() { [ -S "$volume/bus.sock" ]; }
tell() { echo "$2" > "$place/$1.in"; }

next_busd() {
    container next-broker busd
    within "another container has the broker" says next-broker "listening on"
}
# What everybody who has met or will meet must see, when the container that has the broker is destroyed and another one has it. The names of the
# containers are those of the scenario: destroyed, then `next` starts what hosts from then on.
survive() {
    local title=$1 host=$2 next=$3
    echo "-- $title"
    tell writer one
    within "a message goes from one container to another" has reader one
    destroy "$host"
    tell writer two
    within "those who have met go on without a broker" has reader two
    $next
    tell writer three
    within "they go on with the next broker" has reader three
    container newcomer-writer bus pub t --lines
    container newcomer bus sub t --lines --follow -v
    within "a new subscriber meets a new publisher" says newcomer " came"
    tell newcomer-writer four
    within "a new subscriber receives from a new publisher" has newcomer four
    within "a subscriber from before receives from a new publisher" has reader four
    tell writer five
    within "a new subscriber receives from a publisher from before" has newcomer five
    for one in "${!started[@]}"; do destroy "$one"; done
    rm "$place"/*.in
}

volume="$place/busd"
mkdir "$volume"
container broker busd
within "a container has the broker" says broker "listening on"
container reader bus sub t --lines --follow --no-embedded
container writer bus pub t --lines --no-embedded
survive "busd in a container" broker next_busd

volume="$place/embedded"
mkdir "$volume"
container host bus sub other --follow
within "a client has the broker" listens
container reader bus sub t --lines --follow
container writer bus pub t --lines
survive "a broker embedded in a client" host :

if [ "$failures" -gt 0 ]; then
    echo "$failures steps failed"
    exit 1
fi
echo "all steps held"

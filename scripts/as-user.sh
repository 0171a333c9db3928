#!/usr/bin/env bash
# The tests as an ordinary user, with the limits on descriptors that such a user has. Root may do too much: it passes as many descriptors
# as it likes, opens every file, and becomes other users.
#
#   scripts/as-user.sh [--soft N] [--hard N] [--without FOLDER]... [ARGUMENTS OF cargo test] [-- ARGUMENTS OF EACH PROGRAM]
#
# Limits are 1024 and 20000, and the arguments --workspace, where nothing is said. What lies in FOLDER is built and not run. A limit that may not
# be set here is left as it is, which is said.
#
# Builds as whoever calls it, then runs each test program as user BUS_TEST_UID (60514 if unset) with HOME, TMPDIR and XDG_RUNTIME_DIR of its
# own. Where the caller is not root, the programs run as the caller. Tests of documentation are not run.
# Prints the number of tests that were skipped, with the reason of each. Ends with 1 where a program failed.
set -euo pipefail
cd "$(dirname "$0")/.."
soft=1024
hard=20000
without=()
while [ $# -gt 0 ]; do
    case "$1" in
        --soft) soft=$2; shift 2 ;;
        --hard) hard=$2; shift 2 ;;
        --without) without+=("$2"); shift 2 ;;
        *) break ;;
    esac
done
cargo_arguments=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do cargo_arguments+=("$1"); shift; done
[ $# -eq 0 ] || shift
[ ${#cargo_arguments[@]} -gt 0 ] || cargo_arguments=(--workspace)
uid=${BUS_TEST_UID:-60514}

# Folder of the package and path of the program, one pair a line.
programs=$(cargo test --no-run --locked --message-format=json "${cargo_arguments[@]}" |
    grep -v '"kind":\["proc-macro"\]' |
    sed -n 's/.*"manifest_path":"\([^"]*\)\/Cargo.toml".*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*/\1 \2/p')
[ -n "$programs" ] || { echo "there is no test program in: ${cargo_arguments[*]}" >&2; exit 2; }

for folder in "${without[@]}"; do
    programs=$(grep -v "^$PWD/$folder " <<< "$programs")
done

# It is short, because a path of a socket is at most 107 bytes long.
place=$(mktemp -d /tmp/bus-user.XXXXXX)
trap 'rm -rf "$place"' EXIT
mkdir "$place"/{home,tmp,run}
chmod 711 "$place"
user=()
if [ "$(id -u)" = 0 ]; then
    chown "$uid:$uid" "$place"/{home,tmp,run}
    user=(setpriv --reuid "$uid" --regid "$uid" --clear-groups --no-new-privs)
fi
chmod 700 "$place"/{home,tmp,run}
prlimit --nofile="$soft:$hard" true || {
    hard=$(ulimit -Hn)
    echo "the hard limit of descriptors stays $hard"
}
limited() {
    prlimit --nofile="$soft:$hard" "${user[@]}" env -i PATH="$PATH" HOME="$place/home" TMPDIR="$place/tmp" XDG_RUNTIME_DIR="$place/run" \
        RUST_BACKTRACE="${RUST_BACKTRACE:-1}" "$@"
}
first=${programs%%$'\n'*}
if ! limited "${first#* }" --list > "$place/list" && [ "$(id -u)" = 0 ]; then
    echo "other users may not enter the folders of ${first#* }: user $uid may read everything for this run"
    user+=(--inh-caps=+dac_read_search --ambient-caps=+dac_read_search)
fi
limited "${first#* }" --list > "$place/list" || {
    echo "user $uid cannot reach ${first#* }: allow others to enter its folders, or set CARGO_TARGET_DIR to a place that they may enter" >&2
    exit 2
}

failed=()
: > "$place/log"
while read -r folder program; do
    printf '\n-- %s as user %s, descriptors %s of %s\n' "${program##*/}" "$(limited id -u)" "$soft" "$hard"
    (cd "$folder" && limited "$program" "$@" < /dev/null 2>&1) | tee -a "$place/log" || failed+=("$program")
done <<< "$programs"

printf '\n%s tests were skipped\n' "$(grep -c 'SKIPPED ' "$place/log" || true)"
grep -o 'SKIPPED .*' "$place/log" | sed 's/^SKIPPED //' || true
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi

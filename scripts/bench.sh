#!/usr/bin/env bash
# Runs every benchmark of the release build; each prints its ratio to a limit or a peer.
set -euo pipefail
cd "$(dirname "$0")/.."
for b in build/release/bench/bench_*; do
    [ -x "$b" ] || continue
    case $b in */bench_empty_init) continue ;; esac
    echo "== $(basename "$b")"
    "$b" "$@"
done
echo "== launch"
bench/launch.sh

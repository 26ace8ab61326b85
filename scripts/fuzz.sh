#!/usr/bin/env bash
# Builds every fuzz target with ASan and UBSan and runs each for FUZZ_SECONDS (default 60).
# New inputs are kept in build/fuzz/new/NAME; the corpus in the tree is only read.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}

cmake --preset fuzz -Wno-dev >/dev/null
targets=$(sed -n 's/^ *coffer_fuzz(\([a-z0-9_]*\).*/\1/p' tests/fuzz/CMakeLists.txt)
# shellcheck disable=SC2086
cmake --build --preset fuzz -j "$(nproc)" --target $(printf 'fuzz_%s ' $targets)
run_one() {
    name=$1
    mkdir -p "build/fuzz/new/$name" build/fuzz/artifacts
    if timeout $((seconds + 60)) "build/fuzz/fuzz/fuzz_$name" -max_total_time="$seconds" -rss_limit_mb=2048 \
        -timeout=10 -artifact_prefix="build/fuzz/artifacts/$name-" -print_final_stats=1 \
        "build/fuzz/new/$name" "tests/fuzz/corpus/$name" >"build/fuzz/$name.log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "build/fuzz/$name.log")
        printf '%-24s clean, %s runs in %s s\n' "$name" "$runs" "$seconds"
    else
        printf '%-24s FAILED, see build/fuzz/%s.log\n' "$name" "$name"
        tail -n 30 "build/fuzz/$name.log"
        return 1
    fi
}
export -f run_one
export seconds
printf '%s\n' $targets | xargs -P "$(nproc)" -I{} bash -c 'run_one {}'

#!/usr/bin/env bash
# Runs the tests of one build (release, asan, tsan). Integration tests bring up everything they need.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}
shift || true

export ASAN_OPTIONS=detect_leaks=1:abort_on_error=1:strict_string_checks=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS="halt_on_error=1:suppressions=$PWD/tests/tsan.supp"
select=()
if [ "$preset" = tsan ]; then
    # ThreadSanitizer is for what has threads: the bus over nats.c.
    select=(-R 'bus|shell|nats')
fi
# Sandboxes are set up by root; what it leaves in the build directory goes back to the user.
if [ "$(id -u)" -ne 0 ] && command -v sudo >/dev/null; then
    trap 'sudo chown -R "$(id -u):$(id -g)" "build/$preset"' EXIT
    sudo --preserve-env=ASAN_OPTIONS,UBSAN_OPTIONS,TSAN_OPTIONS,NODE_EXTRA_CA_CERTS \
        ctest --test-dir "build/$preset" --output-on-failure --timeout 900 -j "$(nproc)" "${select[@]}" "$@"
    exit
fi
exec ctest --test-dir "build/$preset" --output-on-failure --timeout 900 -j "$(nproc)" "${select[@]}" "$@"

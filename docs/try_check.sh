#!/usr/bin/env bash
# README's "Try it by hand", line by line as it stands there, with homes of its own. The build's
# programs take the place of build/release.
set -euo pipefail
: "${COFFER_BUILD:?the build directory}"
unshare --mount --pid --net --fork true 2>/dev/null || {
    echo "SKIPPED: no namespaces here (root, or a container started with --privileged, has them)"
    exit 77
}
source=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/coffer-try.XXXXXX")
dev=

finish() {
    status=$?
    trap - EXIT
    if [ -n "$dev" ]; then
        kill -INT "$dev" 2>/dev/null || true
        wait "$dev" 2>/dev/null || true
    fi
    if [ $status -ne 0 ]; then
        tail -n 30 "$work/dev.log" 2>/dev/null || true
        cat "$work/out" 2>/dev/null || true
    fi
    rm -rf "$work"
    exit $status
}
trap finish EXIT

mkdir "$work/home" "$work/tmp"
export HOME="$work/home" TMPDIR="$work/tmp" PATH="$COFFER_BUILD/bin:$PATH" NO_COLOR=1
unset XDG_CONFIG_HOME XDG_DATA_HOME COFFER_DATA COFFER_KEY COFFER_PROFILE

# The n-th block of commands below the heading.
block() {
    awk -v want="$1" '/^## / { here = /^## Try it by hand/ }
        here && /^```sh/ { n++; on = n == want; next }
        /^```/ { on = 0 }
        on' "$source/README.md"
}
block 1 | grep -q '^coffer dev ' || { echo "README.md does not start coffer dev"; exit 1; }
block 2 | sed "s|\$PWD/build/release|$COFFER_BUILD|" >"$work/try.sh"
grep -q '^coffer run job.yaml' "$work/try.sh" || { echo "README.md does not run a job"; exit 1; }

mkfifo "$work/ready"
backend=vtpm
if [ ! -e "$COFFER_BUILD/guest/coffer.efi" ]; then
    # Sanitized builds make no image: the same lines, without the VM.
    echo "without a guest image: backend process"
    backend=process
    sed -i 's/--tee-types vtpm --tee-status warning/--tee-types sample/; s|job.yaml.in >|job.yaml.in \| sed s/vtpm/sample/ >|' "$work/try.sh"
fi
coffer dev --backend $backend --ready-fd 9 9>"$work/ready" >"$work/dev.log" 2>&1 &
dev=$!
timeout 60 head -c 1 "$work/ready" >/dev/null
cd "$source"
timeout 120 bash -euo pipefail "$work/try.sh" >"$work/out" 2>&1
for text in 'patients,mean_days' '2,4' 'is released' 'score 0 of 100'; do
    grep -qF "$text" "$work/out" || { echo "its output lacks \"$text\""; exit 1; }
done

# svc-worker with AddressSanitizer and UndefinedBehaviorSanitizer as the first process of a measured VM: a job to its
# result, one whose dataset is tampered with, one that misbehaves. Fails if a sanitizer has anything to say.
#
# In a build with these sanitizers it is that build's worker; otherwise one is built here, in
# asan-worker/ of the build directory, which takes half a minute the first time.
BACKEND=vtpm
COFFER_TEST_LOG_LINES=${COFFER_TEST_LOG_LINES:-100} RUN_SECONDS=300 TIMEOUT=300s
. "$(dirname "$0")/lib.sh"

KERNEL=$COFFER_BUILD/guest/kernel
GUEST="$WORK/guest"
case $(grep '^COFFER_SANITIZE:' "$COFFER_BUILD/CMakeCache.txt") in
*address*undefined*)
    WORKER=$BIN/svc-worker
    ;;
*thread*)
    echo "$NAME: SKIPPED: this build has another sanitizer"
    exit 77
    ;;
*)
    WORKER=$COFFER_BUILD/asan-worker/bin/svc-worker
    say "a worker with sanitizers"
    (
        cd "$SOURCE"
        cmake -S . -B "$COFFER_BUILD/asan-worker" -G Ninja -Wno-dev -DCMAKE_BUILD_TYPE=RelWithDebInfo \
            -DCOFFER_SANITIZE=address,undefined -DCMAKE_EXPORT_COMPILE_COMMANDS=OFF &&
            cmake --build "$COFFER_BUILD/asan-worker" --target svc-worker
    ) >"$WORK/build.log" 2>&1 || {
        tail -n 30 "$WORK/build.log" >&2
        fail "it cannot be built"
    }
    ;;
esac

say "an image with it"
[ -e "$KERNEL/vmlinuz" ] || KERNEL=$COFFER_BUILD/asan-guest/kernel
"$SOURCE/guest/fetch-kernel.sh" "$KERNEL" >"$WORK/build.log" 2>&1 || {
    cat "$WORK/build.log" >&2
    echo "$NAME: SKIPPED: the guest's kernel cannot be had"
    exit 77
}
coffer image build --out "$GUEST" --worker "$WORKER" --kernel "$KERNEL/vmlinuz" \
    --modules "$KERNEL/$(cat "$KERNEL/release")" --modules-list "$SOURCE/guest/modules.list" >"$WORK/build.log" 2>&1 || {
    cat "$WORK/build.log" >&2
    fail "coffer image build"
}
coffer image inspect "$GUEST" >"$WORK/inspect"
grep -q libasan "$WORK/inspect" && grep -q libubsan "$WORK/inspect" || fail "the image has no sanitizers"
# `coffer dev` has the reference values of the image beside its programs.
cp -r "$BIN" "$WORK/bin"
PATH="$WORK/bin:$PATH"

# Nothing is in the guest's log and on its console but what a worker says.
no_report() {
    if grep -a ' cvm\.log ' "$DEV_LOG" |
        grep -aE 'Sanitizer|runtime error:|the (worker|relay) ended: (signal|exit status [^03])|Kernel panic' >"$WORK/report"; then
        cut -c1-300 "$WORK/report" >&2
        fail "a sanitizer has found something"
    fi
}
ends() { # STATE CLAUSE
    [ "$(jq -r .state "$RUN_JSON")" = "$1" ] || fail "the state is not $1: $(cat "$RUN_JSON")"
    coffer explain "$JOB" --json | jq -r '.reason | .clause, .message' | tr '\n' ' ' | grep -q -- "$2" ||
        fail "the reason does not say \"$2\": $(coffer explain "$JOB")"
}

start_dev --set launcher.vm-overhead-bytes=1073741824 \
    --set launcher.cpu-millis=4000 --set launcher.memory-bytes=4294967296 --set scheduler.launch-timeout-ms=300000
set_up
set_up_admissions
"$SOURCE/tests/integration/expected.awk" "$CACHE/admissions.csv" | LC_ALL=C sort >"$WORK/expected.csv"

say "run to released"
run_job 0 "$WORK/out"
tail -n +2 "$WORK/out/by-group.csv" | LC_ALL=C sort | diff -u "$WORK/expected.csv" - >&2 || fail "the result is wrong"
wait_no_cvm
no_report
say "one bit of a chunk in the store is changed"
STORED="$DATA/store/datasets/$DATASET.coffer"
at=$(($(stat -c %s "$STORED") / 2))
byte=$(od -An -tu1 -j "$at" -N1 "$STORED")
# shellcheck disable=SC2059
printf "$(printf '\\%03o' $((byte ^ 1)))" | dd of="$STORED" bs=1 seek="$at" conv=notrunc status=none
run_job 5 "$WORK/none"
ends failed 'dataset.0..chunk'
printf "$(printf '\\%03o' "$byte")" | dd of="$STORED" bs=1 seek="$at" conv=notrunc status=none
wait_no_cvm
no_report

say "a layer of the image is changed"
BLOBS="$DATA/store/blobs/sha256"
layer=$BLOBS/$(jq -r '.layers[0].digest' "$BLOBS/${IMAGE#sha256:}" | cut -d: -f2)
byte=$(od -An -tu1 -j 5000 -N1 "$layer")
# shellcheck disable=SC2059
printf "$(printf '\\%03o' $((byte ^ 1)))" | dd of="$layer" bs=1 seek=5000 conv=notrunc status=none
run_job 5 "$WORK/none"
ends failed layer
# shellcheck disable=SC2059
printf "$(printf '\\%03o' "$byte")" | dd of="$layer" bs=1 seek=5000 conv=notrunc status=none
wait_no_cvm
no_report

say "links, devices and much text where files were declared"
ARGS='["/bin/sh", "-c", "ln -s /proc/1/mem /output/by-group.csv; yes | head -c 8000000; ls -l /proc/self/fd >&2; exit 9"]'
run_job 5 "$WORK/none"
ends failed 'exit.* 9'
wait_no_cvm
stop_dev
no_report

# VMs outlive their launcher: svc-launcher is killed while a VM boots, while it works and while it ends, then the
# whole stack is. The next launcher goes on with the same VM, and where none comes, nothing is left.
BACKEND=vtpm
. "$(dirname "$0")/lib.sh"

[ -e "$COFFER_BUILD/guest/coffer.efi" ] || {
    echo "$NAME: SKIPPED: this build made no guest image"
    exit 77
}
start() {
    start_dev --set launcher.slots=2 --set launcher.cpu-millis=4000 \
        --set launcher.memory-bytes=4294967296 --set launcher.orphan-ms=25000
}
start
set_up
set_up_admissions
"$SOURCE/tests/integration/expected.awk" "$CACHE/admissions.csv" | LC_ALL=C sort >"$WORK/expected.csv"

# submit SECONDS: a job that takes so long once it runs; sets JOB.
submit() {
    ATTEMPTS=2 ARGS="[\"/bin/sh\", \"-c\", \"/bin/analyse; sleep $1\"]" job_yaml >"$WORK/job.yaml"
    JOB=$(coffer submit "$WORK/job.yaml")
}
kill_launcher() {
    old=$(pid_of svc-launcher)
    kill -KILL "$old"
    for _ in $(seq 100); do
        new=$(pid_of svc-launcher || true)
        [ -n "$new" ] && [ "$new" != "$old" ] && return 0
        sleep 0.1
    done
    fail "the launcher was not started again"
}
the_keeper() {
    for _ in $(seq 100); do
        keeper=$(keepers)
        [ -z "$keeper" ] || return 0
        sleep 0.1
    done
    fail "no VM is made"
}
# The first attempt, with one VM from its start to its end, and the right result.
released_at_once() {
    wait_state "$JOB" 90 released
    [ "$(coffer status "$JOB" --json | jq .attempt)" -eq 1 ] || {
        coffer events "$JOB" >&2
        fail "it took another attempt"
    }
    coffer result "$JOB" --out "$WORK/$JOB" >/dev/null
    tail -n +2 "$WORK/$JOB/by-group.csv" | LC_ALL=C sort | diff -u "$WORK/expected.csv" - >&2 ||
        fail "the result is wrong"
    assert_events "$JOB"
    [ "$(coffer events "$JOB" --json | jq '[.events[] | select(.detail == "run")] | length')" -eq 1 ] ||
        fail "a phase is told twice, or not at all"
    wait_no_cvm
}

say "the launcher is killed while the VM boots"
submit 1
the_keeper
kill_launcher
[ "$(keepers)" = "$keeper" ] || fail "the VM did not go on"
released_at_once

say "it is killed, three times, while the job runs in the VM"
submit 12
wait_state "$JOB" 120 running
for _ in 1 2 3; do
    keeper=$(keepers)
    kill_launcher
    wait_answers
    [ "$(keepers)" = "$keeper" ] || fail "the VM did not go on"
done
[ "$(coffer hosts --json | jq '.hosts[0].placed')" -eq 1 ] || fail "the host does not count its VM"
released_at_once
grep -aq cvm.adopted "$DEV_LOG" || fail "nothing is said of the adoption"

say "it is killed while the VM ends"
submit 3
wait_state "$JOB" 120 running
for _ in $(seq 100); do
    coffer events "$JOB" --json | jq -e 'any(.events[]; .detail == "seal")' >/dev/null && break
    sleep 0.1
done
kill_launcher
released_at_once

say "the whole stack is killed: the next one on the same directory goes on with the VM"
submit 15
wait_state "$JOB" 120 running
keeper=$(keepers)
kill -KILL "$DEV_PID"
wait "$DEV_PID" 2>/dev/null || true
sleep 1
[ "$(keepers)" = "$keeper" ] || fail "the VM did not go on"
start
[ "$(keepers)" = "$keeper" ] || fail "the VM was not adopted"
released_at_once

say "a job that is cancelled after its VM was adopted"
submit 300
wait_state "$JOB" 120 running
kill_launcher
wait_answers
coffer cancel "$JOB" >/dev/null
wait_state "$JOB" 20 cancelled
wait_no_cvm

say "the whole stack is killed, and none comes: nothing is left after orphan-ms"
submit 300
wait_state "$JOB" 120 running
[ -n "$(keepers)" ] || fail "no VM"
kill -KILL "$DEV_PID"
wait "$DEV_PID" 2>/dev/null || true
DEV_PID=
sleep 20
wait_no_cvm
! pgrep -f "qemu-system-x86_64.*$JOB" >&2 || fail "QEMU is left"

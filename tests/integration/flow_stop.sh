# Jobs that are stopped: cancelled by their consumer and by nobody else, timed out; their CVMs are gone.
. "$(dirname "$0")/lib.sh"

start_dev
set_up
set_up_admissions

start_sleeper() {
    ARGS='["/bin/sh", "-c", "sleep 300"]' job_yaml >"$WORK/job.yaml"
    JOB=$(coffer submit "$WORK/job.yaml")
    wait_running "$JOB"
}

wait_running() {
    for _ in $(seq 150); do
        coffer events "$1" --json | jq -e 'any(.events[]; .detail == "run")' >/dev/null && return 0
        sleep 0.1
    done
    fail "$1 does not run"
}

say "cancel: only its consumer may"
start_sleeper
status=0
coffer cancel "$JOB" --key "$XDG_CONFIG_HOME/stranger.jwk" 2>"$WORK/err" || status=$?
[ "$status" -eq 5 ] || fail "a stranger's cancel ended with $status, expected 5"
[ "$(state_of "$JOB")" = running ] || fail "the state changed"
coffer cancel "$JOB" >/dev/null
wait_state "$JOB" 20 cancelled
assert_events "$JOB"
wait_no_cvm
coffer cancel "$JOB" >"$WORK/err" 2>&1 || true
[ "$(state_of "$JOB")" = cancelled ] || fail "it is not cancelled any more"

say "coffer run of it says so: exit 5"
ARGS='["/bin/sh", "-c", "sleep 300"]' job_yaml >"$WORK/job.yaml"
coffer run "$WORK/job.yaml" --json >"$WORK/run.json" 2>"$WORK/run.err" &
runner=$!
for _ in $(seq 100); do
    JOB=$(coffer ps --json | jq -r '[.jobs[] | select(.terminal | not)][0].job // empty')
    [ -z "$JOB" ] || break
    sleep 0.1
done
[ -n "$JOB" ] || fail "ps does not list the job"
coffer cancel "$JOB" >/dev/null
status=0
wait $runner || status=$?
[ "$status" -eq 5 ] || fail "coffer run of a cancelled job ended with $status, expected 5"

say "timeout: the workload's wall clock"
ARGS='["/bin/sh", "-c", "sleep 300"]' TIMEOUT=3s run_job 5 "$WORK/out"
state=$(jq -r .state "$RUN_JSON")
case $state in
failed | timed-out) ;;
*) fail "after its timeout the job is $state" ;;
esac
coffer explain "$JOB" --json | jq -r .reason.message | grep -qi 'time' || fail "the reason names no time"
assert_events "$JOB"
wait_no_cvm

say "cancelled while it waits in the queue"
TEE='{mode: required, types: [tdx]}' job_yaml >"$WORK/job.yaml"
JOB=$(coffer submit "$WORK/job.yaml")
wait_state "$JOB" 10 queued
coffer cancel "$JOB" >/dev/null
wait_state "$JOB" 10 cancelled
stop_dev
assert_no_restarts

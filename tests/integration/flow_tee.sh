# tee.mode: required never falls back; preferred does and it is recorded; a grant that asks for hardware
# does not follow it there.
. "$(dirname "$0")/lib.sh"

start_dev --set scheduler.queue-timeout-ms=4000 --set scheduler.prefer-wait-ms=500
set_up
set_up_admissions

say "required tdx, and there is only sample: it waits, then is timed out, saying why"
TEE='{mode: required, types: [tdx]}' run_job 5 "$WORK/out"
jq -e '.state == "timed-out"' "$RUN_JSON" >/dev/null || fail "its state is $(jq -r .state "$RUN_JSON")"
coffer explain "$JOB" --json | jq -e '[.. | strings | select(test("tdx"))] | length > 0' >/dev/null ||
    fail "the reason does not name tdx"
assert_events "$JOB"
jq -e 'any(.events[]; .state == "launching") | not' "$WORK/events.json" >/dev/null ||
    fail "it was launched"

say "preferred: it runs elsewhere, and that is recorded"
TEE='{mode: preferred, types: [tdx]}' run_job 0 "$WORK/out"
jq -e .downgraded "$RUN_JSON" >/dev/null || fail "run does not say that it was downgraded"
coffer status "$JOB" --json | jq -e .downgraded >/dev/null || fail "status does not say it"
assert_events "$JOB"
jq -e 'any(.events[]; .downgraded)' "$WORK/events.json" >/dev/null || fail "no event says it"

say "preferred, but the owner asks for hardware: no keys"
DATASET=$(seal "$CACHE/admissions.csv" hardware)
COFFER_KEY=$OWNER coffer dataset grant "$WORK/admissions.csv.coffer" --consumer "$CONSUMER.pub" \
    --image "$IMAGE" --tee-types tdx >/dev/null 2>&1
TEE='{mode: preferred, types: [tdx]}' run_job 5 "$WORK/out-2"
assert_clause "$JOB" grant.tee.types
stop_dev

say "a verifier that does not allow sample evidence: nothing gets keys"
start_dev --set verifier.allow-sample=false
DATASET=$(seal "$CACHE/admissions.csv" again)
grant "$WORK/admissions.csv.coffer" >/dev/null
run_job 5 "$WORK/out-3"
coffer explain "$JOB" --json | jq -e '.state == "refused"' >/dev/null || fail "it was not refused"
assert_events "$JOB"
stop_dev
assert_no_restarts

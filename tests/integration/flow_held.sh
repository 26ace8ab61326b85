# What the gate holds, a reviewer lets out or not; what is worse it rejects by itself.
. "$(dirname "$0")/lib.sh"

start_dev
set_up
set_up_admissions --reject-at 101
REVIEWER="$DATA/reviewer.jwk"
STEAL='["/bin/sh", "-c", "head -n 200 /data/admissions > /output/by-group.csv"]'
HOLD='gate: {holdAt: 30, rejectAt: 101, maxVerbatimPercent: 10}'

say "held: exit 3, with score and reasons"
ARGS=$STEAL GATE=$HOLD run_job 3 "$WORK/out"
HELD=$JOB
[ ! -e "$WORK/out/by-group.csv" ] || fail "a held output was written"
jq -e '.state == "held" and .gate.score >= 30 and any(.gate.reasons[]; test("verbatim"))' \
    "$RUN_JSON" >/dev/null || fail "what coffer run says of it"
coffer gate ls --json | jq -e --arg j "$HELD" '[.held[] | select(.job == $j)] | length == 1' \
    >/dev/null || fail "gate ls does not list it"
coffer gate show "$HELD" --json | jq -e '.outcome == "held" and (.files | length) == 1' >/dev/null ||
    fail "gate show"
if coffer result "$HELD" --out "$WORK/early" 2>"$WORK/err"; then
    fail "a held result was fetched"
fi

say "only a reviewer may decide"
status=0
coffer gate approve "$HELD" --key "$CONSUMER" --reason mine 2>"$WORK/err" || status=$?
[ "$status" -eq 5 ] || fail "a consumer's approval ended with $status, expected 5"
grep -q 'review' "$WORK/err" || fail "its message: $(cat "$WORK/err")"
[ "$(state_of "$HELD")" = held ] || fail "the state changed"

say "approved: released"
coffer gate approve "$HELD" --key "$REVIEWER" --reason "looked at it" >/dev/null
wait_state "$HELD" 20 released
coffer result "$HELD" --out "$WORK/out" >/dev/null
head -n 200 "$CACHE/admissions.csv" | cmp - "$WORK/out/by-group.csv" || fail "the approved output"
assert_events "$HELD"
status=0
coffer gate reject "$HELD" --key "$REVIEWER" --reason again 2>/dev/null || status=$?
[ "$status" -ne 0 ] || fail "a result was reviewed twice"

say "rejected by the reviewer"
ARGS=$STEAL GATE=$HOLD run_job 3 "$WORK/out-2"
coffer gate reject "$JOB" --key "$REVIEWER" --reason "these are rows" >/dev/null
wait_state "$JOB" 20 rejected
assert_events "$JOB"
if coffer result "$JOB" --out "$WORK/out-2" 2>/dev/null; then
    fail "a rejected result was fetched"
fi
coffer explain "$JOB" --json | jq -e '.gate.outcome == "rejected"' >/dev/null || fail "explain"

say "rejected by the gate: exit 4"
ARGS=$STEAL run_job 4 "$WORK/out-3"
jq -e '.state == "rejected" and .gate.score >= 70' "$RUN_JSON" >/dev/null || fail "what run says of it"
assert_events "$JOB"

say "an output that is not what it says it is: exit 4, with the clause"
ARGS='["/bin/sh", "-c", "printf \"a,b\\n1,2,3\\n\" > /output/by-group.csv"]' run_job 4 "$WORK/out-4"
assert_clause "$JOB" 'output.files[0].type'
# Not one byte of it left, whatever the outcome: only two were ever released.
stop_dev
assert_no_restarts

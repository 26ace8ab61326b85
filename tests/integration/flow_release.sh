# An encrypted job from submit to the opened result; and nothing of it in the clear outside (invariant 6).
. "$(dirname "$0")/lib.sh"

start_dev
set_up
set_up_admissions

say "run to released"
run_job 0 "$WORK/out"
[ "$(jq -r .state "$RUN_JSON")" = released ] || fail "state"
"$SOURCE/tests/integration/expected.awk" "$CACHE/admissions.csv" | LC_ALL=C sort >"$WORK/expected.csv"
tail -n +2 "$WORK/out/by-group.csv" | LC_ALL=C sort >"$WORK/got.csv"
diff -u "$WORK/expected.csv" "$WORK/got.csv" >&2 || fail "the result differs from what the data say"
[ "$(wc -l <"$WORK/got.csv")" -ge 10 ] || fail "too few groups"

say "what the verbs say of it"
assert_events "$JOB"
coffer status "$JOB" --json | jq -e --arg i "$IMAGE" '.state == "released" and .attempt == 1
    and .terminal and .image == $i and .host == "dev" and .backend == "process"
    and (.downgraded | not) and .reason == null' >/dev/null || fail "status"
coffer ps -a --json | jq -e --arg j "$JOB" '[.jobs[] | select(.job == $j)] | length == 1' \
    >/dev/null || fail "ps"
coffer explain "$JOB" --json | jq -e '.state == "released" and .gate.outcome == "released"
    and .gate.score < 30' >/dev/null || fail "explain"
jq -e '[.events[].state] as $s | ["queued","launching","booted","attested","running","released"]
    | all(. as $w | $s | index($w) != null)' "$WORK/events.json" >/dev/null || fail "a state is missing"
# Phases closer together than a tenth of a second are told as the last of them.
coffer logs "$JOB" >"$WORK/logs" || fail "logs"
[ -s "$WORK/logs" ] || fail "coffer logs says nothing"
! grep -Evq 'attempt 1 on dev  (attest|keys|unpack|run|seal|done|result sent)$' "$WORK/logs" || fail "logs: $(cat "$WORK/logs")"
coffer hosts --json | jq -e '.hosts[0].alive and .hosts[0].host == "dev"' >/dev/null || fail "hosts"
coffer result "$JOB" --json --out "$WORK/out2" >"$WORK/result.json" || fail "result again"
cmp "$WORK/out/by-group.csv" "$WORK/out2/by-group.csv" || fail "the second fetch differs"

say "the same signed spec is the same job; a new nonce is a new one"
job_yaml | sed 's/metadata: {/metadata: {nonce: aaaaaaaaaaaaaaaaaaaa, /' >"$WORK/nonce.yaml"
one=$(coffer submit "$WORK/nonce.yaml") two=$(coffer submit "$WORK/nonce.yaml")
[ "$one" = "$two" ] || fail "the same spec became two jobs: $one $two"
wait_state "$one" 30 released

say "nobody but a recipient can open it"
if COFFER_KEY=$XDG_CONFIG_HOME/stranger.jwk coffer result "$JOB" --out "$WORK/out3" 2>"$WORK/err"; then
    fail "a stranger opened the result"
fi

# Lines that nobody but data and output have; a look while a workload has the data open, and one after.
{
    sed -n '2p;700p;1500p;2900p' "$CACHE/admissions.csv"
    head -c 200 "$SOURCE/examples/admissions/analyse.sh" | tail -n +2
    cat "$WORK/out/by-group.csv"
} | grep -v '^group,admissions' >"$WORK/needles"
scan() {
    "$TOOLS/integration_scan" --text "$WORK/needles" --owner "$OWNER" --dataset "$SEALED_FILE" \
        --owner "$CONSUMER" --image-key "$XDG_CONFIG_HOME/coffer/image-keys/$IMAGE_KEY.json" \
        "$DATA" "$DEV_LOG" "$WORK/dev.out" "$TMPDIR" || fail "plaintext on the host ($1)"
}
say "no plaintext while a workload runs"
ARGS='["/bin/sh", "-c", "/bin/analyse; cat /data/admissions /bin/analyse > /tmp/copy; sleep 4"]'
job_yaml >"$WORK/job.yaml"
JOB=$(coffer submit "$WORK/job.yaml")
for _ in $(seq 100); do
    coffer events "$JOB" --json | jq -e 'any(.events[]; .detail == "run")' >/dev/null && break
    sleep 0.1
done
sleep 1
scan "during a run"
wait_state "$JOB" 30 released
say "no plaintext after"
stop_dev
scan "after"
# That the scan can find anything at all.
printf 'x%sx' "$(sed -n 2p "$WORK/needles")" >"$DATA/planted"
! "$TOOLS/integration_scan" --text "$WORK/needles" "$DATA" 2>/dev/null || fail "the scan is blind"
assert_no_restarts

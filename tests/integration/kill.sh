# kill -9 of each service, of nats-server and of workers at random moments while jobs run: every job ends in
# exactly one terminal state with gapless events, no key is released twice for an attempt, no result is
# lost. COFFER_KILL_JOBS (default 40) jobs; COFFER_KILL_SEED repeats the choice of victims and moments.
. "$(dirname "$0")/lib.sh"

JOBS=${COFFER_KILL_JOBS:-40}
SEED=${COFFER_KILL_SEED:-$(($(date +%s) % 32768))}
RANDOM=$SEED
say "$JOBS jobs, seed $SEED"
start_dev --set launcher.slots=4,launcher.cpu-millis=8000,launcher.memory-bytes=4294967296
set_up
set_up_admissions

# Retries must not run out: what is tested is that each job ends well, however often it is started anew.
ATTEMPTS=5 ARGS='["/bin/sh", "-c", "/bin/analyse; sleep 0.8"]' job_yaml >"$WORK/job.yaml"

submit_one() { # N: again until it is stored; the same nonce is the same job
    sed "s/metadata: {/metadata: {nonce: kill-test-number-$1, /" "$WORK/job.yaml" >"$WORK/job-$1.yaml"
    for _ in $(seq 60); do
        coffer submit "$WORK/job-$1.yaml" 2>/dev/null && return 0
        sleep 0.3
    done
    return 1
}
submit_all() {
    for i in $(seq "$JOBS"); do
        submit_one "$i" || { echo "job $i could not be submitted" >&2; return 1; }
    done
}
submit_all >"$WORK/jobs" &
submitter=$!

# While the scheduler is away, nothing is known.
count_over() {
    { coffer ps -a --limit 500 --json 2>/dev/null || true; } |
        jq -s '[.[] | (.jobs // [])[] | select(.terminal)] | length'
}

victims=(svc-scheduler svc-launcher svc-verifier svc-kbs svc-gate nats-server worker)
kills=0
over=0
deadline=$((SECONDS + ${COFFER_KILL_SECONDS:-200}))
while [ "$over" -lt "$JOBS" ]; do
    [ "$SECONDS" -lt "$deadline" ] || {
        coffer ps -a >&2 || true
        fail "$over of $JOBS jobs were over in time"
    }
    # Most kills while jobs are under way; each victim in turn at first, then any.
    if [ $((over * 10)) -lt $((JOBS * 9)) ] && [ $kills -lt $((JOBS + 10)) ]; then
        if [ $kills -lt ${#victims[@]} ]; then
            victim=${victims[$kills]}
        else
            victim=${victims[$((RANDOM % ${#victims[@]}))]}
        fi
        if [ "$victim" = worker ]; then
            # This stack's, not those of a test beside it: keepers and their children.
            pid=
            if keepers=$(keepers | paste -sd,) && [ -n "$keepers" ]; then
                pid=$({ tr , '\n' <<<"$keepers"; pgrep -P "$keepers"; } | shuf -n 1) || true
            fi
        else
            pid=$(pid_of "$victim") || true
        fi
        if [ -n "$pid" ] && kill -KILL "$pid" 2>/dev/null; then
            kills=$((kills + 1))
        fi
        sleep "0.$((1 + RANDOM % 9))"
    else
        sleep 0.5
    fi
    over=$(count_over)
done
wait $submitter || fail "not every job could be submitted"
say "$kills kills, $over jobs over after $SECONDS s"
[ "$kills" -ge 7 ] || fail "only $kills kills"
[ "$(sort -u "$WORK/jobs" | wc -l)" -eq "$JOBS" ] || fail "$(sort -u "$WORK/jobs" | wc -l) different jobs"

wait_answers
coffer ps -a --limit 500 --json >"$WORK/ps.json"
jq -r '.jobs[].state' "$WORK/ps.json" | sort | uniq -c
jq -e '[.jobs[] | select(.state != "released")] | length == 0' "$WORK/ps.json" >/dev/null || {
    jq '.jobs[] | select(.state != "released") | {job, state, attempt, reason}' "$WORK/ps.json" >&2
    # Five attempts may all be hit; anything but "failed" for that reason is a defect.
    jq -e '[.jobs[] | select(.state != "released" and (.state != "failed" or .attempt < 5))] | length == 0' \
        "$WORK/ps.json" >/dev/null || fail "jobs ended otherwise than released"
}

say "every result can be fetched and opened, and is right"
"$SOURCE/tests/integration/expected.awk" "$CACHE/admissions.csv" | LC_ALL=C sort >"$WORK/expected.csv"
for job in $(jq -r '.jobs[] | select(.state == "released") | .job' "$WORK/ps.json"); do
    coffer result "$job" --out "$WORK/results/$job" >/dev/null 2>"$WORK/result.log" || {
        cat "$WORK/result.log" >&2
        fail "the result of $job is lost"
    }
    tail -n +2 "$WORK/results/$job/by-group.csv" | LC_ALL=C sort | cmp -s - "$WORK/expected.csv" ||
        fail "the result of $job is wrong"
done
# Everything that was destroyed is to be known as destroyed before the books are checked.
for _ in $(seq 150); do
    coffer hosts --json | jq -e '.hosts[0].placed == 0' >/dev/null && break
    sleep 0.2
done
sleep 1
stop_dev
wait_no_cvm

say "the books"
cp -r "$DATA/nats/js" "$WORK/js"
cat >"$WORK/reader.conf" <<CONF
host: "127.0.0.1"
port: -1
ports_file_dir: "$WORK"
jetstream: { store_dir: "$WORK/js", max_memory_store: 0, max_file_store: 17179869184 }
accounts: { APP: { jetstream: enabled, users: [ { user: reader, password: reader } ] } }
CONF
: >"$WORK/reader.log"
PATH=$PATH:/usr/sbin nats-server -c "$WORK/reader.conf" >"$WORK/reader.log" 2>&1 &
READER=$!
port=
for _ in $(seq 100); do
    port=$(sed -n 's/.*Listening for client connections on 127.0.0.1:\([0-9]*\).*/\1/p' "$WORK/reader.log")
    [ -z "$port" ] || break
    sleep 0.1
done
status=0
"$TOOLS/integration_check" "$DATA" "nats://reader:reader@127.0.0.1:$port" "$JOBS" || status=$?
kill -INT "$READER"
wait "$READER" 2>/dev/null || true
READER=
[ "$status" -eq 0 ] || fail "the books do not balance"

# coffer dev itself: one at a time, resuming, restarting what dies, stopping in order, saying what is wrong.
. "$(dirname "$0")/lib.sh"

say "options that cannot be: exit 2"
for wrong in "--port 0" "--backend tdx" "--log-level loud" "--set kbs" "--set nothing.x=y"; do
    status=0
    # shellcheck disable=SC2086
    coffer dev --data "$WORK/none" $wrong 2>"$WORK/err" || status=$?
    [ "$status" -eq 2 ] || fail "coffer dev $wrong ended with $status, expected 2"
    grep -qF -- "${wrong%% *}" "$WORK/err" || fail "coffer dev $wrong: $(cat "$WORK/err")"
    [ ! -e "$WORK/none" ] || fail "coffer dev $wrong made the directory"
done

say "a configuration item that cannot be: exit 1, with the reason"
status=0
timeout 60 coffer dev --backend process --data "$WORK/bad" --set kbs.nothing=1 >/dev/null 2>"$WORK/err" || status=$?
[ "$status" -eq 1 ] || fail "it ended with $status, expected 1"
grep -q 'nothing' "$WORK/err" || fail "the service's own message is missing"
grep -q 'svc-kbs ended with status 2, for the 5th time' "$WORK/err" ||
    fail "the reason is missing: $(tail -n 3 "$WORK/err")"

say "start; what it writes"
make_cache
start_dev
grep -qF "export COFFER_DATA='$DATA'" "$WORK/dev.out" || fail "the ready line: $(cat "$WORK/dev.out")"
for private in client/client.seed reviewer.jwk nats/ca-key.pem nats/admin.seed kbs/kek kbs/sign.jwk \
    gate/seal.jwk scheduler/scheduler.db kbs/kbs.db; do
    [ "$(stat -c %a "$DATA/$private")" = 600 ] || fail "$private has mode $(stat -c %a "$DATA/$private")"
done
for dir in . nats kbs gate scheduler launcher verifier client; do
    [ "$(stat -c %a "$DATA/$dir")" = 700 ] || fail "$dir has mode $(stat -c %a "$DATA/$dir")"
done
# The launcher may have had to connect twice.
for _ in $(seq 50); do
    ! coffer hosts --json | jq -e '.hosts[0].alive' >/dev/null || break
    sleep 0.2
done
coffer hosts --json | jq -e '.hosts[0].alive' >/dev/null || fail "no host"

say "a second one on the same directory is refused, naming the first"
status=0
coffer dev --backend process --data "$DATA" >/dev/null 2>"$WORK/err" || status=$?
[ "$status" -eq 1 ] || fail "it ended with $status, expected 1"
grep -q "pid $DEV_PID" "$WORK/err" || fail "it does not name pid $DEV_PID: $(cat "$WORK/err")"

say "what dies is started again, and that is said"
for s in svc-kbs svc-launcher nats-server; do
    old=$(pid_of $s)
    kill -KILL "$old"
    for _ in $(seq 50); do
        new=$(pid_of $s || true)
        [ -n "$new" ] && [ "$new" != "$old" ] && break
        sleep 0.1
    done
    [ -n "$new" ] && [ "$new" != "$old" ] || fail "$s was not started again"
    grep -q "$s ended with signal 9 (Killed) after .* s; starting it again in" "$DEV_LOG" ||
        fail "nothing is said of the end of $s"
done
COFFER_KEY=$CACHE/config/owner.jwk wait_answers
set_up
set_up_admissions
run_job 0 "$WORK/out"

say "a clean stop leaves no process; a second start resumes"
url=$(jq -r .nats_url "$DATA/client/profile.json") keys=$(sha256sum "$DATA/trust.json")
pids=$(cat "$DATA"/pids/*)
stop_dev
for pid in $pids; do
    ! alive "$pid" || fail "process $pid is left"
done
start_dev
[ "$url" = "$(jq -r .nats_url "$DATA/client/profile.json")" ] || fail "the port changed"
[ "$keys" = "$(sha256sum "$DATA/trust.json")" ] || fail "the keys changed"
[ "$(state_of "$JOB")" = released ] || fail "the job is forgotten"
coffer result "$JOB" --out "$WORK/out-2" >/dev/null || fail "the result is lost"
run_job 0 "$WORK/out-3"

say "killed itself, nothing of it goes on; the next start resumes"
pids=$(cat "$DATA"/pids/*)
kill -KILL "$DEV_PID"
wait "$DEV_PID" 2>/dev/null || true
sleep 1
for pid in $pids; do
    ! alive "$pid" || fail "process $pid outlived coffer dev"
done
start_dev
[ "$(state_of "$JOB")" = released ] || fail "the job is forgotten after kill -9"
grep -q 'did not end in order; resuming' "$DEV_LOG" || fail "nothing is said of the last run's end"

say "the port of the last run is taken: another is used"
port=${url##*:}
stop_dev
DEV_DATA="$WORK/other" start_dev --port "$port"
DEV_FIRST=$DEV_PID
start_dev
[ "$url" != "$(jq -r .nats_url "$DATA/client/profile.json")" ] || fail "two on one port"
[ "$(state_of "$JOB")" = released ] || fail "the job is forgotten on another port"
stop_dev
DEV_PID=$DEV_FIRST
stop_dev

say "twice Ctrl-C kills at once"
start_dev
kill -INT "$DEV_PID"
kill -INT "$DEV_PID" 2>/dev/null || true
start=$(date +%s)
wait "$DEV_PID" || true
DEV_PID=
[ $(($(date +%s) - start)) -le 5 ] || fail "it took longer than 5 s"

# Stolen credentials: garbage on every subject one may publish to, refusals on all others; afterwards
# every service still lives and works.
. "$(dirname "$0")/lib.sh"

start_dev
set_up
set_up_admissions
before=$(cat "$DATA"/pids/*)
for round in 1 2 3; do
    timeout 60 "$TOOLS/integration_rogue" "$DATA" >"$WORK/rogue.out" 2>&1 || {
        cat "$WORK/rogue.out" >&2
        fail "round $round"
    }
done
tail -n 1 "$WORK/rogue.out"
[ "$before" = "$(cat "$DATA"/pids/*)" ] || fail "a service was started again"
run_job 0 "$WORK/out"
assert_events "$JOB"
say "a job still runs"
# The log names each kind of garbage, but a flood of it does not fill the disk.
[ "$(stat -c %s "$DEV_LOG")" -lt 8000000 ] || fail "the log is $(stat -c %s "$DEV_LOG") bytes"
stop_dev
assert_no_restarts

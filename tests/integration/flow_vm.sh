# A job in a measured VM, from submit to the opened result: QEMU, OVMF, swtpm, the guest image with svc-worker
# as PID 1, a TPM quote, keys, the container inside, and nothing left of the VM afterwards.
BACKEND=vtpm
. "$(dirname "$0")/lib.sh"

[ -e "$COFFER_BUILD/guest/coffer.efi" ] || {
    echo "$NAME: SKIPPED: this build made no guest image"
    exit 77
}
start_dev --set launcher.slots=2,launcher.cpu-millis=4000,launcher.memory-bytes=4294967296
set_up
set_up_admissions
"$SOURCE/tests/integration/expected.awk" "$CACHE/admissions.csv" | LC_ALL=C sort >"$WORK/expected.csv"

right() {
    tail -n +2 "$1/by-group.csv" | LC_ALL=C sort | diff -u "$WORK/expected.csv" - >&2 || fail "the result is wrong"
}

say "run to released, in a VM"
coffer hosts
start=$(date +%s%N)
run_job 0 "$WORK/out"
say "$((($(date +%s%N) - start) / 1000000)) ms from coffer run to the result"
right "$WORK/out"
coffer status "$JOB" --json | jq -e '.backend == "vtpm" and .attempt == 1 and (.downgraded | not)' >/dev/null ||
    fail "status: $(coffer status "$JOB")"
assert_events "$JOB"
coffer logs "$JOB" | tee "$WORK/logs"
for phase in attest keys unpack run; do
    grep -q "  $phase\$" "$WORK/logs" || fail "coffer logs has no $phase"
done
wait_no_cvm

say "two VMs at once"
job_yaml >"$WORK/job.yaml"
one=$(coffer submit "$WORK/job.yaml") two=$(coffer submit "$WORK/job.yaml")
wait_state "$one" 60 released
wait_state "$two" 60 released
coffer result "$two" --out "$WORK/two" >/dev/null
right "$WORK/two"
wait_no_cvm

say "QEMU is killed: another VM, another attempt"
ATTEMPTS=2 ARGS='["/bin/sh", "-c", "/bin/analyse; sleep 3"]' job_yaml >"$WORK/job.yaml"
JOB=$(coffer submit "$WORK/job.yaml")
wait_state "$JOB" 60 running
qemu=$(pgrep -f "qemu-system-x86_64.*$JOB" | head -n 1) || true
[ -n "$qemu" ] || fail "no QEMU of $JOB"
kill -KILL "$qemu"
wait_state "$JOB" 90 released
[ "$(coffer status "$JOB" --json | jq .attempt)" -eq 2 ] || fail "attempt"
wait_no_cvm

say "nats-server is killed: the same VM goes on over a new connection"
ARGS='["/bin/sh", "-c", "/bin/analyse; sleep 5"]' job_yaml >"$WORK/job.yaml"
JOB=$(coffer submit "$WORK/job.yaml")
wait_state "$JOB" 120 running
kill -KILL "$(pid_of nats-server)"
wait_answers
wait_state "$JOB" 90 released
[ "$(coffer status "$JOB" --json | jq .attempt)" -eq 1 ] || fail "attempt"
wait_no_cvm

say "a hardware type is never met by a VM with a virtual TPM"
TEE='{mode: required, types: [tdx, snp]}' job_yaml >"$WORK/job.yaml"
JOB=$(coffer submit "$WORK/job.yaml")
sleep 3
[ "$(state_of "$JOB")" = queued ] || fail "a job for hardware is $(state_of "$JOB")"
coffer cancel "$JOB" >/dev/null

say "the host allows a VM; the data's owner does not"
grant_id=$GRANT
COFFER_KEY=$OWNER coffer dataset revoke "$grant_id" >/dev/null
TEE_TYPE=tdx TEE_STATUS=affirming grant "$SEALED_FILE" >/dev/null
run_job 5 "$WORK/none"
coffer explain "$JOB" --json | jq -e '.reason.clause | startswith("grant.tee")' >/dev/null ||
    fail "explain: $(coffer explain "$JOB")"
wait_no_cvm
stop_dev
! grep -a child.ended "$DEV_LOG" | grep -v nats-server || fail "a service ended by itself"

# Measured VMs with real jobs, one after another, some of them with a part killed, and three at once; and what is
# left of them on the host afterwards: nothing. COFFER_VM_MANY (default 4) VMs one after another;
# COFFER_VM_SEED repeats the choice of what is killed.
#
# Also two bars of the launch: the job fits a VM of 256 MiB, and of these svc-worker takes at most 24 MiB.
BACKEND=vtpm
. "$(dirname "$0")/lib.sh"

MANY=${COFFER_VM_MANY:-4}
SEED=${COFFER_VM_SEED:-$(($(date +%s) % 32768))}
WORKER_MAX_KIB=$((24 * 1024)) VM_MIB=256
# A service keeps no more than this of some jobs; nats-server's memory is what its garbage collector leaves.
GROWTH_MAX_KIB=2048 NATS_GROWTH_MAX_KIB=24576
SETTLE_S=40
# What this is about is what is left, not how long it takes on a host that has other work.
PATIENCE_S=300 RUN_SECONDS=300 TIMEOUT=300s
SERVICES=(svc-scheduler svc-launcher svc-verifier svc-kbs svc-gate nats-server)

[ -e "$COFFER_BUILD/guest/coffer.efi" ] || {
    echo "$NAME: SKIPPED: this build made no guest image"
    exit 77
}

# ---- what there is on the host -------------------------------------------------------------------

# This stack's processes: who it starts has its directory in an argument or the environment. And QEMU and
# swtpm, by their users, unless they have another stack's.
processes() {
    local d
    {
        grep -laF -- "$WORK" /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null
        for d in $(find /proc -maxdepth 1 -name '[0-9]*' -uid +1899999999 -printf '%p\n' 2>/dev/null); do
            grep -qsaF /launcher/cvm/ "$d/environ" || echo "$d/"
        done
    } | cut -d/ -f3 | sort -u | while read -r d; do
        awk -v pid="$d" '{ sub(/.*\) /, ""); start = $20 } END { if (start) printf "process %s %s ", pid, start }' \
            "/proc/$d/stat" 2>/dev/null && tr '\0' ' ' <"/proc/$d/cmdline" 2>/dev/null | cut -c1-120 && echo
    done
}
# All that a VM could leave, a line each.
inventory() {
    processes >"$WORK/processes"
    cat "$WORK/processes"
    lsns --noheadings --output PID,TYPE,NS |
        awk 'NR == FNR { if ($1 == "process") ours[$2] = 1; next } $1 in ours { print "namespace", $2, $3 }' "$WORK/processes" -
    find "$DATA/launcher" "$TMPDIR" -mindepth 1 ! -name '*.db-wal' ! -name '*.db-shm' -printf 'file %p\n' 2>/dev/null
    find /run /dev/shm -mindepth 1 -maxdepth 1 -printf 'file %p\n' 2>/dev/null
    grep -F -- "$WORK" /proc/net/unix | sed 's/.* \([^ ]*:\)\? [0-9]* //' | sed 's/^/socket /'
    awk '{ print "mount", $1, $5 }' /proc/self/mountinfo
    # Sandboxes have cgroups with their job's name; whose jobs run here as processes are others'.
    find /sys/fs/cgroup -type d -printf 'cgroup %p\n' 2>/dev/null |
        awk -v jobs="$(coffer ps -a --limit 500 --json | jq -r '.jobs[].job' | tr '\n' ' ')" \
            '!match($0, /coffer-box-[a-z0-9]+/) || index(jobs, substr($0, RSTART + 11, RLENGTH - 11))'
    find /sys/fs/fuse/connections -mindepth 1 -maxdepth 1 -printf 'fuse %p\n' 2>/dev/null
    printf 'interface %s\n' /sys/class/net/*
    awk 'FNR > 1 { print "sysv", FILENAME, $2 }' /proc/sysvipc/shm /proc/sysvipc/sem /proc/sysvipc/msg
}
# Open files and sockets of the services, without the numbers that tell one from another; but not the files of
# streams, which nats-server opens and closes as it likes.
descriptors() {
    local s
    for s in "${SERVICES[@]}"; do
        find "/proc/$(pid_of "$s")/fd" -mindepth 1 -printf "$s %l\n" 2>/dev/null
    done | grep -v /jetstream/ | sed -E 's/\[[0-9]+\]//' | LC_ALL=C sort | uniq -c |
        awk '{ n = $1; $1 = ""; for (i = 1; i <= n; i++) print "descriptor" $0 ", number", i }'
}
# Things vanish while they are looked at: that is no failure.
everything() (
    set +eo pipefail
    { inventory; descriptors; } | LC_ALL=C sort -u
)

# Fails unless everything that is there beyond $1 goes away in time. What others do on the host comes and goes; what
# is there each time we look is left over.
assert_nothing_left() {
    local before=$1 until=$((SECONDS + SETTLE_S))
    everything | LC_ALL=C comm -13 "$before" - >"$WORK/left"
    while [ -s "$WORK/left" ] && [ $SECONDS -lt $until ]; do
        sleep 1
        everything | LC_ALL=C comm -12 "$WORK/left" - >"$WORK/left.now"
        mv "$WORK/left.now" "$WORK/left"
    done
    [ ! -s "$WORK/left" ] || {
        cat "$WORK/left" >&2
        fail "$(wc -l <"$WORK/left") things are left, $2"
    }
}

rss() { awk '/^VmRSS/ { print $2 }' "/proc/$(pid_of "$1")/status"; }

# ---- the parts of a VM ---------------------------------------------------------------------------

below() {
    local p
    for p in $(pgrep -P "$1" || true); do
        echo "$p"
        below "$p"
    done
}
# part NAME: of the one VM there is, as soon as it is there.
part() {
    local i
    for i in $(seq 100); do
        find_part "$1" && return 0
        sleep 0.1
    done
    return 1
}
find_part() {
    local p
    for p in $(below "$(keepers)"); do
        case "$1 $(tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null)" in
        "qemu "*qemu-system-x86_64\ * | "swtpm "*swtpm\ socket* | "cvm-vm "*\ cvm-vm\ *)
            echo "$p"
            return 0
            ;;
        esac
    done
    return 1
}

attempt_of() { coffer status "$1" --json | jq .attempt; }

# ---- one after another ---------------------------------------------------------------------------

start_dev --set launcher.slots=3 --set launcher.cpu-millis=6000 --set launcher.memory-bytes=4294967296 \
    --set scheduler.launch-timeout-ms=300000
set_up
set_up_admissions
"$SOURCE/tests/integration/expected.awk" "$CACHE/admissions.csv" | LC_ALL=C sort >"$WORK/expected.csv"
right() {
    rm -rf "$WORK/result"
    coffer result "$1" --out "$WORK/result" >/dev/null 2>&1
    tail -n +2 "$WORK/result/by-group.csv" | LC_ALL=C sort | diff -u "$WORK/expected.csv" - >&2 || fail "the result is wrong"
}

say "a first VM, for what is there to stay"
run_job 0 "$WORK/first"
wait_no_cvm
sleep 2
everything >"$WORK/before"
# What is planted is seen: this test can fail.
sleep 60 &
planted=$!
until grep -qsaF -- "$WORK" "/proc/$planted/environ"; do sleep 0.05; done
mkdir "$DATA/launcher/cvm/planted" "$WORK/planted"
mount -t tmpfs planted "$WORK/planted"
everything | LC_ALL=C comm -13 "$WORK/before" - >"$WORK/seen"
umount "$WORK/planted"
rmdir "$DATA/launcher/cvm/planted" "$WORK/planted"
kill "$planted"
wait "$planted" 2>/dev/null || true
grep -q "^process $planted " "$WORK/seen" && grep -q "^file .*/cvm/planted" "$WORK/seen" &&
    grep -q '^mount .*planted' "$WORK/seen" || fail "a process, a file or a mount was not seen: $(cat "$WORK/seen")"
declare -A rss_before
for s in "${SERVICES[@]}"; do rss_before[$s]=$(rss "$s"); done

parts=(qemu swtpm cvm-vm)
RANDOM=$SEED
say "$MANY VMs one after another, seed $SEED"
killed=0 start=$SECONDS
for i in $(seq "$MANY"); do
    if [ $((i % 4)) -ne 2 ]; then
        run_job 0 "$WORK/out-$i"
        right "$JOB"
        rm -rf "$WORK/out-$i"
    else
        victim=${parts[$((RANDOM % 3))]}
        ATTEMPTS=2 ARGS='["/bin/sh", "-c", "/bin/analyse; sleep 3"]' job_yaml >"$WORK/job.yaml"
        JOB=$(coffer submit "$WORK/job.yaml")
        if [ $((RANDOM % 2)) -eq 0 ]; then
            wait_state "$JOB" $PATIENCE_S launching booted attested running
            sleep "$((RANDOM % 4)).$((RANDOM % 10))"
        else
            wait_state "$JOB" $PATIENCE_S running
        fi
        pid=$(part "$victim") || fail "the VM of round $i has no $victim"
        kill -KILL "$pid"
        wait_state "$JOB" $PATIENCE_S released
        [ "$(attempt_of "$JOB")" -eq 2 ] || fail "round $i: $victim was killed, and it was attempt $(attempt_of "$JOB")"
        say "round $i: $victim was killed, the second attempt gave the result"
        killed=$((killed + 1))
        right "$JOB"
    fi
    wait_no_cvm
done
say "$MANY VMs and $killed more for those that were killed, in $((SECONDS - start)) s"
assert_nothing_left "$WORK/before" "of VMs one after another"

# ---- three at once -------------------------------------------------------------------------------

say "three at once"
ARGS='["/bin/sh", "-c", "/bin/analyse; sleep 10"]' job_yaml >"$WORK/job.yaml"
jobs=()
for _ in 1 2 3; do jobs+=("$(coffer submit "$WORK/job.yaml")"); done
for JOB in "${jobs[@]}"; do wait_state "$JOB" $PATIENCE_S running; done
[ "$(keepers | wc -l)" -eq 3 ] || fail "there are $(keepers | wc -l) VMs"
[ "$(coffer hosts --json | jq '.hosts[0].placed')" -eq 3 ] || fail "the host does not count three VMs"
for JOB in "${jobs[@]}"; do wait_state "$JOB" $PATIENCE_S released; done
for JOB in "${jobs[@]}"; do
    right "$JOB"
    [ "$(attempt_of "$JOB")" -eq 1 ] || fail "$JOB took $(attempt_of "$JOB") attempts"
    coffer events "$JOB" --json
done >"$WORK/three.json"
# Each ran before any of them had ended.
jq -se 'map(.events | {run: (map(select(.detail == "run"))[0].at_ms), seal: (map(select(.detail == "seal"))[0].at_ms)})
    | {together_ms: ((map(.seal) | min) - (map(.run) | max))} | select(.together_ms > 0)' "$WORK/three.json" >"$WORK/overlap" ||
    fail "they did not run at the same time: $(jq -s 'map(.events | map({detail, at_ms}))' "$WORK/three.json")"
say "three workloads ran in three VMs together for $(jq .together_ms "$WORK/overlap") ms"
wait_no_cvm
assert_nothing_left "$WORK/before" "of three VMs at once"

# ---- memory --------------------------------------------------------------------------------------

bad=
printf '%-14s %10s %10s %10s\n' service 'before KiB' 'after KiB' growth
for s in "${SERVICES[@]}"; do
    after=$(rss "$s") most=$GROWTH_MAX_KIB
    [ "$s" != nats-server ] || most=$NATS_GROWTH_MAX_KIB
    printf '%-14s %10s %10s %10s\n' "$s" "${rss_before[$s]}" "$after" "$((after - rss_before[$s]))"
    [ $((after - rss_before[$s])) -le $most ] || bad="$bad $s"
done
[ -z "$bad" ] || fail "more memory than at first:$bad"

grep -ao 'peak_pss_kib[^0-9]*[0-9]*' "$DEV_LOG" | grep -o '[0-9]*$' | sort -n >"$WORK/peaks"
peak=$(tail -n 1 "$WORK/peaks")
[ "${peak:-0}" -gt 1000 ] || fail "the guests do not tell of their memory"
say "svc-worker took at most $peak KiB of a VM, of $WORKER_MAX_KIB"
[ "$peak" -le "$WORKER_MAX_KIB" ] || fail "svc-worker took $peak KiB, expected at most $WORKER_MAX_KIB"
sizes=$(grep -ao '"vm: [a-zA-Z]*, [0-9]* MiB' "$DEV_LOG" | grep -o '[0-9]* MiB' | sort -u)
[ "$sizes" = "$VM_MIB MiB" ] || fail "VMs were of $sizes, expected $VM_MIB MiB"
stop_dev
! grep -a child.ended "$DEV_LOG" || fail "a service ended by itself"

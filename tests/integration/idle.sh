# What the services need while nothing happens: memory, and how often they wake up.
. "$(dirname "$0")/lib.sh"

SECONDS_IDLE=${COFFER_IDLE_SECONDS:-20} RSS_MAX_KIB=$((12 * 1024))
sanitized=$(nm -D "$BIN/svc-kbs" 2>/dev/null | grep -c '__asan_init\|__tsan_init' || true)
start_dev
sleep 3
services=(svc-scheduler svc-launcher svc-verifier svc-kbs svc-gate)
switches() { awk '/^voluntary/ { n += $2 } END { print n }' /proc/"$1"/task/*/status; }
declare -A before
for s in "${services[@]}"; do before[$s]=$(switches "$(pid_of "$s")"); done
sleep "$SECONDS_IDLE"
bad=
printf '%-14s %10s %10s %12s %8s\n' service 'RSS KiB' 'PSS KiB' 'wake-ups/s' threads
for s in "${services[@]}"; do
    pid=$(pid_of "$s")
    rss=$(awk '/^VmRSS/ { print $2 }' /proc/"$pid"/status)
    pss=$(awk '/^Pss:/ { print $2 }' /proc/"$pid"/smaps_rollup)
    rate=$(awk -v n=$(($(switches "$pid") - before[$s])) -v s="$SECONDS_IDLE" \
        'BEGIN { printf "%.2f", n / s }')
    printf '%-14s %10s %10s %12s %8s\n' "$s" "$rss" "$pss" "$rate" "$(ls /proc/"$pid"/task | wc -l)"
    [ "$rss" -le "$RSS_MAX_KIB" ] || bad="$bad $s has $rss KiB resident;"
    # Heartbeats of the bus and of hosts: a few in 5 s. A timer that spins would have many more.
    awk -v r="$rate" 'BEGIN { exit r <= 3 }' && bad="$bad $s wakes up $rate times a second;"
done
stop_dev
assert_no_restarts
if [ -n "$bad" ]; then
    [ "$sanitized" -eq 0 ] || { say "built with a sanitizer, so not held against it:$bad"; exit 0; }
    fail "$bad"
fi

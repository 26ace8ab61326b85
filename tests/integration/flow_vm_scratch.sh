# What a job asks of its VM's host: scratch, whose host sees ciphertext only and cannot change it unseen; huge
# pages, locked memory, a node, CPUs of its own; and refusals of what the host does not have.
BACKEND=vtpm
. "$(dirname "$0")/lib.sh"

[ -e "$COFFER_BUILD/guest/coffer.efi" ] || {
    echo "$NAME: SKIPPED: this build made no guest image"
    exit 77
}
HUGE=/proc/sys/vm/nr_hugepages
HUGE_BEFORE=$(cat "$HUGE")
at_end() { echo "$HUGE_BEFORE" >"$HUGE" 2>/dev/null || true; }
MAPPED=$(ls -d /sys/block/dm-* 2>/dev/null || true) LOOPS=$(losetup -a 2>/dev/null || true)

start_dev --set launcher.slots=2 --set launcher.cpu-millis=4000 --set launcher.memory-bytes=4294967296 \
    --set launcher.vm-scratch-max-bytes=268435456 --set scheduler.launch-timeout-ms=300000
set_up
set_up_admissions
FILES='[{path: report.txt, type: text/plain}]'
# 64 bytes; the workload makes 64 MiB of it.
TIMEOUT=300s
PATTERN=COFFER-SCRATCH-PATTERN-3f1c9a7e-COFFER-SCRATCH-PATTERN-0d52b86

# submit_script SCRIPT RESOURCES: sets JOB.
submit_script() {
    ARGS=$(jq -cn --arg s "$1" '["/bin/sh", "-c", $s]') RESOURCES=$2 job_yaml >"$WORK/job.yaml"
    JOB=$(coffer submit "$WORK/job.yaml")
}

# The QEMU of a job; of it the descriptor of the one file that it may write to.
qemu_of() { pgrep -f "^/usr/bin/qemu-system-x86_64.*coffer-$1" | head -n 1; }
scratch_fd() {
    local fd
    for fd in "/proc/$1/fd/"*; do
        case $(readlink "$fd") in
        "$DATA/launcher/cvm"*'(deleted)') echo "$fd" && return 0 ;;
        esac
    done
    return 1
}

# ended STATE: the job ends, in that state.
ended() {
    wait_state "$JOB" 240 released failed refused
    [ "$(state_of "$JOB")" = "$1" ] || {
        coffer explain "$JOB" >&2 || true
        fail "$JOB is $(state_of "$JOB"), expected $1"
    }
}

# wait_blocks FILE MIB: until so much was written to it.
wait_blocks() {
    for _ in $(seq 450); do
        [ "$(stat -Lc %b "$1" 2>/dev/null || echo 0)" -lt $(($2 * 2048)) ] || return 0
        sleep 0.2
    done
    fail "the guest wrote less than $2 MiB to its scratch"
}

MAKE="printf '%s\\n' $PATTERN >/tmp/a
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do cat /tmp/a /tmp/a >/tmp/b; busybox mv /tmp/b /tmp/a; done
for i in \$(seq 64); do cat /tmp/a; done | dd of=/scratch/f bs=1M conv=fsync 2>/dev/null
want=\$(for i in \$(seq 64); do cat /tmp/a; done | busybox sha256sum)
"

say "scratch: written, read back, full"
submit_script "$MAKE
sleep 6
r=/output/report.txt
[ \"\$(dd if=/scratch/f iflag=direct bs=1M 2>/dev/null | busybox sha256sum)\" = \"\$want\" ] && echo same >>\$r
busybox cp /bin/busybox /scratch/true && { /scratch/true || echo not executable; } >>\$r 2>/dev/null
busybox rm /scratch/true
busybox stat -c %U:%a /scratch >/dev/null && busybox mkdir /scratch/d && echo writable >>\$r
dd if=/dev/zero of=/scratch/d/g bs=64k 2>&1 | grep -o 'No space left on device' >>\$r
[ \$((\$(wc -c </scratch/f) + \$(wc -c </scratch/d/g))) -ge 100663296 ] && echo room >>\$r
grep -q ' /scratch ext4 rw,nosuid,nodev,noexec,' /proc/mounts && echo mounted >>\$r
busybox rm /scratch/f && dd if=/dev/zero of=/scratch/h bs=1M count=8 2>/dev/null && echo again >>\$r" \
    'scratch: 96MiB'
wait_state "$JOB" 240 running
qemu=$(qemu_of "$JOB")
fd=$(scratch_fd "$qemu") || fail "QEMU has no scratch file"
[ "$(stat -Lc %h "$fd")" -eq 0 ] || fail "the file has a name"
[ -z "$(find "$DATA/launcher" -size +16M)" ] || fail "a large file lies in the launcher's directory"
wait_blocks "$fd" 64
sleep 1
if LC_ALL=C grep -aqF "${PATTERN:0:16}" "$fd"; then fail "plaintext in the scratch file"; fi
# And what is there is no shorter than what was written: neither zeros nor a pattern.
[ "$(gzip -1 <"$fd" | wc -c)" -gt 67108864 ] || fail "the scratch file is not random"
ended released
coffer result "$JOB" --out "$WORK/out" >/dev/null
printf '%s\n' same 'not executable' writable 'No space left on device' room mounted again |
    diff -u - "$WORK/out/report.txt" >&2 || fail "what the workload saw of its scratch"
wait_no_cvm
[ "$MAPPED" = "$(ls -d /sys/block/dm-* 2>/dev/null || true)" ] || fail "a mapped device is left"
[ "$LOOPS" = "$(losetup -a 2>/dev/null || true)" ] || fail "a loop device is left"

say "scratch: what the host changes is an error, never other data"
submit_script "$MAKE
sleep 12
r=/output/report.txt
dd if=/scratch/f iflag=direct bs=4k of=/dev/null 2>/dev/null && echo all of it >>\$r || echo error >>\$r
true" 'scratch: 96MiB'
wait_state "$JOB" 240 running
qemu=$(qemu_of "$JOB")
fd=$(scratch_fd "$qemu") || fail "QEMU has no scratch file"
wait_blocks "$fd" 64
sleep 1
for at in $(seq 24 4 60); do
    head -c 65536 /dev/urandom | dd of="$fd" bs=64k seek=$((at * 16)) conv=notrunc 2>/dev/null
done
ended released
rm -rf "$WORK/out"
coffer result "$JOB" --out "$WORK/out" >/dev/null
[ "$(cat "$WORK/out/report.txt")" = error ] || fail "the workload read: $(cat "$WORK/out/report.txt")"
wait_no_cvm

# refused RESOURCES CLAUSE
refused() {
    submit_script true "$1"
    wait_state "$JOB" 240 failed refused
    assert_clause "$JOB" "$2"
    wait_no_cvm
}
say "what the host does not have is refused, by name"
refused 'scratch: 257MiB' spec.resources.scratch
refused 'numaNode: 1000' spec.resources.numaNode
refused 'hugepages: 1GiB' spec.resources.hugepages
ONLINE=$(nproc)

say "a node, locked memory, CPUs and huge pages: as far as this host goes"
MORE='numaNode: 0'
if prlimit --memlock=unlimited true 2>/dev/null; then
    MORE="$MORE, lockMemory: true"
else
    refused 'lockMemory: true' spec.resources.lockMemory
fi
[ "$ONLINE" -lt 2 ] || MORE="$MORE, cpuPinning: true"
echo 256 >"$HUGE" 2>/dev/null || true
[ "$(cat "$HUGE")" -lt 256 ] || MORE="$MORE, hugepages: 2MiB"
say "$MORE"
submit_script 'sleep 4; echo done >/output/report.txt' "$MORE"
wait_state "$JOB" 240 running
qemu=$(qemu_of "$JOB")
grep -E 'VmLck|Cpus_allowed_list|HugetlbPages' "/proc/$qemu/status"
grep -q 'bind:0.*memfd' "/proc/$qemu/numa_maps" || fail "memory is not bound to node 0"
case $MORE in
*cpuPinning*)
    for thread in "/proc/$qemu/task/"*; do
        taskset -pc "${thread##*/}" | grep -Eq ': [0-9]+$' || fail "a thread has more than its CPU"
    done
    ;;
esac
case $MORE in
*lockMemory*)
    [ "$(awk '/VmLck/ { print $2 }' "/proc/$qemu/status")" -ge 262144 ] || fail "memory is not locked"
    ;;
esac
case $MORE in
*hugepages*) grep -q 'memfd.*huge' "/proc/$qemu/numa_maps" || fail "memory is not in huge pages" ;;
esac
ended released
wait_no_cvm
echo "$HUGE_BEFORE" >"$HUGE" 2>/dev/null || true
stop_dev
! grep -a child.ended "$DEV_LOG" || fail "a service ended by itself"

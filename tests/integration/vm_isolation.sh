# What the workload in a measured VM can reach: root's rights, svc-worker's memory, the TPM, the sealed datasets, the
# bus, the kernel's log, the network. A program tries all of it (tests/isolation/escape_vm.h) as an ordinary job; the
# outcome of each attempt must be that of vm_isolation.expected, no more and no fewer. Then a job that takes more
# memory than it may, and an image with the TPM's device node in it.
#
# COFFER_TEST_OUTCOMES=FILE: writes the outcomes to FILE, too.
BACKEND=vtpm
. "$(dirname "$0")/lib.sh"

[ -e "$COFFER_BUILD/guest/coffer.efi" ] || {
    echo "$NAME: SKIPPED: this build made no guest image"
    exit 77
}
ESCAPE=$TOOLS/escape_vm
EXPECTED=$SOURCE/tests/integration/vm_isolation.expected

# image NAME: an image of $WORK/root-NAME, with the user 0:0, encrypted and stored; prints its digest.
image() {
    {
        umoci init --layout "$WORK/plain-$1"
        umoci new --image "$WORK/plain-$1:t"
        for dir in "$WORK/root-$1"/*; do
            umoci insert --image "$WORK/plain-$1:t" "$dir" "/${dir##*/}"
        done
        umoci config --image "$WORK/plain-$1:t" --config.user 0:0 --config.env PATH=/bin
    } >&2
    coffer image encrypt --key-id "$IMAGE_KEY" "$WORK/plain-$1:t" "$WORK/sealed-$1:t"
    coffer store add "$WORK/sealed-$1:t" >&2
}

# What the probes are told of the world outside, see tests/isolation/escape.h. The file is the guest's, and so are the
# namespaces: those that every kernel starts with.
env_yaml() {
    cat <<YAML
{ESCAPE_INSIDE: "1", ESCAPE_DATASET: /data/set, ESCAPE_OUTPUT: /output, ESCAPE_HOST_FILE: /init, ESCAPE_HOST_PID: "2",
    ESCAPE_HOST_PORT: "$PORT", ESCAPE_HOST_ABSTRACT: coffer, ESCAPE_HOST_ADDRESSES: "$(hostname -I | tr '\n' ' ')",
    ESCAPE_HOST_NAMESPACES: " pid:[4026531836] net:[4026531840] ipc:[4026531839] uts:[4026531838] mnt:[4026531841] user:[4026531837] cgroup:[4026531835] ",
    ESCAPE_TMP_BYTES: "16777216", ESCAPE_OUTPUT_BYTES: "1310720", ESCAPE_PIDS: "32"}
YAML
}

# job IMAGE ARGS: a spec on standard output.
job() {
    local output='[{path: attempts.txt, type: text/plain}]'
    TIMEOUT=600s JOB_IMAGE=$(cat "$WORK/image-$1") ARGS=$2 DATASETS="[{id: \"$DATASET\", mount: /data/set}]" FILES=$output GATE='gate: {maxVerbatimPercent: 1}' job_yaml |
        sed -e "s|^  args: |  env: $(env_yaml | tr '\n' ' ')\n  args: |" -e 's|cpu: 500m|cpu: "1", scratch: 16MiB|'
}

start_dev --set launcher.slots=2,launcher.cpu-millis=4000,launcher.memory-bytes=4294967296,launcher.vm-scratch-max-bytes=67108864
PORT=$(jq -r .nats_url "$DATA/client/profile.json" | sed 's/.*://')
set_up

say "an image with everything in it, and one with the TPM's device node"
for name in all node; do
    mkdir -p "$WORK/root-$name/bin"
    cp "$ESCAPE" "$WORK/root-$name/bin/escape-vm"
    ln -s busybox "$WORK/root-$name/bin/true" # last: umoci does not pad a layer's last file
done
cp /bin/busybox "$WORK/root-all/bin/busybox"
install -m 4755 "$ESCAPE" "$WORK/root-all/bin/escape-setuid"
cp "$ESCAPE" "$WORK/root-all/bin/escape-capable"
"$ESCAPE" capable "$WORK/root-all/bin/escape-capable" || fail "cannot give a file capabilities"
mkdir "$WORK/root-node/dev"
mknod -m 666 "$WORK/root-node/dev/tpm0" c 10 224
mkdir -m 777 "$WORK/set"
echo isolation >"$WORK/set/data.txt"
chmod 666 "$WORK/set/data.txt"
printf '#!/bin/busybox true\n' >"$WORK/set/program"
chmod 755 "$WORK/set/program"
DATASET=$(seal "$WORK/set" set)
for name in all node; do
    IMAGE=$(image "$name")
    grant "$WORK/set.coffer" >/dev/null
    echo "$IMAGE" >"$WORK/image-$name"
done

say "outside, as root, the same attempts find what there is to be found"
ESCAPE_HOST_PORT=$PORT ESCAPE_SCAN="$((PORT - 2))-$((PORT + 2))" timeout 30 unshare --kill-child --mount --pid --fork --mount-proc \
    bash -c 'sleep 60 & exec "$0" control "$1"' "$ESCAPE" "$WORK/control" || fail "the control ended badly"
found() {
    grep -qE -- "$1" "$WORK/control" || {
        cat "$WORK/control" >&2
        fail "outside there is no line $1"
    }
}
for line in 'kill 0 of' 'pidfd_open of' 'pidfd_getfd of' 'prlimit64 of' '/proc/2 to /proc/1000, mem' \
    '/proc/2 to /proc/1000, environ' '/proc/2 to /proc/1000, root' '/proc/2 to /proc/1000, fd:' \
    "read /proc/interrupts" "TCP to 127.0.0.1, the bus's port:" 'TCP to 127.0.0.1, every port:'; do
    found "^$line.*POSSIBLE"
done
found '^sockets of any family and type: .*16/raw .*17/'
found '^/proc/net/tcp: [1-9]'
found '^nodes that can be found: .*(=c1:7 | more$)'
found '^mount /: '

say "every attempt"
start=$(date +%s%N)
job all '["/bin/escape-vm", "all", "/output/attempts.txt"]' >"$WORK/job.yaml"
timeout 660 coffer run "$WORK/job.yaml" --json --out "$WORK/out" >"$WORK/run.json" 2>"$WORK/run.err" || {
    cat "$WORK/run.json" "$WORK/run.err" >&2
    fail "the job that tries everything did not end well"
}
say "$((($(date +%s%N) - start) / 1000000)) ms, $(wc -l <"$WORK/out/attempts.txt") lines"
[ -z "${COFFER_TEST_OUTCOMES:-}" ] || cp "$WORK/out/attempts.txt" "$COFFER_TEST_OUTCOMES"
grep -v '^#' "$EXPECTED" >"$WORK/expected"
! grep -E 'POSSIBLE|could not be tried|ANOTHER' "$WORK/expected" >&2 || fail "an outcome is expected that must not be"
diff -u "$WORK/expected" "$WORK/out/attempts.txt" >&2 || fail "the outcomes are not those of vm_isolation.expected"
wait_no_cvm

say "too much memory, and a device node in an image"
job all '["/bin/escape-vm", "hog"]' >"$WORK/job.yaml"
hog=$(coffer submit "$WORK/job.yaml")
job node '["/bin/escape-vm", "all", "/output/attempts.txt"]' >"$WORK/job.yaml"
node=$(coffer submit "$WORK/job.yaml")
# ended JOB CLAUSE EXPECTED ACTUAL: it failed for that, in its one attempt, by the worker's own words.
ended() {
    wait_state "$1" 200 failed
    coffer explain "$1" --json >"$WORK/explain.json"
    jq -e --arg c "$2" --arg e "$3" --arg a "$4" '.state == "failed" and .reason.by == "worker" and
        .reason.clause == $c and .reason.expected == $e and .reason.actual == $a' "$WORK/explain.json" >/dev/null || {
        cat "$WORK/explain.json" >&2
        fail "the job did not end for $2"
    }
    assert_events "$1"
}
ended "$hog" workload.memory 'at most 67108864 bytes' 'more than that'
ended "$node" workload.image.layers 'layers that unpack' unsupported
wait_no_cvm
stop_dev
! grep -aE 'Kernel panic|Out of memory|cvm.lost|hangs|the (worker|relay) ended: (signal|exit status [1-9])' "$DEV_LOG" >&2 ||
    fail "a VM did not end in order"

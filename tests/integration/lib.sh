# Sourced by the flow tests: a stack of its own in a directory of its own, parties with keys, an
# encrypted image, a sealed dataset, jobs. Needs COFFER_BUILD (the build directory).
set -euo pipefail

: "${COFFER_BUILD:?the build directory}"
BIN=$COFFER_BUILD/bin
TOOLS=$COFFER_BUILD/tests
SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=$COFFER_BUILD/tests/integration-cache
NAME=$(basename "$0" .sh)
export PATH="$BIN:$PATH" NO_COLOR=1

for tool in nats-server crun skopeo umoci jq busybox coffer; do
    command -v "$tool" >/dev/null || PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null || {
        echo "$NAME: $tool is not installed" >&2
        exit 1
    }
done

# Workloads run in namespaces, and every flow runs some.
unshare --mount --pid --net --fork true 2>/dev/null || {
    echo "$NAME: SKIPPED: no namespaces here (root, or a container started with --privileged, has them)"
    exit 77
}

# A blank in the path: everything must cope.
WORK=$(mktemp -d "${TMPDIR:-/tmp}/coffer $NAME XXXXXX")
DATA="$WORK/the data"
DEV_LOG="$WORK/dev.log"
export HOME="$WORK/home" XDG_CONFIG_HOME="$WORK/config" COFFER_DATA="$DATA" TMPDIR="$WORK/tmp"
mkdir -p "$HOME" "$XDG_CONFIG_HOME" "$TMPDIR"
OWNER="$XDG_CONFIG_HOME/owner.jwk" CONSUMER="$XDG_CONFIG_HOME/consumer.jwk"
export COFFER_KEY=$CONSUMER
DEV_PID=
# How CVMs are made, and what evidence grants and jobs ask for.
BACKEND=${BACKEND:-process}
case $BACKEND in
process) TEE_TYPE=sample TEE_STATUS=affirming ;;
*) TEE_TYPE=$BACKEND TEE_STATUS=warning ;;
esac

say() { printf '%s: %s\n' "$NAME" "$*"; }

fail() {
    printf '%s: FAILED: %s\n' "$NAME" "$*" >&2
    exit 1
}

cleanup() {
    local status=$?
    trap - EXIT
    ! declare -F at_end >/dev/null || at_end
    [ -z "${READER:-}" ] || kill -KILL "$READER" 2>/dev/null || true
    if [ -n "$DEV_PID" ]; then
        kill -TERM "$DEV_PID" 2>/dev/null || true
        for _ in $(seq 100); do
            kill -0 "$DEV_PID" 2>/dev/null || break
            sleep 0.2
        done
        kill -KILL "$DEV_PID" 2>/dev/null || true
        wait "$DEV_PID" 2>/dev/null || true
    fi
    if [ "$status" -ne 0 ] && [ -e "$DEV_LOG" ]; then
        echo "--- the last lines of the stack's log" >&2
        grep -av 'shell.st' "$DEV_LOG" | tail -n "${COFFER_TEST_LOG_LINES:-40}" | cut -c1-400 >&2
    fi
    if [ -n "${COFFER_TEST_KEEP:-}" ]; then
        echo "kept: $WORK" >&2
    else
        rm -rf "$WORK"
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# ---- the stack -----------------------------------------------------------------------------------

start_dev() {
    local fifo="$WORK/ready"
    rm -f "$fifo"
    mkfifo "$fifo"
    coffer dev --backend "$BACKEND" ${DEV_DATA:+--data "$DEV_DATA"} --ready-fd 9 "$@" 9>"$fifo" >"$WORK/dev.out" 2>>"$DEV_LOG" &
    DEV_PID=$!
    local line=
    read -r -t 60 line <"$fifo" || true
    [ "$line" = ready ] || fail "coffer dev was not ready within 60 s"
}

# Stops it as Ctrl-C does; its exit status must be 0.
stop_dev() {
    local status=0
    kill -INT "$DEV_PID"
    wait "$DEV_PID" || status=$?
    DEV_PID=
    [ "$status" -eq 0 ] || fail "coffer dev ended with status $status"
}

# Zombies are not: not every init collects them.
alive() { grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status" 2>/dev/null; }

pid_of() { cat "$DATA/pids/$1" 2>/dev/null; }

# This stack's keepers: one for each CVM, children of the launcher that made it, or of nobody any more.
keepers() { pgrep -f "cvm-keeper .*$DATA/launcher/cvm/" || true; }

# Nothing runs or lies about of any CVM.
wait_no_cvm() {
    for _ in $(seq 150); do
        [ -z "$(keepers)" ] && [ -z "$(ls -A "$DATA/launcher/cvm" 2>/dev/null)" ] && return 0
        sleep 0.2
    done
    ps -ef --forest >&2
    ls -lR "$DATA/launcher/cvm" >&2 || true
    fail "something is left of a CVM"
}

# After something was killed: until every service that clients ask answers again.
wait_answers() {
    for _ in $(seq 100); do
        coffer hosts --json 2>/dev/null | jq -e '.hosts[0].alive' >/dev/null &&
            coffer gate ls >/dev/null 2>&1 && coffer dataset ls >/dev/null 2>&1 && return 0
        sleep 0.2
    done
    fail "the services do not answer"
}

# A service died and nobody killed it.
assert_no_restarts() {
    ! grep -a 'child.ended' "$DEV_LOG" || fail "a service ended by itself"
}

# ---- parties, image, dataset -----------------------------------------------------------------------

# What all tests share is made once per build directory: the programs' image, the parties' keys and the
# image encrypted for them. Every stack has a KBS of its own, so keys are registered in each test.
make_cache() {
    mkdir -p "$CACHE"
    (
        flock 7
        [ -e "$CACHE/done-1" ] && exit 0
        rm -rf "$CACHE/config" "$CACHE/plain" "$CACHE/sealed" "$CACHE/root" "$CACHE/admissions.csv"
        mkdir -p "$CACHE/root/bin" "$CACHE/config"
        cp /bin/busybox "$CACHE/root/bin/busybox"
        file_is_static "$CACHE/root/bin/busybox"
        for name in sh cat awk sort tail head sleep seq grep sed true false dd mkdir wc; do
            ln -s busybox "$CACHE/root/bin/$name"
        done
        cp "$SOURCE/examples/admissions/analyse.sh" "$CACHE/root/bin/analyse"
        chmod 755 "$CACHE/root/bin/analyse"
        umoci init --layout "$CACHE/plain"
        umoci new --image "$CACHE/plain:t"
        umoci insert --image "$CACHE/plain:t" "$CACHE/root/bin" /bin
        umoci config --image "$CACHE/plain:t" --config.env PATH=/bin
        umoci gc --layout "$CACHE/plain"
        "$COFFER_BUILD/examples/admissions" 3000 1 >"$CACHE/admissions.csv"
        export XDG_CONFIG_HOME="$CACHE/config"
        coffer keygen --out "$CACHE/config/owner.jwk" >/dev/null
        coffer keygen --out "$CACHE/config/consumer.jwk" >/dev/null
        coffer keygen --out "$CACHE/config/stranger.jwk" >/dev/null
        export COFFER_KEY="$CACHE/config/consumer.jwk"
        coffer image key new --offline programs >"$CACHE/config/image-key"
        coffer image encrypt --key-id "$(cat "$CACHE/config/image-key")" "$CACHE/plain:t" \
            "$CACHE/sealed:t" >"$CACHE/config/image"
        touch "$CACHE/done-1"
    ) 7>"$CACHE/lock" 1>&2 || fail "could not make the image and the keys"
}

file_is_static() {
    ! LC_ALL=C ldd "$1" >/dev/null 2>&1 || fail "$1 is not static: install busybox-static"
}

# The parties with their keys, and the image in the store; sets IMAGE and IMAGE_KEY.
set_up() {
    make_cache
    cp -r "$CACHE/config/." "$XDG_CONFIG_HOME"
    IMAGE=$(cat "$XDG_CONFIG_HOME/image") IMAGE_KEY=$(cat "$XDG_CONFIG_HOME/image-key")
    coffer image key register "$IMAGE_KEY" >/dev/null
    # A copy: the store takes hard links, and some tests change what is in the store.
    cp -r "$CACHE/sealed" "$WORK/sealed"
    coffer store add "$WORK/sealed:t" >/dev/null
}

# seal PATH [NAME]: seals, stores; prints the id.
seal() {
    local out="$WORK/$(basename "$1").coffer"
    COFFER_KEY=$OWNER coffer dataset seal --force --out "$out" --name "${2:-admissions}" "$1" --json |
        jq -re .id
    COFFER_KEY=$OWNER coffer store add "$out" >/dev/null
}

# grant DATASET-FILE [options]: uploads the key, grants it to the consumer; prints the grant's id.
grant() {
    local file=$1
    shift
    COFFER_KEY=$OWNER coffer dataset grant "$file" --consumer "$CONSUMER.pub" --image "$IMAGE" \
        --tee-types "$TEE_TYPE" --tee-status "$TEE_STATUS" "$@" 2>/dev/null
}

# The demo's table, sealed and granted; sets DATASET, GRANT and SEALED_FILE.
set_up_admissions() {
    DATASET=$(seal "$CACHE/admissions.csv")
    SEALED_FILE="$WORK/admissions.csv.coffer"
    GRANT=$(grant "$SEALED_FILE" "$@")
}

# ---- jobs ----------------------------------------------------------------------------------------

# A spec on standard output. Variables that change it: ARGS (a JSON list), DATASETS, FILES, TEE (flow
# YAML), GATE (a line), TIMEOUT, ATTEMPTS, JOB_NAME, JOB_IMAGE, JOB_IMAGE_KEY, RESOURCES (more of them).
job_yaml() {
    local files='[{path: by-group.csv, type: text/csv}]' args='["/bin/analyse"]'
    local tee="{mode: required, types: [$TEE_TYPE]}"
    local datasets="[{id: \"$DATASET\", mount: /data/admissions}]"
    cat <<YAML
apiVersion: coffer/v1
kind: Job
metadata: {name: ${JOB_NAME:-$NAME}}
workload:
  image: ${JOB_IMAGE:-$IMAGE}
  imageKeys: ["${JOB_IMAGE_KEY:-$IMAGE_KEY}"]
  args: ${ARGS:-$args}
datasets: ${DATASETS:-$datasets}
tee: ${TEE:-$tee}
resources: {cpu: 500m, memory: 64MiB, pids: 32, tmp: 16MiB${RESOURCES:+, $RESOURCES}}
timeout: ${TIMEOUT:-60s}
attempts: ${ATTEMPTS:-1}
output:
  path: /output
  maxBytes: 256KiB
  files: ${FILES:-$files}
${GATE:-}
YAML
}

# run_job EXIT OUT [coffer run options]: runs job_yaml's job; the exit status must be EXIT. Sets JOB
# and RUN_JSON. RUN_SECONDS (120) is how long it may take.
run_job() {
    local want=$1 out=$2 status=0
    shift 2
    job_yaml >"$WORK/job.yaml"
    timeout "${RUN_SECONDS:-120}" coffer run "$WORK/job.yaml" --json --out "$out" "$@" >"$WORK/run.json" \
        2>"$WORK/run.err" || status=$?
    RUN_JSON="$WORK/run.json"
    JOB=$(jq -r '.job // empty' "$RUN_JSON" 2>/dev/null || true)
    [ "$status" -eq "$want" ] || {
        cat "$WORK/run.json" "$WORK/run.err" >&2
        fail "coffer run ended with $status, expected $want"
    }
}

state_of() { coffer status "$1" --json | jq -r .state; }

# wait_state JOB SECONDS STATE...: until the job is in one of the states.
wait_state() {
    local job=$1 seconds=$2 state=
    shift 2
    for _ in $(seq $((seconds * 5))); do
        state=$(state_of "$job")
        for want in "$@"; do
            [ "$state" != "$want" ] || return 0
        done
        sleep 0.2
    done
    fail "$job is $state after $seconds s, expected $*"
}

# The job's events: numbered from 1 without a gap, one terminal, and that the last.
assert_events() {
    coffer events "$1" --json >"$WORK/events.json"
    jq -e '.events
        | (map(.seq) == [range(1; length + 1)])
          and ((map(select(.terminal)) | length) == 1) and (last.terminal)' \
        "$WORK/events.json" >/dev/null || {
        cat "$WORK/events.json" >&2
        fail "the events of $1 have gaps or not one end"
    }
}

# assert_clause JOB CLAUSE: coffer explain names the clause, with what was expected and what came.
assert_clause() {
    coffer explain "$1" --json >"$WORK/explain.json" || true
    jq -e --arg c "$2" '[.. | objects | select(.clause? == $c)] | length > 0' "$WORK/explain.json" \
        >/dev/null || {
        jq 'del(.events)' "$WORK/explain.json" >&2
        fail "coffer explain $1 does not name the clause $2"
    }
}

# absent TEXT: nowhere below the stack's data directory or in its log, in any file.
absent() {
    local found
    found=$(grep -rlaF -- "$1" "$DATA" "$DEV_LOG" 2>/dev/null || true)
    [ -z "$found" ] || fail "plaintext (${2:-$1}) stands in: $found"
}

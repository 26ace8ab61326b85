#!/usr/bin/env bash
# The demo: a hospital's encrypted table is analysed by an encrypted image that the hospital allowed, and
# only the gated result comes out. Then the same image tries to carry rows out, and an image that nobody
# allowed asks for the keys. Everything is real: nats-server with TLS, signatures, skopeo, crun.
set -euo pipefail
cd "$(dirname "$0")/.."
# The workload's sandbox is set up by root.
if [ "$(id -u)" -ne 0 ] && command -v sudo >/dev/null; then
    exec sudo "$PWD/scripts/demo.sh"
fi
bin=$PWD/build/release/bin
PATH=$bin:$PATH
work=$(mktemp -d "${TMPDIR:-/tmp}/coffer demo.XXXXXX")
stack=

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() {
    printf '$ %s\n' "$*" >&2
    "$@"
}
finish() {
    status=$?
    trap - EXIT
    if [ -n "$stack" ]; then
        kill -INT "$stack" 2>/dev/null || true
        wait "$stack" 2>/dev/null || true
    fi
    if [ $status -ne 0 ] && [ -e "$work/stack.log" ]; then
        printf '\nThe demo failed (exit %s). The stack said last:\n' $status >&2
        tail -n 30 "$work/stack.log" >&2 2>/dev/null || true
    fi
    rm -rf "$work"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs a command that must end with the given exit status: a refusal is part of the demo.
expect() {
    want=$1
    shift
    got=0
    show "$@" || got=$?
    if [ "$got" -ne "$want" ]; then
        printf 'expected exit status %s, got %s\n' "$want" "$got" >&2
        return 1
    fi
}

if ! unshare --mount --pid --net --fork true 2>/dev/null; then
    echo "This demo runs a workload sealed off in namespaces, and this environment allows none." >&2
    echo "Run it as root on a machine, or in a container with 'docker run --privileged'." >&2
    exit 1
fi

export COFFER_DATA="$work/data" XDG_CONFIG_HOME="$work/config"
owner="$work/hospital.jwk" consumer="$work/lab.jwk"

say "A private stack: nats-server (TLS, one key and permission set per service), six services, measured VMs"
mkfifo "$work/ready"
coffer dev --ready-fd 9 9>"$work/ready" >"$work/stack.log" 2>&1 &
stack=$!
if ! timeout 60 head -c 1 "$work/ready" >/dev/null; then
    echo "the stack did not start" >&2
    exit 1
fi
show coffer hosts

say "Two parties: a hospital that owns a table, and a lab that wants to compute on it"
show coffer keygen --out "$owner"
show coffer keygen --out "$consumer"

say "The hospital seals 100,000 admissions; the file can lie anywhere"
"$PWD/build/release/examples/admissions" 100000 >"$work/admissions.csv"
head -n 3 "$work/admissions.csv"
dataset=$(show coffer dataset seal "$work/admissions.csv" --name admissions --out "$work/admissions.coffer" \
    --key "$owner" --json | jq -r .id)
rm "$work/admissions.csv"
echo "$dataset"

say "The lab builds an image from Debian's busybox and encrypts it with Debian's skopeo"
umoci init --layout "$work/plain"
umoci new --image "$work/plain:stats"
mkdir -p "$work/root/bin" "$work/root/data" "$work/root/output" "$work/root/tmp"
install -m 0755 "$(command -v busybox)" "$work/root/bin/busybox"
for applet in sh awk sort tail head cat echo cp; do ln -s busybox "$work/root/bin/$applet"; done
install -m 0755 examples/admissions/analyse.sh "$work/root/analyse.sh"
umoci insert --image "$work/plain:stats" "$work/root" /
umoci config --image "$work/plain:stats" --config.env PATH=/bin
image_key=$(show coffer image key new stats --key "$consumer" --json | jq -r .id)
image=$(show coffer image encrypt "$work/plain:stats" "$work/stats:latest" --key-id "$image_key" \
    --key "$consumer" --json | jq -r .digest)
echo "$image"
show coffer store add "$work/admissions.coffer" "$work/stats:latest"

say "The hospital grants: this lab, this image, this evidence, this gate, for a day"
show coffer dataset grant "$work/admissions.coffer" --key "$owner" --consumer "$consumer.pub" \
    --image "$image" --tee-types vtpm --tee-status warning --hold-at 20 --reject-at 101 --max-verbatim 5 \
    --max-bytes 256KiB --valid 1d

job() { sed -e "s|@IMAGE@|$1|" -e "s|@DATASET@|$dataset|" examples/admissions/job.yaml.in; }

say "1. The analysis: admissions and mean stay per diagnosis group"
job "$image" >"$work/job.yaml"
expect 0 coffer run "$work/job.yaml" --key "$consumer"

say "2. The same image, told to carry rows out: the gate holds it for a person"
job "$image" | sed -e 's|name: stays-by-group|name: carry-rows-out|' \
    -e 's|args: .*|args: ["/bin/sh", "-c", "head -n 2000 /data/admissions > /output/by-group.csv"]|' >"$work/steal.yaml"
expect 3 coffer run "$work/steal.yaml" --key "$consumer"
show coffer explain @last

say "3. Another image, which no grant covers: the KBS refuses the keys"
printf '# changed\n' >>"$work/root/analyse.sh"
umoci insert --image "$work/plain:stats" "$work/root/analyse.sh" /analyse.sh
other=$(show coffer image encrypt "$work/plain:stats" "$work/other:latest" --key-id "$image_key" \
    --key "$consumer" --json | jq -r .digest)
show coffer store add "$work/other:latest"
job "$other" | sed 's|name: stays-by-group|name: other-image|' >"$work/other.yaml"
expect 5 coffer run "$work/other.yaml" --key "$consumer"
show coffer explain @last

say "Done: one table released, one attempt held, one refused; the rows never left in the clear."

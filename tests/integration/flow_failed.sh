# Jobs that fail in the worker: the workload's fault, tampered data, an image that is not what its digest
# says. Exit 5, and the reason names what was wrong.
. "$(dirname "$0")/lib.sh"

start_dev
set_up
set_up_admissions
STORED="$DATA/store/datasets/$DATASET.coffer"

failed() { # CLAUSE TEXT
    run_job 5 "$WORK/out-$RANDOM"
    [ "$(jq -r .state "$RUN_JSON")" = failed ] || {
        cat "$RUN_JSON" >&2
        fail "the state is not failed"
    }
    assert_events "$JOB"
    coffer explain "$JOB" --json >"$WORK/explain.json"
    jq -r '.reason | .clause, .message' "$WORK/explain.json" | tr '\n' ' ' | grep -q -- "$1" || {
        jq 'del(.events)' "$WORK/explain.json" >&2
        fail "the reason does not say \"$1\""
    }
}

say "the workload ends with 7"
ARGS='["/bin/sh", "-c", "exit 7"]' failed 'exit.* 7'

say "the workload does not write what it declared"
ARGS='["/bin/true"]' failed 'output.files'

say "a program that the image does not have"
ARGS='["/bin/nothing"]' failed '/bin/nothing'

say "one bit of a chunk in the store is changed"
cp "$STORED" "$WORK/good"
size=$(stat -c %s "$STORED")
flip() { # FILE OFFSET
    local byte
    byte=$(od -An -tu1 -j "$2" -N1 "$1")
    printf "$(printf '\\%03o' $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
flip "$STORED" $((size / 2))
failed 'dataset.0..chunk'

say "the dataset is cut off"
head -c $((size - 1000)) "$WORK/good" >"$STORED"
failed 'dataset.0..end'
# At the end of a chunk, all that is left is genuine: but the last chunk says that it is the last.
header=$((12 + $(od -An --endian=big -tu4 -j8 -N4 "$WORK/good")))
head -c $((header + 65536 + 16)) "$WORK/good" >"$STORED"
failed 'dataset.0..end'
: >"$STORED"
failed 'dataset.0..end' 

say "the dataset is not in the store"
rm "$STORED"
failed 'dataset.0..file' 
cp "$WORK/good" "$STORED"

say "a layer in the store is changed"
BLOBS="$DATA/store/blobs/sha256"
layer=$(jq -r '.layers[0].digest' "$BLOBS/${IMAGE#sha256:}" | cut -d: -f2)
cp "$BLOBS/$layer" "$WORK/layer"
flip "$BLOBS/$layer" 5000
failed 'layer'
cp "$WORK/layer" "$BLOBS/$layer"

say "the manifest is another one than its digest says"
cp "$BLOBS/${IMAGE#sha256:}" "$WORK/manifest"
jq -c '.annotations.x = "y"' "$WORK/manifest" >"$BLOBS/${IMAGE#sha256:}"
failed 'workload.image .*got sha256:'
cp "$WORK/manifest" "$BLOBS/${IMAGE#sha256:}"

say "what only a VM can have"
RESOURCES='scratch: 16MiB' failed 'spec.resources.scratch .*expected a VM to have it in'
RESOURCES='hugepages: 2MiB' failed 'spec.resources.hugepages .*got a process of the host'

say "with everything as it was, it runs"
run_job 0 "$WORK/out-good"
stop_dev
assert_no_restarts

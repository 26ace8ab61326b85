# A Node program that knows only the .proto files submits a signed job, follows its events and checks
# the gate's decision (examples/external-scheduler).
. "$(dirname "$0")/lib.sh"

for tool in node npm; do
    command -v $tool >/dev/null || fail "$tool is not installed"
done
EXAMPLE="$SOURCE/examples/external-scheduler"
HERE="$WORK/external scheduler"
mkdir -p "$HERE"
cp "$EXAMPLE"/*.js "$EXAMPLE"/*.json "$HERE"
# What was fetched once for this lock file is kept in the build directory.
NODE_CACHE="$COFFER_BUILD/tests/npm-cache"
(cd "$HERE" && npm ci --prefer-offline --fetch-retries=1 --fetch-timeout=20000 --ignore-scripts --no-audit --no-fund --cache "$NODE_CACHE" \
    >"$WORK/npm.log" 2>&1) || {
    cat "$WORK/npm.log" >&2
    # Two packages come from the npm registry. Without a way there (no network, or a network whose
    # certificates this machine does not trust) there is nothing to test; anything else is a failure.
    # COFFER_REQUIRE_NPM=1 makes it one in any case.
    if [ -z "${COFFER_REQUIRE_NPM:-}" ] &&
        grep -qE 'ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|CERT' "$WORK/npm.log"; then
        say "SKIPPED: the npm registry cannot be reached from here, so the Node example was not run"
        exit 77
    fi
    fail "npm ci"
}

start_dev
set_up
set_up_admissions
submit() {
    node "$HERE/submit.js" --proto "$SOURCE/proto/coffer.proto" --key "$CONSUMER" "$@"
}

say "a job that is released"
status=0
submit --image "$IMAGE" --image-key "$IMAGE_KEY" --dataset "$DATASET=/data/admissions" \
    >"$WORK/out.txt" || status=$?
cat "$WORK/out.txt"
[ "$status" -eq 0 ] || fail "submit.js ended with $status, expected 0"
for text in ' accepted' ' queued' ' running' ' released' 'decision released, score ' \
    'signature verified' 'by-group.csv text/csv'; do
    grep -qF "$text" "$WORK/out.txt" || fail "its output lacks \"$text\""
done

say "a job that is refused"
status=0
COFFER_KEY=$OWNER coffer dataset revoke "$GRANT" >/dev/null
submit --image "$IMAGE" --image-key "$IMAGE_KEY" --dataset "$DATASET=/data/admissions" \
    >"$WORK/out.txt" || status=$?
[ "$status" -eq 5 ] || fail "submit.js ended with $status for a revoked grant, expected 5"
grep -q 'refused:.*revoke' "$WORK/out.txt" || {
    cat "$WORK/out.txt" >&2
    fail "the refusal does not name the revoked grant"
}
stop_dev
assert_no_restarts

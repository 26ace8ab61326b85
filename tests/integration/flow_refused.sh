# Whom the KBS refuses, with the clause, what it expects and what came (DESIGN §1.8); exit 5.
. "$(dirname "$0")/lib.sh"

start_dev
set_up

refused() { # CLAUSE
    run_job 5 "$WORK/out-$RANDOM"
    [ "$(jq -r .state "$RUN_JSON")" = refused ] || {
        cat "$RUN_JSON" >&2
        fail "the state is not refused"
    }
    assert_clause "$JOB" "$1"
    jq -e '.reason.by == "kbs" and .reason.expected != "" and .reason.actual != ""' \
        "$WORK/explain.json" >/dev/null || {
        jq 'del(.events)' "$WORK/explain.json" >&2
        fail "explain lacks who refused, what was expected, or what came"
    }
    assert_events "$JOB"
}

say "no grant at all"
DATASET=$(seal "$CACHE/admissions.csv")
FILE="$WORK/admissions.csv.coffer"
OTHER="sha256:$(printf other | sha256sum | cut -d' ' -f1)"
id=$(grant "$FILE" --valid 1s)
say "an expired grant"
sleep 2
refused grant.exp

say "a revoked grant"
id=$(grant "$FILE")
COFFER_KEY=$OWNER coffer dataset revoke "$id" >/dev/null
COFFER_KEY=$OWNER coffer dataset ls --json | jq -e --arg g "$id" \
    '[.. | objects | select(.id? == $g and .state? == "revoked")] | length == 1' >/dev/null ||
    fail "dataset ls does not show the grant as revoked"
refused grant.revoked

say "an image that no grant covers"
IMAGE_SAVED=$IMAGE
IMAGE=$OTHER grant "$FILE" >/dev/null
refused grant.images

say "another consumer"
COFFER_KEY=$OWNER coffer dataset grant "$FILE" --consumer "$XDG_CONFIG_HOME/stranger.jwk.pub" \
    --image "$IMAGE_SAVED" --tee-types sample >/dev/null 2>&1
DATASET2=$(seal "$CACHE/admissions.csv" second)
SECOND="$WORK/admissions.csv.coffer"
COFFER_KEY=$OWNER coffer dataset grant "$SECOND" --consumer "$XDG_CONFIG_HOME/stranger.jwk.pub" \
    --image "$IMAGE_SAVED" --tee-types sample >/dev/null 2>&1
DATASET=$DATASET2 refused grant.consumers

say "hardware only: what sample evidence gets is not enough"
DATASET=$(seal "$CACHE/admissions.csv" third)
COFFER_KEY=$OWNER coffer dataset grant "$SECOND" --consumer "$CONSUMER.pub" --image "$IMAGE" \
    --tee-types tdx,snp >/dev/null 2>&1
refused grant.tee.types

say "a laxer gate than the owner signed"
DATASET=$(seal "$CACHE/admissions.csv" fourth)
grant "$SECOND" --hold-at 10 --reject-at 20 >/dev/null
refused grant.gate.holdAt
grant "$SECOND" --max-bytes 1KiB >/dev/null
refused grant.gate.maxBytes

say "a recipient that the owner does not know"
DATASET=$(seal "$CACHE/admissions.csv" fifth)
grant "$SECOND" --recipient "$OWNER.pub" >/dev/null
refused grant.recipients

say "a dataset that nobody registered"
DATASET="nothing.$(printf 'a%.0s' $(seq 26))" refused secret

say "the image key of another, without a grant"
DATASET=$(seal "$CACHE/admissions.csv" sixth)
STRANGER_PUB="$XDG_CONFIG_HOME/stranger.jwk.pub"
COFFER_KEY=$OWNER coffer dataset grant "$SECOND" --consumer "$STRANGER_PUB" --image "$IMAGE" \
    --tee-types sample >/dev/null 2>&1
COFFER_KEY=$XDG_CONFIG_HOME/stranger.jwk refused grant

say "a grant by somebody who is not the owner is not taken"
status=0
coffer dataset grant "$DATASET" --consumer "$CONSUMER.pub" --image "$IMAGE" --tee-types sample \
    --key "$XDG_CONFIG_HOME/stranger.jwk" 2>"$WORK/err" || status=$?
[ "$status" -eq 5 ] || fail "a stranger's grant ended with $status, expected 5"
grep -qi 'owner' "$WORK/err" || fail "its message: $(cat "$WORK/err")"

say "and with the right grant it runs"
grant "$SECOND" >/dev/null
run_job 0 "$WORK/out-good"
stop_dev
assert_no_restarts

/* Results as they come in, wrong in every way there is a refusal for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "svc-gate/gate_fixture.h"

static const char csv[] = "name,count\nalpha,1\nbeta,2\n";
#define CSV BYTES(csv, sizeof(csv) - 1)

static struct fixture *F;
static struct job_case job;
#define JOB (job.spec->job_id)

static int setup(void **state)
{
    (void)state;
    F = xcalloc(1, sizeof(*F));
    fixture_init(F);
    job = fixture_job(F, JOB_OPTS());
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    job_case_done(&job);
    fixture_done(F);
    free(F);
    return 0;
}

static void expect_refusal(enum err_code code, const char *clause, const char *expected,
                           const char *actual)
{
    if (F->why.code != code || !streq(F->why.clause, clause)) {
        fail_msg("wanted %s of %s, got %s of \"%s\": %s", err_code_name(code), clause,
                 err_code_name(F->why.code), F->why.clause, F->why.msg);
    }
    if (expected && !strstr(F->why.expected, expected)) {
        fail_msg("%s: expected \"%s\" lacks \"%s\"", clause, F->why.expected, expected);
    }
    if (actual && !strstr(F->why.actual, actual)) {
        fail_msg("%s: actual \"%s\" lacks \"%s\"", clause, F->why.actual, actual);
    }
    assert_int_equal(F->n_decisions, 0);
}

static void expect_decision(Coffer__V1__GateOutcome outcome, const char *clause)
{
    if (F->n_decisions != 1) {
        fail_msg("%zu decisions, last error: %s", F->n_decisions, F->why.msg);
    }
    const Coffer__V1__GateDecision *d = F->decisions[0];
    if (d->outcome != outcome) {
        fail_msg("outcome %d, reason %s", (int)d->outcome, d->reason ? d->reason->message : "none");
    }
    if (clause) {
        assert_non_null(d->reason);
        assert_string_equal(d->reason->clause, clause);
    } else {
        assert_null(d->reason);
    }
}

static void send_all(struct result_opts o)
{
    o.attempt = o.attempt ? o.attempt : 1;
    struct worker_sealed w = fixture_result(F, &job, o);

    fixture_send_manifest(F, JOB, o.attempt, w.manifest_jws);
    fixture_send_chunks(F, JOB, o.attempt, &w);
    worker_sealed_done(&w);
}

static void release_and_send(struct result_opts o)
{
    fixture_release(F, JOB, o.attempt ? o.attempt : 1, F->tee);
    assert_int_equal(F->why.code, ERR_NONE);
    send_all(o);
}

/* ---- the good way ---------------------------------------------------------------------------- */

static json_t *decision_claims(size_t i)
{
    _cleanup_buf_ struct buf payload = BUF_INIT(65536);
    json_t *j = NULL;

    OK(jws_verify(F->decisions[i]->decision_jws, F->gate_sign, "coffer-decision+jws", 65536,
                  &payload, e));
    OK(json_parse("decision", buf_bytes(&payload), 65536, &j, e));
    return j;
}

static void fetch(uint64_t offset)
{
    Coffer__V1__FetchResult q = COFFER__V1__FETCH_RESULT__INIT;

    q.job = JOB;
    q.offset = offset;
    fixture_send(F, SUBJ_RESULT_FETCH, "", &q.base);
}

/* As a recipient: fetches, opens, and checks against the signed decision. */
static void expect_fetched(struct bytes content, const json_t *claims)
{
    fetch(0);
    assert_non_null(F->reply);
    assert_int_equal(F->reply->body_case, COFFER__V1__REPLY__BODY_FETCH);
    _cleanup_json_ json_t *h = json_loads(F->reply->fetch->header_json, 0, NULL);
    const json_t *jwe = json_object_get(json_object_get(h, "keys"), jkey_thumbprint(F->recipient));
    _cleanup_free_ char *text = json_dumps(jwe, JSON_COMPACT);
    _cleanup_secret_ struct secret *key = NULL;
    _cleanup_area_ struct area *plain = NULL;
    _cleanup_buf_ struct buf sealed = BUF_INIT(1 << 24);
    char hmac[65];

    uint64_t total = F->reply->fetch->total_bytes;
    while (sealed.n < total) {
        fetch(sealed.n);
        assert_true(F->reply->fetch->data.len > 0 && F->reply->fetch->data.len <= 512 * 1024);
        OK(buf_add(&sealed, F->reply->fetch->data.data, F->reply->fetch->data.len, e));
    }
    OK(jwe_decrypt(F->recipient, text, 65536, &key, e));
    OK(result_open(buf_bytes(&sealed), key, &plain, e));
    assert_int_equal(plain->n, content.n);
    assert_memory_equal(plain->p, content.p, content.n);
    OK(result_file_hmac(key, content, hmac, e));
    const json_t *file = json_array_get(json_object_get(claims, "files"), 0);
    assert_string_equal(json_string_value(json_object_get(file, "hmac")), hmac);
}

static void test_released(void **state)
{
    (void)state;
    release_and_send(RESULT_OPTS(.content = CSV));
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_RELEASED, NULL);
    _cleanup_json_ json_t *claims = decision_claims(0);
    assert_string_equal(json_string_value(json_object_get(claims, "outcome")), "released");
    assert_string_equal(json_string_value(json_object_get(claims, "consumer")),
                        jkey_thumbprint(F->consumer));
    assert_true(json_is_null(json_object_get(claims, "reviewer")));
    expect_fetched(CSV, claims);
    fetch(1 << 30);
    assert_int_equal(F->why.code, ERR_INVALID);
    assert_string_equal(F->why.clause, "offset");
}

static void test_large_any_order(void **state)
{
    size_t n = 900 * 1024;
    _cleanup_free_ char *text = xmalloc(n);
    (void)state;
    for (size_t i = 0; i < n; i++) {
        text[i] = i % 10 == 9 ? '\n' : (char)('a' + (i * 7 + i / 10) % 26);
    }
    job_case_done(&job);
    job = fixture_job(F, JOB_OPTS(.hold_at = 90, .reject_at = 100));
    struct worker_sealed w = fixture_result(F, &job, RESULT_OPTS(.content = BYTES(text, n)));
    /* Pieces first, backwards and twice; then the manifest; then the release. */
    for (uint32_t i = 4; i-- > 0;) {
        fixture_send_chunk(F, JOB, 1, i, fixture_chunk(&w, i));
        fixture_send_chunk(F, JOB, 1, i, fixture_chunk(&w, i));
        assert_int_equal(F->why.code, ERR_NONE);
    }
    fixture_send_manifest(F, JOB, 1, w.manifest_jws);
    assert_int_equal(F->why.code, ERR_NONE);
    assert_int_equal(F->n_decisions, 0);
    fixture_release(F, JOB, 1, F->tee);
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_RELEASED, NULL);
    _cleanup_json_ json_t *claims = decision_claims(0);
    expect_fetched(BYTES(text, n), claims);
    worker_sealed_done(&w);
}

static void test_duplicate_manifest(void **state)
{
    (void)state;
    struct worker_sealed w = fixture_result(F, &job, RESULT_OPTS(.content = CSV));
    struct worker_sealed other = fixture_result(F, &job, RESULT_OPTS(.content = CSV));
    fixture_release(F, JOB, 1, F->tee);
    fixture_send_manifest(F, JOB, 1, w.manifest_jws);
    fixture_send_manifest(F, JOB, 1, w.manifest_jws);
    assert_int_equal(F->why.code, ERR_NONE);
    fixture_send_manifest(F, JOB, 1, other.manifest_jws);
    expect_refusal(ERR_REPLAY, "result.manifest", "one manifest", "collecting");
    fixture_send_chunks(F, JOB, 1, &w);
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_RELEASED, NULL);
    /* Once more, all of it: nothing happens. */
    fixture_send_manifest(F, JOB, 1, w.manifest_jws);
    fixture_send_chunks(F, JOB, 1, &w);
    assert_int_equal(F->why.code, ERR_NONE);
    assert_int_equal(F->n_decisions, 1);
    worker_sealed_done(&w);
    worker_sealed_done(&other);
}

/* ---- forgeries ------------------------------------------------------------------------------- */

static void test_forged_manifest(void **state)
{
    (void)state;
    fixture_release(F, JOB, 1, F->tee);
    /* A stranger signs over the EAR of the real TEE. */
    struct worker_sealed w = fixture_result(F, &job, RESULT_OPTS(.content = CSV));
    _cleanup_buf_ struct buf payload = BUF_INIT(RESULT_MANIFEST_MAX_BYTES);
    _cleanup_free_ char *jws = NULL;
    OK(result_manifest_peek(w.manifest_jws, &payload, e));
    OK(jws_sign(F->stranger, RESULT_MANIFEST_TYP, 0, buf_bytes(&payload), &jws, e));
    fixture_send_manifest(F, JOB, 1, jws);
    expect_refusal(ERR_BAD_SIGNATURE, "result.manifest.signature", "EAR's cnf", NULL);
    assert_int_equal(F->n_dead, 1);
    worker_sealed_done(&w);
    /* The real one still passes. */
    send_all(RESULT_OPTS(.content = CSV));
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_RELEASED, NULL);
}

static void test_ear_by_a_stranger(void **state)
{
    (void)state;
    fixture_release(F, JOB, 1, F->tee);
    struct worker_sealed w =
        fixture_result(F, &job, RESULT_OPTS(.content = CSV, .verifier = F->stranger));
    fixture_send_manifest(F, JOB, 1, w.manifest_jws);
    assert_int_equal(F->why.code, ERR_BAD_SIGNATURE);
    assert_non_null(strstr(F->why.msg, "result.ear"));
    assert_int_equal(F->n_decisions, 0);
    worker_sealed_done(&w);
}

/* An EAR of the verifier for another key: it was appraised, but got no keys. */
static void test_tee_without_keys(void **state)
{
    (void)state;
    fixture_release(F, JOB, 1, F->tee);
    struct worker_sealed w =
        fixture_result(F, &job, RESULT_OPTS(.content = CSV, .tee = F->stranger));
    fixture_send_manifest(F, JOB, 1, w.manifest_jws);
    expect_refusal(ERR_DENIED, "result.cnf", jkey_thumbprint(F->tee), jkey_thumbprint(F->stranger));
    worker_sealed_done(&w);
}

static void test_wrong_job(void **state)
{
    (void)state;
    struct job_case other = fixture_job(F, JOB_OPTS(.nonce = "fedcba9876543210"));
    struct worker_sealed w = fixture_result(F, &other, RESULT_OPTS(.content = CSV));
    fixture_release(F, JOB, 1, F->tee);
    fixture_send_manifest(F, JOB, 1, w.manifest_jws);
    expect_refusal(ERR_DENIED, "result.job", JOB, other.spec->job_id);
    fixture_send_manifest(F, other.spec->job_id, 2, w.manifest_jws);
    expect_refusal(ERR_DENIED, "result.attempt", "2", "1");
    worker_sealed_done(&w);
    job_case_done(&other);
}

static void test_release_by_a_stranger(void **state)
{
    Coffer__V1__ReleaseKey r = COFFER__V1__RELEASE_KEY__INIT;
    (void)state;
    _cleanup_free_ char *jws = fixture_release_jws(F, F->stranger, JOB, 2, F->stranger);
    char jwe[] = "{}";
    r.job = JOB;
    r.attempt = 2;
    r.jwe = jwe;
    r.release_jws = jws;
    fixture_send(F, SUBJ_KEY_RELEASE, JOB, &r.base);
    expect_refusal(ERR_BAD_SIGNATURE, "kbs.signature", NULL, NULL);
    /* It has fenced nothing. */
    release_and_send(RESULT_OPTS(.content = CSV));
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_RELEASED, NULL);
}

static void test_second_release(void **state)
{
    (void)state;
    fixture_release(F, JOB, 1, F->tee);
    fixture_release(F, JOB, 1, F->tee);
    assert_int_equal(F->why.code, ERR_NONE);
    fixture_release(F, JOB, 1, F->stranger);
    expect_refusal(ERR_REPLAY, "release.cnf", jkey_thumbprint(F->tee),
                   jkey_thumbprint(F->stranger));
}

/* Whoever has a worker's bus credentials can send pieces for any job. */
static void test_forged_chunks_first(void **state)
{
    (void)state;
    uint8_t junk[1000] = {0};
    struct worker_sealed w = fixture_result(F, &job, RESULT_OPTS(.content = CSV));
    for (uint8_t i = 0; i < 4; i++) {
        junk[0] = i;
        fixture_send_chunk(F, JOB, 1, 0, BYTES(junk, sizeof(junk)));
        assert_int_equal(F->why.code, ERR_NONE);
    }
    /* The real one comes fifth: not taken, not lost. */
    fixture_send_chunk(F, JOB, 1, 0, fixture_chunk(&w, 0));
    expect_refusal(ERR_BUSY, "result.chunk.versions", "at most 4", "4 and this one");
    assert_int_equal(F->disp, DISP_NAK);
    fixture_release(F, JOB, 1, F->tee);
    fixture_send_manifest(F, JOB, 1, w.manifest_jws);
    junk[0] = 9;
    fixture_send_chunk(F, JOB, 1, 0, BYTES(junk, fixture_chunk(&w, 0).n));
    expect_refusal(ERR_DENIED, "result.chunk.sha256", NULL, "for chunk 0");
    fixture_send_chunk(F, JOB, 1, 0, fixture_chunk(&w, 0));
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_RELEASED, NULL);
    worker_sealed_done(&w);
}

static void test_unproven_bounds(void **state)
{
    (void)state;
    uint8_t junk[RESULT_CHUNK_BYTES] = {0};
    char other[JOB_ID_LEN + 1];
    int refused = 0;

    /* One attempt may fill its own allowance, and then no more. */
    for (uint32_t i = 0; i < 400 && !refused; i++) {
        fixture_send_chunk(F, JOB, 1, i, BYTES(junk, sizeof(junk)));
        refused = F->why.code != ERR_NONE;
    }
    expect_refusal(ERR_BUSY, "result.chunk.unproven", "76546048", NULL);
    /* Many attempts together are bounded too. */
    memcpy(other, JOB, sizeof(other));
    refused = 0;
    for (uint32_t i = 0; i < 1200 && !refused; i++) {
        other[1] = (char)('a' + i / 250);
        fixture_send_chunk(F, other, 2, i % 250, BYTES(junk, sizeof(junk)));
        refused = F->why.code != ERR_NONE;
    }
    expect_refusal(ERR_BUSY, "gate.unproven-max-bytes", "268435456", NULL);
    fixture_send_chunk(F, JOB, 3, 5000, BYTES(junk, 1));
    expect_refusal(ERR_TOO_LARGE, "result.chunk.index", "below 4096", "5000");
    /* They go away by themselves. */
    for (int i = 0; i < 100; i++) {
        fixture_tick(F, FIXTURE_NOW_MS + 600001);
    }
    fixture_send_chunk(F, JOB, 1, 0, BYTES(junk, sizeof(junk)));
    assert_int_equal(F->why.code, ERR_NONE);
}

/* ---- pieces ---------------------------------------------------------------------------------- */

static void test_pieces(void **state)
{
    size_t n = 600 * 1024;
    _cleanup_free_ char *text = xmalloc(n);
    (void)state;
    memset(text, 'x', n);
    fixture_release(F, JOB, 1, F->tee);
    struct worker_sealed w = fixture_result(F, &job, RESULT_OPTS(.content = BYTES(text, n)));
    fixture_send_manifest(F, JOB, 1, w.manifest_jws);
    fixture_send_chunk(F, JOB, 1, 1, fixture_chunk(&w, 0));
    expect_refusal(ERR_DENIED, "result.chunk.sha256", NULL, "for chunk 1"); /* swapped */
    fixture_send_chunk(F, JOB, 1, 3, fixture_chunk(&w, 2));
    expect_refusal(ERR_INVALID, "result.chunk.index", "below 3", "3"); /* extra */
    fixture_send_chunk(F, JOB, 1, 2, fixture_chunk(&w, 1));
    expect_refusal(ERR_INVALID, "result.chunk.bytes", "for chunk 2", "262144");
    fixture_send_chunk(F, JOB, 1, 0, fixture_chunk(&w, 0));
    fixture_send_chunk(F, JOB, 1, 2, fixture_chunk(&w, 2));
    assert_int_equal(F->why.code, ERR_NONE);
    assert_int_equal(F->n_decisions, 0); /* one is missing */
    fixture_tick(F, FIXTURE_NOW_MS + 600001);
    assert_int_equal(F->n_decisions, 0); /* and dropped */
    /* It can be sent again. */
    fixture_send_manifest(F, JOB, 1, w.manifest_jws);
    fixture_send_chunks(F, JOB, 1, &w);
    assert_int_equal(F->n_decisions, 1);
    worker_sealed_done(&w);
}

/* The TEE itself says something wrong about its stream. */
static void test_sha_mismatch(void **state)
{
    (void)state;
    fixture_release(F, JOB, 1, F->tee);
    struct worker_sealed w = fixture_result(F, &job, RESULT_OPTS(.content = CSV));
    _cleanup_buf_ struct buf payload = BUF_INIT(RESULT_MANIFEST_MAX_BYTES);
    _cleanup_json_ json_t *m = NULL;
    _cleanup_free_ char *jws = NULL, *few = NULL;
    OK(result_manifest_peek(w.manifest_jws, &payload, e));
    OK(json_parse("m", buf_bytes(&payload), RESULT_MANIFEST_MAX_BYTES, &m, e));
    json_object_set_new(m, "chunks", json_integer(2));
    OK(jws_sign_json(F->tee, RESULT_MANIFEST_TYP, 0, m, &few, e));
    fixture_send_manifest(F, JOB, 1, few);
    expect_refusal(ERR_INVALID, "result.chunks", "1 for", "2");
    json_object_set_new(m, "chunks", json_integer(1));
    json_object_set_new(
        m, "sha256",
        json_string("0000000000000000000000000000000000000000000000000000000000000000"));
    OK(jws_sign_json(F->tee, RESULT_MANIFEST_TYP, 0, m, &jws, e));
    fixture_send_manifest(F, JOB, 1, jws);
    fixture_send_chunks(F, JOB, 1, &w);
    expect_refusal(ERR_DENIED, "result.sha256", "00000000", NULL);
    worker_sealed_done(&w);
}

static void test_result_too_large(void **state)
{
    (void)state;
    fixture_release(F, JOB, 1, F->tee);
    struct worker_sealed w = fixture_result(F, &job, RESULT_OPTS(.content = CSV));
    _cleanup_buf_ struct buf payload = BUF_INIT(RESULT_MANIFEST_MAX_BYTES);
    _cleanup_json_ json_t *m = NULL;
    _cleanup_free_ char *jws = NULL;
    OK(result_manifest_peek(w.manifest_jws, &payload, e));
    OK(json_parse("m", buf_bytes(&payload), RESULT_MANIFEST_MAX_BYTES, &m, e));
    json_object_set_new(m, "bytes", json_integer(76546049));
    OK(jws_sign_json(F->tee, RESULT_MANIFEST_TYP, 0, m, &jws, e));
    fixture_send_manifest(F, JOB, 1, jws);
    expect_refusal(ERR_TOO_LARGE, "result.bytes", "at most 76546048", "76546049");
    worker_sealed_done(&w);
}

static void test_box_for_another(void **state)
{
    (void)state;
    release_and_send(RESULT_OPTS(.content = CSV, .gate_seal = F->stranger));
    assert_int_equal(F->why.code, ERR_BAD_SIGNATURE);
    assert_non_null(strstr(F->why.msg, "result.box"));
    assert_int_equal(F->n_decisions, 0);
}

/* Somebody with a CVM of his own puts another job's box and chunks, which the bus showed him, into
 * the manifest of his own job. */
static void test_box_of_another_job(void **state)
{
    struct job_case thief = fixture_job(F, JOB_OPTS(.nonce = "a-nonce-of-the-thief"));
    struct worker_sealed victim = fixture_result(F, &job, RESULT_OPTS(.content = CSV));
    struct worker_sealed own =
        fixture_result(F, &thief, RESULT_OPTS(.content = CSV, .tee = F->stranger));
    _cleanup_buf_ struct buf theirs = BUF_INIT(RESULT_MANIFEST_MAX_BYTES),
                             mine = BUF_INIT(RESULT_MANIFEST_MAX_BYTES);
    _cleanup_json_ json_t *from = NULL, *to = NULL;
    _cleanup_free_ char *jws = NULL;
    static const char *const moved[] = {"box", "chunks", "bytes", "sha256", "chunk_sha256"};

    (void)state;
    OK(result_manifest_peek(victim.manifest_jws, &theirs, e));
    OK(result_manifest_peek(own.manifest_jws, &mine, e));
    OK(json_parse("m", buf_bytes(&theirs), RESULT_MANIFEST_MAX_BYTES, &from, e));
    OK(json_parse("m", buf_bytes(&mine), RESULT_MANIFEST_MAX_BYTES, &to, e));
    for (size_t i = 0; i < ARRAY_LEN(moved); i++) {
        json_object_set(to, moved[i], json_object_get(from, moved[i]));
    }
    OK(jws_sign_json(F->stranger, RESULT_MANIFEST_TYP, 0, to, &jws, e));
    fixture_release(F, thief.spec->job_id, 1, F->stranger);
    fixture_send_manifest(F, thief.spec->job_id, 1, jws);
    fixture_send_chunks(F, thief.spec->job_id, 1, &victim);
    expect_refusal(ERR_DENIED, "box.job", thief.spec->job_id, JOB);
    assert_int_equal(F->n_decisions, 0);
    worker_sealed_done(&victim);
    worker_sealed_done(&own);
    job_case_done(&thief);
}

/* ---- attempts -------------------------------------------------------------------------------- */

static void test_old_attempt(void **state)
{
    (void)state;
    fixture_release(F, JOB, 1, F->tee);
    fixture_release(F, JOB, 2, F->stranger);
    struct worker_sealed w = fixture_result(F, &job, RESULT_OPTS(.content = CSV));
    fixture_send_manifest(F, JOB, 1, w.manifest_jws);
    expect_refusal(ERR_STALE, "result.attempt", "2, the latest", "1");
    fixture_send_chunk(F, JOB, 1, 0, fixture_chunk(&w, 0));
    expect_refusal(ERR_STALE, "result.attempt", "2, the latest", "1");
    worker_sealed_done(&w);
    send_all(RESULT_OPTS(.content = CSV, .attempt = 2, .tee = F->stranger));
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_RELEASED, NULL);
    assert_int_equal(F->decisions[0]->attempt, 2);
}

static void test_attempt_beyond_spec(void **state)
{
    (void)state;
    fixture_release(F, JOB, 4, F->tee);
    struct worker_sealed w = fixture_result(F, &job, RESULT_OPTS(.content = CSV, .attempt = 4));
    fixture_send_manifest(F, JOB, 4, w.manifest_jws);
    expect_refusal(ERR_DENIED, "result.attempt", "at most 3", "4");
    worker_sealed_done(&w);
}

/* ---- inspection ------------------------------------------------------------------------------ */

static void test_undeclared_size(void **state)
{
    (void)state;
    release_and_send(RESULT_OPTS(.content = CSV, .claim_bytes = 5));
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_REJECTED, "output.bytes");
    assert_string_equal(F->decisions[0]->reason->expected, "5 bytes, what the files add up to");
    assert_string_equal(F->decisions[0]->reason->actual, "26");
    fetch(0);
    assert_int_equal(F->why.code, ERR_WRONG_STATE);
    assert_string_equal(F->why.clause, "result.state");
    assert_string_equal(F->why.actual, "rejected");
}

static void test_undeclared_file(void **state)
{
    (void)state;
    release_and_send(RESULT_OPTS(.content = CSV, .as_path = "secrets.csv"));
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_REJECTED, "output.files[0]");
    assert_string_equal(F->decisions[0]->reason->actual, "secrets.csv as text/csv");
}

static void test_wrong_type(void **state)
{
    (void)state;
    release_and_send(RESULT_OPTS(.content = BYTES_STR("a,b\n1,2,3\n")));
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_REJECTED, "output.files[0].type");
    assert_string_equal(F->decisions[0]->reason->expected,
                        "text/csv: the same number of columns in every row");
    assert_string_equal(F->decisions[0]->reason->actual, "more columns, from row 2 on");
}

static void test_over_max_bytes(void **state)
{
    (void)state;
    job_case_done(&job);
    job = fixture_job(F, JOB_OPTS(.max_bytes = 20));
    release_and_send(RESULT_OPTS(.content = CSV));
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_REJECTED, "output.maxBytes");
    assert_string_equal(F->decisions[0]->reason->expected, "at most 20");
    assert_string_equal(F->decisions[0]->reason->actual, "26");
}

static void test_failed_workload(void **state)
{
    struct err why = {0};
    (void)state;
    err_refuse(&why, ERR_WORKLOAD, "workload.exit", "exit code 0", "exit code %d", 7);
    release_and_send(RESULT_OPTS(.refusal = &why));
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_FAILED, "workload.exit");
    assert_string_equal(F->decisions[0]->reason->actual, "exit code 7");
    assert_string_equal(F->decisions[0]->reason->by, "worker");
}

/* All of the output is input. */
static void send_verbatim(uint32_t attempt)
{
    static const char line[] = "0123456789abcde\n";
    struct fp_hasher h;
    struct result_opts o =
        RESULT_OPTS(.attempt = attempt, .content = BYTES(line, 16), .fp_count = 1, .fp_total = 1);
    uint64_t fp;

    random_bytes(o.fp_salt, sizeof(o.fp_salt));
    OK(fp_hasher_init(&h, o.fp_salt, e));
    OK(fp_hash(&h, (const uint8_t *)line, &fp, e));
    fp_hasher_done(&h);
    o.fingerprints = BYTES(&fp, sizeof(fp));
    release_and_send(o);
}

static void test_verbatim_rejected(void **state)
{
    (void)state;
    send_verbatim(1);
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_REJECTED, "gate.rejectAt");
    assert_int_equal(F->decisions[0]->score, 100);
    assert_int_equal(F->decisions[0]->n_reasons, 1);
    assert_string_equal(F->decisions[0]->reasons[0],
                        "+100 verbatim: 100.0 % of the output's blocks stand in the input word for "
                        "word, the limit is 10 %");
}

/* ---- review ---------------------------------------------------------------------------------- */

static void hold_one(void)
{
    job_case_done(&job);
    job = fixture_job(F, JOB_OPTS(.hold_at = 50, .reject_at = 101));
    send_verbatim(1);
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_HELD, "gate.holdAt");
    fetch(0);
    assert_string_equal(F->why.actual, "held");
    fixture_clear(F);
}

static void review(const struct jkey *by, const char *verb, int64_t iat)
{
    Coffer__V1__ReviewRequest q = COFFER__V1__REVIEW_REQUEST__INIT;
    _cleanup_free_ char *jws = NULL;
    _cleanup_json_ json_t *j =
        json_pack("{s:i,s:s,s:i,s:s,s:s,s:I}", "v", 1, "job", JOB, "attempt", 1, "verb", verb,
                  "reason", "looks fine", "iat", (json_int_t)iat);
    OK(jws_sign_json(by, "coffer-review+jws", 0, j, &jws, e));
    q.what_case = COFFER__V1__REVIEW_REQUEST__WHAT_REVIEW_JWS;
    q.review_jws = jws;
    fixture_send(F, SUBJ_GATE_REVIEW, "", &q.base);
}

#define NOW_S (FIXTURE_NOW_MS / 1000)

static void test_review_approve(void **state)
{
    Coffer__V1__ReviewRequest q = COFFER__V1__REVIEW_REQUEST__INIT;
    (void)state;
    hold_one();
    q.what_case = COFFER__V1__REVIEW_REQUEST__WHAT_LIST;
    q.list = 1;
    fixture_send(F, SUBJ_GATE_REVIEW, "", &q.base);
    assert_int_equal(F->reply->review->n_held, 1);
    assert_string_equal(F->reply->review->held[0]->job, JOB);
    assert_int_equal(F->reply->review->held[0]->files[0]->bytes, 16);
    assert_int_equal(F->reply->review->held[0]->expires_ms, FIXTURE_NOW_MS + 604800000);
    review(F->reviewer, "approve", NOW_S);
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_RELEASED, NULL);
    assert_int_equal(F->decisions[0]->revision, 2);
    _cleanup_json_ json_t *claims = decision_claims(0);
    assert_string_equal(json_string_value(json_object_get(claims, "reviewer")),
                        jkey_thumbprint(F->reviewer));
    expect_fetched(BYTES("0123456789abcde\n", 16), claims);
    fixture_clear(F);
    review(F->reviewer, "reject", NOW_S);
    expect_refusal(ERR_WRONG_STATE, "result.state", "held", "released");
    fixture_send(F, SUBJ_GATE_REVIEW, "", &q.base);
    assert_int_equal(F->reply->review->n_held, 0);
}

/* What is shown carries what the gate signed. Sizes of what is not released are coarse: 64 files
 * would else be a way to write 200 bytes past the gate. */
static void test_review_show(void **state)
{
    Coffer__V1__ReviewRequest q = COFFER__V1__REVIEW_REQUEST__INIT;
    (void)state;
    hold_one();
    q.what_case = COFFER__V1__REVIEW_REQUEST__WHAT_SHOW;
    q.show = JOB;
    fixture_send(F, SUBJ_GATE_REVIEW, "", &q.base);
    assert_int_equal(F->reply->review->n_held, 1);
    _cleanup_buf_ struct buf payload = BUF_INIT(65536);
    OK(jws_verify(F->reply->review->held[0]->decision_jws, F->gate_sign, "coffer-decision+jws",
                  65536, &payload, e));
}

static void test_review_sizes(void **state)
{
    Coffer__V1__ReviewRequest q = COFFER__V1__REVIEW_REQUEST__INIT;
    (void)state;
    release_and_send(RESULT_OPTS(.content = BYTES_STR("a,b\n1,2,3\n")));
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_REJECTED, "output.files[0].type");
    q.what_case = COFFER__V1__REVIEW_REQUEST__WHAT_SHOW;
    q.show = JOB;
    fixture_send(F, SUBJ_GATE_REVIEW, "", &q.base);
    assert_int_equal(F->reply->review->held[0]->files[0]->bytes, 16); /* 10, rounded up */
}

static void test_review_reject(void **state)
{
    (void)state;
    hold_one();
    review(F->reviewer, "reject", NOW_S);
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_REJECTED, "review");
    assert_string_equal(F->decisions[0]->reason->actual, "rejected: looks fine");
}

static void test_review_refused(void **state)
{
    Coffer__V1__ReviewRequest q = COFFER__V1__REVIEW_REQUEST__INIT;
    (void)state;
    hold_one();
    review(F->stranger, "approve", NOW_S);
    expect_refusal(ERR_BAD_SIGNATURE, "reviewer.signature", NULL, NULL);
    assert_int_equal(F->reply->body_case, COFFER__V1__REPLY__BODY_REFUSAL);
    review(F->reviewer, "approve", NOW_S - 301);
    expect_refusal(ERR_EXPIRED, "review.iat", "within 300 seconds", "-301");
    review(F->reviewer, "accept", NOW_S);
    expect_refusal(ERR_INVALID, "review.verb", "approve or reject", "accept");
    fixture_send(F, SUBJ_GATE_REVIEW, "", &q.base);
    expect_refusal(ERR_INVALID, "review", "list, show or review_jws", "none of them");
}

static void test_hold_timeout(void **state)
{
    (void)state;
    hold_one();
    fixture_tick(F, FIXTURE_NOW_MS + 604799999);
    assert_int_equal(F->n_decisions, 0);
    fixture_tick(F, FIXTURE_NOW_MS + 604800000);
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_REJECTED, "review");
    assert_string_equal(F->decisions[0]->reason->code, "timeout");
    assert_string_equal(F->decisions[0]->reason->actual, "none");
}

static void test_held_superseded(void **state)
{
    (void)state;
    hold_one();
    fixture_release(F, JOB, 2, F->stranger);
    /* Told, for those who still take the held attempt for the latest. */
    expect_decision(COFFER__V1__GATE_OUTCOME__GATE_REJECTED, "result.attempt");
    assert_int_equal(F->decisions[0]->attempt, 1);
    assert_int_equal(F->decisions[0]->revision, 2);
    fixture_clear(F);
    review(F->reviewer, "approve", NOW_S);
    expect_refusal(ERR_WRONG_STATE, "result.state", "held", "superseded");
}

static void test_record_expiry(void **state)
{
    (void)state;
    _cleanup_free_ char *old = fixture_release_jws(F, F->kbs, JOB, 1, F->tee);
    struct worker_sealed w = fixture_result(F, &job, RESULT_OPTS(.content = CSV));
    release_and_send(RESULT_OPTS(.content = CSV));
    fixture_clear(F);
    fixture_tick(F, FIXTURE_NOW_MS + 2592000000 + 1000);
    fixture_tick(F, F->now_ms);
    /* All is forgotten; a replay of everything leads nowhere. */
    Coffer__V1__ReleaseKey r = COFFER__V1__RELEASE_KEY__INIT;
    r.job = JOB;
    r.attempt = 1;
    r.release_jws = old;
    fixture_send(F, SUBJ_KEY_RELEASE, JOB, &r.base);
    expect_refusal(ERR_EXPIRED, "release.iat", NULL, "30 days");
    fixture_send_manifest(F, JOB, 1, w.manifest_jws);
    fixture_send_chunks(F, JOB, 1, &w);
    assert_int_equal(F->n_decisions, 0);
    worker_sealed_done(&w);
}

static void test_foreign_keys_refused(void **state)
{
    char path[128];
    struct engine *g = NULL;
    struct err why = {0};
    struct engine_opts o = {.db_path = ":memory:", .clock = fixture_clock, .clock_arg = F};
    (void)state;
    snprintf(path, sizeof(path), "%s/seal.jwk", F->dir);
    OK(jkey_write_private(path, F->stranger, e));
    o.config = F->config;
    assert_int_equal(engine_open(&gate_service, &o, &g, &why), -1);
    assert_string_equal(why.clause, "trust.gate_seal");
    assert_string_equal(why.actual, jkey_thumbprint(F->gate_seal));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_released),
        T(test_large_any_order),
        T(test_duplicate_manifest),
        T(test_forged_manifest),
        T(test_ear_by_a_stranger),
        T(test_tee_without_keys),
        T(test_wrong_job),
        T(test_release_by_a_stranger),
        T(test_second_release),
        T(test_forged_chunks_first),
        T(test_unproven_bounds),
        T(test_pieces),
        T(test_sha_mismatch),
        T(test_result_too_large),
        T(test_box_for_another),
        T(test_box_of_another_job),
        T(test_old_attempt),
        T(test_attempt_beyond_spec),
        T(test_undeclared_size),
        T(test_undeclared_file),
        T(test_wrong_type),
        T(test_over_max_bytes),
        T(test_failed_workload),
        T(test_verbatim_rejected),
        T(test_review_approve),
        T(test_review_reject),
        T(test_review_show),
        T(test_review_sizes),
        T(test_review_refused),
        T(test_hold_timeout),
        T(test_held_superseded),
        T(test_record_expiry),
        T(test_foreign_keys_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

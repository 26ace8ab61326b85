/* Every check of a key release, with the exact clause that a refusal names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "svc-kbs/kbs_testing.h"

static struct world w;

static int setup(void **state)
{
    (void)state;
    world_make(&w);
    MUST(world_open(&w, e));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    world_done(&w);
    return 0;
}

struct run {
    char job[JOB_ID_LEN + 1];
    char *spec;
};

static void run_done(struct run *r)
{
    free(r->spec);
}

/* `spec` is taken over. */
static struct run run_of(json_t *spec)
{
    struct run r;

    r.spec = t_spec_sign(spec, w.consumer, r.job);
    return r;
}

static struct run usual(void)
{
    return run_of(t_spec(&w, "0123456789abcdef"));
}

static void assert_refusal(const Coffer__V1__ReleaseKey *k, const char *code, const char *clause,
                           const char *expected, const char *actual)
{
    assert_non_null(k);
    assert_non_null(k->refusal);
    assert_string_equal(k->refusal->clause, clause);
    assert_string_equal(k->refusal->code, code);
    if (expected) {
        assert_string_equal(k->refusal->expected, expected);
    }
    if (actual) {
        assert_string_equal(k->refusal->actual, actual);
    }
    assert_string_equal(k->refusal->by, "kbs");
    assert_string_equal(k->jwe, "");
    assert_string_equal(k->release_jws, "");
    assert_non_null(strstr(k->refusal->message, clause));
}

/* Sends the usual verdict of attempt 1 and expects a refusal. */
static void expect(const struct run *r, const char *ear, const char *code, const char *clause,
                   const char *expected, const char *actual)
{
    Coffer__V1__ReleaseKey *k = world_verdict(&w, r->job, 1, ear, r->spec, NULL);

    assert_refusal(k, code, clause, expected, actual);
    coffer__v1__release_key__free_unpacked(k, NULL);
}

static char *usual_ear(const struct run *r, uint32_t attempt)
{
    return t_ear_sign(t_ear(&w, r->job, attempt, w.tee), w.verifier);
}

static void expect_usual(const struct run *r, const char *code, const char *clause,
                         const char *expected, const char *actual)
{
    _cleanup_free_ char *ear = usual_ear(r, 1);

    expect(r, ear, code, clause, expected, actual);
}

static json_t *open_release(const Coffer__V1__ReleaseKey *k, const struct jkey *tee)
{
    _cleanup_secret_ struct secret *plain = NULL;
    json_t *j = NULL;

    MUST(jwe_decrypt(tee, k->jwe, 1u << 18, &plain, e));
    MUST(json_parse("release", BYTES(secret_cp(plain), secret_n(plain)), 1u << 18, &j, e));
    _cleanup_free_ char *jcs = NULL;
    MUST(jcs_encode(j, &jcs, e));
    assert_int_equal(strlen(jcs), secret_n(plain)); /* it was in canonical form */
    assert_memory_equal(jcs, secret_cp(plain), secret_n(plain));
    return j;
}

static void test_release(void **state)
{
    (void)state;
    world_put_all(&w, NULL);
    _cleanup_(run_done) struct run r = usual();
    _cleanup_free_ char *ear = usual_ear(&r, 1);
    char id[128];
    Coffer__V1__ReleaseKey *k = world_verdict(&w, r.job, 1, ear, r.spec, id);

    assert_non_null(k);
    assert_null(k->refusal);
    assert_string_equal(k->job, r.job);
    assert_int_equal(k->attempt, 1);
    _cleanup_free_ char *want_id = xasprintf("%s.1.release.0", r.job);
    assert_string_equal(id, want_id);

    _cleanup_json_ json_t *j = open_release(k, w.tee);
    _cleanup_free_ char *key = b64url_encode(secret_cp(w.key), secret_n(w.key));
    _cleanup_json_ json_t *want =
        json_pack("{s:i,s:s,s:i,s:s,s:o,s:[{s:s,s:s,s:s}]}", "v", 1, "job", r.job, "attempt", 1,
                  "ear", ear, "gate", jkey_public_jwk(w.gate_seal), "keys", "id", w.dataset, "kind",
                  "dataset", "key", key);
    assert_true(json_equal(j, want));

    _cleanup_buf_ struct buf p = BUF_INIT(4096);
    _cleanup_json_ json_t *rel = NULL;
    MUST(jws_verify(k->release_jws, w.kbs.sign, RELEASE_JWS_TYP, 4096, &p, e));
    MUST(json_parse("rel", buf_bytes(&p), 4096, &rel, e));
    assert_string_equal(json_string_value(json_object_get(rel, "job")), r.job);
    assert_string_equal(json_string_value(json_object_get(rel, "cnf")), jkey_thumbprint(w.tee));
    assert_int_equal(json_integer_value(json_object_get(rel, "iat")), T_NOW_S);
    assert_int_equal(json_object_size(rel), 6);

    /* The same verdict again, even after its time: the same bytes under another message id. */
    w.now_ms += 400 * 1000;
    Coffer__V1__ReleaseKey *again = world_verdict(&w, r.job, 1, ear, r.spec, id);
    assert_non_null(again);
    assert_string_equal(again->jwe, k->jwe);
    assert_string_equal(again->release_jws, k->release_jws);
    assert_non_null(strstr(id, ".1.release.1"));
    coffer__v1__release_key__free_unpacked(again, NULL);

    /* After a restart too; and not for ever. */
    world_close(&w);
    MUST(world_open(&w, e));
    again = world_verdict(&w, r.job, 1, ear, r.spec, NULL);
    assert_string_equal(again->jwe, k->jwe);
    coffer__v1__release_key__free_unpacked(again, NULL);
    w.now_ms += RELEASE_KEEP_MS + 2000;
    MUST(engine_begin(w.g, e));
    MUST(engine_tick(w.g, e));
    MUST(engine_commit(w.g, e));
    expect(&r, ear, "replay", "verdict.jti", NULL, NULL);
    coffer__v1__release_key__free_unpacked(k, NULL);
}

static void test_refused_verdict_is_not_ours(void **state)
{
    (void)state;
    Coffer__V1__Verdict v = COFFER__V1__VERDICT__INIT;
    Coffer__V1__Refusal why = COFFER__V1__REFUSAL__INIT;
    uint8_t packed[512];
    _cleanup_(run_done) struct run r = usual();

    v.job = r.job;
    v.attempt = 1;
    v.refusal = &why;
    size_t n = coffer__v1__verdict__pack(&v, packed);
    _cleanup_(sent_done) struct sent s = world_send(&w, SUBJ_VERDICT, r.job, BYTES(packed, n));
    assert_int_equal(s.n, 0);
    assert_int_equal(s.why.code, ERR_NONE);
}

static void test_verdict_of_another_subject(void **state)
{
    (void)state;
    size_t n;
    _cleanup_(run_done) struct run r = usual();
    _cleanup_free_ uint8_t *p = t_verdict(r.job, 1, "x", r.spec, &n);
    _cleanup_(sent_done) struct sent s =
        world_send(&w, SUBJ_VERDICT, "jaaaaaaaaaaaaaaaaaaaaaaaaaa", BYTES(p, n));

    assert_int_equal(s.why.code, ERR_INVALID);
    assert_string_equal(s.why.clause, "verdict.job");
    _cleanup_free_ uint8_t *p0 = t_verdict(r.job, 0, "x", r.spec, &n);
    _cleanup_(sent_done) struct sent s0 = world_send(&w, SUBJ_VERDICT, r.job, BYTES(p0, n));
    assert_string_equal(s0.why.clause, "verdict.attempt");
}

static void test_verdict(void **state)
{
    (void)state;
    world_put_all(&w, NULL);
    _cleanup_(run_done) struct run r = usual();
    _cleanup_jkey_ struct jkey *stranger = NULL;
    char text[64], text2[96];

    MUST(jkey_generate(&stranger, e));
    _cleanup_free_ char *ear = t_ear_sign(t_ear(&w, r.job, 1, w.tee), stranger);
    _cleanup_free_ char *who = xasprintf("key %s", jkey_thumbprint(stranger));
    expect(&r, ear, "bad-signature", "verdict.signature",
           "a signature by a verifier key of the trust file", who);

    /* A trusted kid over another's signature. */
    _cleanup_free_ char *good = usual_ear(&r, 1);
    good[strlen(good) - 10] = good[strlen(good) - 10] == 'A' ? 'B' : 'A';
    expect(&r, good, "bad-signature", "verdict.signature", NULL, "one that does not");

    _cleanup_free_ char *other = t_ear_sign(t_ear(&w, r.job, 2, w.tee), w.verifier);
    expect(&r, other, "denied", "verdict.attempt", "1", "2");
    _cleanup_free_ char *other_job =
        t_ear_sign(t_ear(&w, "jaaaaaaaaaaaaaaaaaaaaaaaaaa", 1, w.tee), w.verifier);
    expect(&r, other_job, "denied", "verdict.job", r.job, "jaaaaaaaaaaaaaaaaaaaaaaaaaa");

    json_t *claims = t_ear(&w, r.job, 1, w.tee);
    json_object_set_new(claims, "eat_profile", json_string("other"));
    _cleanup_free_ char *profile = t_ear_sign(claims, w.verifier);
    expect(&r, profile, "invalid", "verdict", "an EAR as docs/PROTOCOL.md has it", NULL);
    expect(&r, "", "invalid", "verdict", NULL, NULL);

    _cleanup_free_ char *late = usual_ear(&r, 1);
    w.now_ms += 300 * 1000;
    snprintf(text, sizeof(text), "%d", T_NOW_S + 300);
    snprintf(text2, sizeof(text2), "later than %d (now)", T_NOW_S + 300);
    expect(&r, late, "expired", "verdict.exp", text2, text);
    w.now_ms -= 361 * 1000;
    expect(&r, late, "expired", "verdict.iat", NULL, NULL);
}

static void test_replayed_verdict(void **state)
{
    (void)state;
    world_put_all(&w, NULL);
    _cleanup_(run_done) struct run r = usual();
    _cleanup_free_ char *ear = usual_ear(&r, 1);
    Coffer__V1__ReleaseKey *k = world_verdict(&w, r.job, 1, ear, r.spec, NULL);
    assert_null(k->refusal);
    coffer__v1__release_key__free_unpacked(k, NULL);

    /* The verdict of attempt 1 for attempt 2. */
    k = world_verdict(&w, r.job, 2, ear, r.spec, NULL);
    assert_refusal(k, "denied", "verdict.attempt", "2", "1");
    coffer__v1__release_key__free_unpacked(k, NULL);

    /* A second verdict for attempt 1, even to the same key. */
    expect_usual(&r, "replay", "release.attempt",
                 "an attempt without a release, or the verdict it was released to",
                 "another verdict of attempt 1");

    /* A jti that was used, in a verdict of another attempt. */
    json_t *claims = t_ear(&w, r.job, 2, w.tee);
    _cleanup_buf_ struct buf p = BUF_INIT(1u << 16);
    _cleanup_json_ json_t *first = NULL;
    MUST(jws_verify(ear, w.verifier, "JWT", 1u << 16, &p, e));
    MUST(json_parse("ear", buf_bytes(&p), 1u << 16, &first, e));
    json_object_set(claims, "jti", json_object_get(first, "jti"));
    _cleanup_free_ char *same_jti = t_ear_sign(claims, w.verifier);
    k = world_verdict(&w, r.job, 2, same_jti, r.spec, NULL);
    assert_refusal(k, "replay", "verdict.jti", "one that had no release", NULL);
    coffer__v1__release_key__free_unpacked(k, NULL);
}

static void test_attempts(void **state)
{
    (void)state;
    world_put_all(&w, NULL);
    _cleanup_(run_done) struct run r = usual();
    _cleanup_free_ char *ear1 = usual_ear(&r, 1), *ear2 = usual_ear(&r, 2);
    _cleanup_free_ char *ear3 = usual_ear(&r, 3), *ear4 = usual_ear(&r, 4);
    Coffer__V1__ReleaseKey *k = world_verdict(&w, r.job, 4, ear4, r.spec, NULL);

    assert_refusal(k, "denied", "spec.attempts", "attempt 3 or less", "attempt 4");
    coffer__v1__release_key__free_unpacked(k, NULL);
    k = world_verdict(&w, r.job, 2, ear2, r.spec, NULL);
    assert_null(k->refusal);
    coffer__v1__release_key__free_unpacked(k, NULL);

    expect(&r, ear1, "stale-attempt", "release.attempt",
           "at least 2, the latest attempt that had a release", "1");
    k = world_verdict(&w, r.job, 3, ear3, r.spec, NULL);
    assert_null(k->refusal);
    coffer__v1__release_key__free_unpacked(k, NULL);

    /* What was released to attempt 2 is not sent again after attempt 3. */
    k = world_verdict(&w, r.job, 2, ear2, r.spec, NULL);
    assert_refusal(k, "stale-attempt", "release.attempt",
                   "at least 3, the latest attempt that had a release", "2");
    coffer__v1__release_key__free_unpacked(k, NULL);
}

static void test_spec(void **state)
{
    (void)state;
    world_put_all(&w, NULL);
    _cleanup_(run_done) struct run r = usual();
    _cleanup_(run_done) struct run other = run_of(t_spec(&w, "another-nonce-16"));
    _cleanup_free_ char *ear = usual_ear(&r, 1), *ear2 = usual_ear(&r, 1);

    /* The consumer's other spec under this job's verdict. */
    struct run swapped = {.spec = other.spec};
    snprintf(swapped.job, sizeof(swapped.job), "%s", r.job);
    expect(&swapped, ear, "denied", "spec.job", r.job, other.job);

    /* One character of the payload. */
    _cleanup_free_ char *tampered = xstrdup(r.spec);
    char *in = strchr(tampered, '.') + 40;
    *in = *in == 'A' ? 'B' : 'A';
    swapped.spec = tampered;
    expect(&swapped, ear2, "bad-signature", "spec.signature", "a spec signed by its consumer",
           NULL);
    swapped.spec = (char *)"";
    expect(&swapped, ear2, "invalid", "spec", "a signed spec in normal form", NULL);
}

static void test_tee(void **state)
{
    (void)state;
    world_put_all(&w, NULL);
    static const struct {
        int claim;
        const char *status;
    } bad[] = {{97, "contraindicated"}, {0, "none"}};
    _cleanup_(run_done) struct run r = usual();

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        json_t *claims = t_ear(&w, r.job, 1, w.tee);
        t_ear_hardware(claims, bad[i].claim, bad[i].status);
        _cleanup_free_ char *ear = t_ear_sign(claims, w.verifier);
        expect(&r, ear, "denied", "tee.status", "affirming", bad[i].status);
    }
    json_t *claims = t_ear(&w, r.job, 1, w.tee);
    json_object_set_new(json_object_get(claims, "coffer"), "tee", json_string("snp"));
    _cleanup_free_ char *ear = t_ear_sign(claims, w.verifier);
    expect(&r, ear, "denied", "tee.types", "one of sample, tdx", "snp");

    /* A preferred type may fall back as far as the spec goes, but no grant follows it. */
    json_t *spec = t_spec(&w, "0123456789abcdef");
    json_object_set_new(json_object_get(spec, "tee"), "mode", json_string("preferred"));
    _cleanup_(run_done) struct run r2 = run_of(spec);
    claims = t_ear(&w, r2.job, 1, w.tee);
    json_object_set_new(json_object_get(claims, "coffer"), "tee", json_string("snp"));
    _cleanup_free_ char *ear2 = t_ear_sign(claims, w.verifier);
    expect(&r2, ear2, "denied", "grant.tee.types", "one of sample", "snp");
}

static char *vtpm_ear(const struct run *r)
{
    json_t *claims = t_ear(&w, r->job, 1, w.tee);

    t_ear_hardware(claims, 32, "warning");
    json_object_set_new(json_object_get(claims, "coffer"), "tee", json_string("vtpm"));
    return t_ear_sign(claims, w.verifier);
}

static json_t *vtpm_spec(const char *nonce, const char *mode, const char *types, int with_dataset)
{
    json_t *spec = t_spec(&w, nonce), *tee = json_object_get(spec, "tee");
    json_t *list = json_array();

    json_object_set_new(tee, "mode", json_string(mode));
    json_array_append_new(list, json_string("snp"));
    json_array_append_new(list, json_string(types));
    json_object_set_new(tee, "types", list);
    if (!with_dataset) {
        json_object_set_new(spec, "datasets", json_array());
    }
    return spec;
}

static void put_vtpm_grant(const char *status)
{
    json_t *g = t_grant(&w, w.dataset);

    json_object_set_new(json_object_get(g, "tee"), "status", json_string(status));
    json_object_set_new(json_object_get(g, "tee"), "types", json_pack("[s,s]", "snp", "vtpm"));
    _cleanup_free_ char *jws = t_sign(g, w.owner, GRANT_JWS_TYP);
    Coffer__V1__Reply *reply = world_owner(&w, t_put_grant(&w, jws), w.owner);
    assert_int_equal(reply->body_case, COFFER__V1__REPLY__BODY_OWNER);
    coffer__v1__reply__free_unpacked(reply, NULL);
}

/* A warning, as every virtual TPM gets one: the owner's to accept, never the consumer's. */
static void test_warning(void **state)
{
    (void)state;
    world_put_all(&w, NULL);
    _cleanup_(run_done) struct run r = run_of(vtpm_spec("0123456789abcdef", "required", "vtpm", 1));
    _cleanup_free_ char *one = vtpm_ear(&r), *two = vtpm_ear(&r), *three = vtpm_ear(&r);

    /* The grant that there is says neither. */
    expect(&r, one, "denied", "grant.tee.types", "one of sample", "vtpm");
    put_vtpm_grant("affirming");
    expect(&r, two, "denied", "grant.tee.status", "affirming", "warning");
    put_vtpm_grant("warning");
    Coffer__V1__ReleaseKey *k = world_verdict(&w, r.job, 1, three, r.spec, NULL);
    assert_null(k->refusal);
    coffer__v1__release_key__free_unpacked(k, NULL);

    /* Required hardware is never that, whatever the grants say. */
    _cleanup_(run_done) struct run hard =
        run_of(vtpm_spec("fedcba9876543210", "required", "tdx", 1));
    _cleanup_free_ char *ear = vtpm_ear(&hard);
    expect(&hard, ear, "denied", "tee.types", "one of snp, tdx", "vtpm");

    /* Without a key that anybody guards only the spec decides. */
    static const struct {
        const char *mode, *type;
        int released;
    } plain[] = {{"required", "vtpm", 1}, {"required", "tdx", 0}, {"preferred", "tdx", 1}};
    for (size_t i = 0; i < ARRAY_LEN(plain); i++) {
        char nonce[32];
        snprintf(nonce, sizeof(nonce), "plain-job-nonce-%zu", i);
        _cleanup_(run_done) struct run p =
            run_of(vtpm_spec(nonce, plain[i].mode, plain[i].type, 0));
        _cleanup_free_ char *plain_ear = vtpm_ear(&p);
        k = world_verdict(&w, p.job, 1, plain_ear, p.spec, NULL);
        assert_int_equal(!k->refusal, plain[i].released);
        coffer__v1__release_key__free_unpacked(k, NULL);
    }
}

static void test_unknown_secret(void **state)
{
    (void)state;
    _cleanup_(run_done) struct run r = usual();

    expect_usual(&r, "not-found", "secret", "a secret that its owner has put here", w.dataset);
    Coffer__V1__Reply *reply =
        world_owner(&w, t_put_secret(&w, w.dataset, buf_bytes(&w.prefix), w.key), w.owner);
    assert_int_equal(reply->body_case, COFFER__V1__REPLY__BODY_OWNER);
    coffer__v1__reply__free_unpacked(reply, NULL);
    expect_usual(&r, "denied", "grant", "a grant by the owner of the secret", "none");
}

/* A refused attempt is released once what was missing is there. */
static void test_refused_then_released(void **state)
{
    (void)state;
    _cleanup_(run_done) struct run r = usual();
    _cleanup_free_ char *ear = usual_ear(&r, 1);
    char id[128];

    expect(&r, ear, "not-found", "secret", NULL, NULL);
    world_put_all(&w, NULL);
    Coffer__V1__ReleaseKey *k = world_verdict(&w, r.job, 1, ear, r.spec, id);
    assert_null(k->refusal);
    assert_non_null(strstr(id, ".1.release.1"));
    coffer__v1__release_key__free_unpacked(k, NULL);
}

static void test_tampered_row(void **state)
{
    (void)state;
    static const char *const changes[] = {
        "UPDATE secret SET ref = substr(ref, 1, length(ref) - 1)",
        "UPDATE secret SET ref = zeroblob(length(ref))",
        "UPDATE secret SET ref = x''",
    };
    world_put_all(&w, NULL);
    _cleanup_(run_done) struct run r = usual();
    sqlite3 *db = db_handle(engine_svc(w.g)->db);

    for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
        assert_int_equal(sqlite3_exec(db, changes[i], NULL, NULL, NULL), SQLITE_OK);
        expect_usual(&r, "bad-signature", "secret.sealed",
                     "a key that opens under its id, kind and owner", NULL);
    }
    assert_int_equal(sqlite3_exec(db, "UPDATE secret SET kind = 'image-key'", NULL, NULL, NULL),
                     SQLITE_OK);
    expect_usual(&r, "denied", "secret.kind", "dataset", "image-key");
    assert_int_equal(
        sqlite3_exec(db, "UPDATE secret SET kind = 'dataset', owner = 'x'", NULL, NULL, NULL),
        SQLITE_OK);
    expect_usual(&r, "bad-signature", "secret.owner", NULL, NULL);
}

/* Somebody who can write the database makes the secret theirs: its key does not open for them. */
static void test_stolen_row(void **state)
{
    (void)state;
    _cleanup_jkey_ struct jkey *thief = NULL;
    _cleanup_free_ char *jwk_text = NULL;

    world_put_all(&w, NULL);
    MUST(jkey_generate(&thief, e));
    _cleanup_json_ json_t *jwk = jkey_public_jwk(thief);
    MUST(jcs_encode(jwk, &jwk_text, e));
    _cleanup_free_ char *grant = t_sign(t_grant(&w, w.dataset), thief, GRANT_JWS_TYP);
    _cleanup_free_ char *sql =
        xasprintf("UPDATE secret SET owner = '%s', owner_jwk = '%s'; UPDATE grants SET jws = '%s'",
                  jkey_thumbprint(thief), jwk_text, grant);
    assert_int_equal(sqlite3_exec(db_handle(engine_svc(w.g)->db), sql, NULL, NULL, NULL),
                     SQLITE_OK);
    _cleanup_(run_done) struct run r = usual();
    expect_usual(&r, "bad-signature", "secret.sealed", NULL, NULL);
}

static void test_image_keys(void **state)
{
    (void)state;
    _cleanup_free_ char *salt = t_b64_random(16), *jwe = NULL;
    _cleanup_json_ json_t *d =
        json_pack("{s:s,s:s,s:o,s:s,s:i}", "kind", "image-key", "name", "app", "owner",
                  jkey_public_jwk(w.owner), "salt", salt, "v", 1);
    char id[KEYBOX_ID_MAX + 1];

    world_put_all(&w, NULL);
    MUST(image_key_id(d, id, NULL, e));
    json_t *spec = t_spec(&w, "0123456789abcdef");
    json_t *workload = json_object_get(spec, "workload");
    json_object_set_new(workload, "imageKeys", json_pack("[s]", id));
    json_object_set_new(workload, "encrypted", json_true());
    _cleanup_(run_done) struct run r = run_of(spec);
    expect_usual(&r, "not-found", "secret", NULL, id);

    json_t *box = NULL;
    MUST(keybox_seal(w.kbs.seal, id, w.key, &jwe, e));
    MUST(json_parse("jwe", BYTES_STR(jwe), 1u << 16, &box, e));
    json_t *cmd = json_pack("{s:i,s:s,s:I,s:s,s:O,s:o}", "v", 1, "cmd", "put-secret", "iat",
                            (json_int_t)T_NOW_S, "kind", "image-key", "descriptor", d, "jwe", box);
    Coffer__V1__Reply *reply = world_owner(&w, cmd, w.owner);
    assert_int_equal(reply->body_case, COFFER__V1__REPLY__BODY_OWNER);
    coffer__v1__reply__free_unpacked(reply, NULL);

    /* The consumer is not its owner, so the owner's grant is asked for. */
    expect_usual(&r, "denied", "grant", NULL, "none");
    _cleanup_free_ char *grant = t_sign(t_grant(&w, id), w.owner, GRANT_JWS_TYP);
    reply = world_owner(&w, t_put_grant(&w, grant), w.owner);
    assert_int_equal(reply->body_case, COFFER__V1__REPLY__BODY_OWNER);
    coffer__v1__reply__free_unpacked(reply, NULL);
    _cleanup_free_ char *ear = usual_ear(&r, 1);
    Coffer__V1__ReleaseKey *k = world_verdict(&w, r.job, 1, ear, r.spec, NULL);
    assert_null(k->refusal);
    _cleanup_json_ json_t *j = open_release(k, w.tee);
    assert_int_equal(json_array_size(json_object_get(j, "keys")), 2);
    coffer__v1__release_key__free_unpacked(k, NULL);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_release),
        T(test_refused_verdict_is_not_ours),
        T(test_verdict_of_another_subject),
        T(test_verdict),
        T(test_replayed_verdict),
        T(test_attempts),
        T(test_spec),
        T(test_tee),
        T(test_warning),
        T(test_unknown_secret),
        T(test_refused_then_released),
        T(test_tampered_row),
        T(test_stolen_row),
        T(test_image_keys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

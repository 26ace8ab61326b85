/* Grants: their shape, and each clause of the match. Then the same through the KBS where its store
 * has a part: expiry, revocation, several grants. */
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

/* ---- shape ---- */

static int parse(const json_t *j, struct err *why)
{
    _cleanup_free_ char *text = NULL;
    struct grant g;

    MUST(jcs_encode(j, &text, e));
    if (grant_parse(BYTES_STR(text), &g, why)) {
        return -1;
    }
    grant_done(&g);
    return 0;
}

static void test_shape(void **state)
{
    (void)state;
    static const struct {
        const char *member, *value, *error;
    } bad[] = {
        {"v", "2", "grant.v: expected 1 to 1"},
        {"id", "\"AA\"", "grant.id: expected 16 bytes"},
        {"secret", "\"x\"", "grant.secret: expected the id"},
        {"consumers", "[]", "grant.consumers: expected 1 to 64, found 0"},
        {"consumers", "[\"x\"]", "grant.consumers[0]: expected a thumbprint"},
        {"consumers", "[1]", "grant.consumers[0]: expected a thumbprint"},
        {"images", "[\"sha256:00\"]", "grant.images[0]: expected sha256:"},
        {"images", "\"*\"", "grant.images: expected an array"},
        {"tee", "{\"types\":[\"a\"]}", "grant.tee.status: expected a string"},
        {"tee", "{\"types\":[],\"status\":\"affirming\"}", "grant.tee.types: expected 1"},
        {"tee", "{\"types\":[\"A|\"],\"status\":\"affirming\"}", "grant.tee.types[0]: expected"},
        {"tee", "{\"types\":[\"a\"],\"status\":\"none\"}", "grant.tee.status: expected \"affirm"},
        {"gate", "{\"holdAt\":1,\"rejectAt\":1,\"maxVerbatimPercent\":1}",
         "grant.gate.maxBytes: expected an integer"},
        {"gate", "{\"holdAt\":102,\"rejectAt\":1,\"maxVerbatimPercent\":1,\"maxBytes\":1}",
         "grant.gate.holdAt: expected 0 to 101"},
        {"recipients", "[\"x\"]", "grant.recipients[0]: expected a thumbprint"},
        {"exp", "5", "grant.exp: expected a time after nbf"},
        {"nbf", "-1", "grant.nbf: expected 0"},
        {"more", "1", "grant.more: not a known member"},
    };
    struct err e = {0};
    _cleanup_json_ json_t *good = t_grant(&w, w.dataset);

    assert_int_equal(parse(good, &e), 0);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        _cleanup_json_ json_t *j = json_deep_copy(good);
        json_object_set_new(j, bad[i].member, json_loads(bad[i].value, JSON_DECODE_ANY, NULL));
        assert_int_equal(parse(j, &e), -1);
        if (!strstr(e.msg, bad[i].error)) {
            fail_msg("expected \"%s\", found \"%s\"", bad[i].error, e.msg);
        }
    }
    static const char *const members[] = {"v",   "id",   "secret",     "consumers", "images",
                                          "tee", "gate", "recipients", "nbf",       "exp"};
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        _cleanup_json_ json_t *j = json_deep_copy(good);
        json_object_del(j, members[i]);
        assert_int_equal(parse(j, &e), -1);
        assert_non_null(strstr(e.msg, members[i]));
    }
    _cleanup_json_ json_t *many = json_deep_copy(good);
    json_t *list = json_object_get(many, "images");
    while (json_array_size(list) <= GRANT_LIST_MAX) {
        json_array_append_new(list, json_string(T_IMAGE));
    }
    assert_int_equal(parse(many, &e), -1);
    assert_non_null(strstr(e.msg, "grant.images: expected 1 to 64, found 65"));
}

/* ---- clauses, through the KBS ---- */

static void expect_job(json_t *spec, const char *code, const char *clause, const char *expected,
                       const char *actual)
{
    char job[JOB_ID_LEN + 1];
    _cleanup_free_ char *jws = t_spec_sign(spec, w.consumer, job);
    _cleanup_free_ char *ear = t_ear_sign(t_ear(&w, job, 1, w.tee), w.verifier);
    Coffer__V1__ReleaseKey *k = world_verdict(&w, job, 1, ear, jws, NULL);

    assert_non_null(k);
    if (!code) {
        if (k->refusal) {
            fail_msg("refused: %s", k->refusal->message);
        }
        assert_true(k->jwe[0]);
    } else {
        assert_non_null(k->refusal);
        assert_string_equal(k->refusal->clause, clause);
        assert_string_equal(k->refusal->code, code);
        if (expected) {
            assert_string_equal(k->refusal->expected, expected);
        }
        if (actual) {
            assert_string_equal(k->refusal->actual, actual);
        }
        assert_non_null(strstr(k->refusal->message, w.dataset));
        assert_string_equal(k->jwe, "");
    }
    coffer__v1__release_key__free_unpacked(k, NULL);
}

static json_t *spec_with(const char *object, const char *member, json_t *value)
{
    json_t *spec = t_spec(&w, "0123456789abcdef");

    json_object_set_new(json_object_get(spec, object), member, value);
    return spec;
}

static void test_clauses(void **state)
{
    (void)state;
    static const char image2[] =
        "sha256:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd";
    static const char one_image[] = "one of " T_IMAGE;

    world_put_all(&w, NULL);
    expect_job(spec_with("workload", "image", json_string(image2)), "denied", "grant.images",
               one_image, image2);
    expect_job(spec_with("gate", "holdAt", json_integer(21)), "denied", "grant.gate.holdAt",
               "at most 20", "21");
    expect_job(spec_with("gate", "rejectAt", json_integer(61)), "denied", "grant.gate.rejectAt",
               "at most 60", "61");
    expect_job(spec_with("gate", "maxVerbatimPercent", json_integer(6)), "denied",
               "grant.gate.maxVerbatimPercent", "at most 5", "6");
    expect_job(spec_with("output", "maxBytes", json_integer(65537)), "denied",
               "grant.gate.maxBytes", "at most 65536", "65537");
    expect_job(spec_with("gate", "holdAt", json_integer(19)), NULL, NULL, NULL, NULL);
}

static void test_other_consumer(void **state)
{
    (void)state;
    struct jkey *other = NULL, *granted = w.consumer;

    world_put_all(&w, NULL);
    MUST(jkey_generate(&other, e));
    w.consumer = other;
    expect_job(t_spec(&w, "0123456789abcdef"), "denied", "grant.consumers",
               "one of the 1 consumers that the grant names", jkey_thumbprint(other));
    w.consumer = granted;
    jkey_free(other);
}

static void test_recipients(void **state)
{
    (void)state;
    json_t *grant = t_grant(&w, w.dataset);

    json_object_set_new(grant, "recipients", json_pack("[s]", jkey_thumbprint(w.owner)));
    world_put_all(&w, grant);
    expect_job(t_spec(&w, "0123456789abcdef"), "denied", "grant.recipients",
               "only the 1 recipients that the grant names", jkey_thumbprint(w.consumer));
    expect_job(spec_with("output", "recipients", json_pack("[o]", jkey_public_jwk(w.owner))), NULL,
               NULL, NULL, NULL);
}

static void test_tee(void **state)
{
    (void)state;
    json_t *grant = t_grant(&w, w.dataset);

    json_object_set_new(json_object_get(grant, "tee"), "types", json_pack("[s,s]", "tdx", "snp"));
    world_put_all(&w, grant);
    expect_job(t_spec(&w, "0123456789abcdef"), "denied", "grant.tee.types", "one of tdx, snp",
               "sample");
}

static void test_status(void **state)
{
    (void)state;
    struct grant g;
    unsigned passed;
    struct err why = {0};
    char job[JOB_ID_LEN + 1];
    _cleanup_json_ json_t *spec_json = t_spec(&w, "0123456789abcdef");
    _cleanup_json_ json_t *j = t_grant(&w, w.dataset);
    _cleanup_free_ char *text = NULL, *jws = t_spec_sign(json_incref(spec_json), w.consumer, job);
    _cleanup_spec_ struct spec *spec = NULL;
    _cleanup_jkey_ struct jkey *who = NULL;
    struct grant_ask ask = {.consumer = jkey_thumbprint(w.consumer),
                            .tee = "sample",
                            .status = "warning",
                            .now_ms = w.now_ms};

    MUST(spec_verify(jws, &spec, &who, e));
    ask.spec = spec;
    MUST(jcs_encode(j, &text, e));
    MUST(grant_parse(BYTES_STR(text), &g, e));
    assert_int_equal(grant_covers(&g, 0, &ask, &passed, &why), -1);
    assert_string_equal(why.clause, "grant.tee.status");
    assert_string_equal(why.expected, "affirming");
    assert_string_equal(why.actual, "warning");
    g.tee_status = "warning";
    assert_int_equal(grant_covers(&g, 0, &ask, &passed, &why), 0);
    ask.status = "contraindicated";
    assert_int_equal(grant_covers(&g, 0, &ask, &passed, &why), -1);
    assert_string_equal(why.clause, "grant.tee.status");
    grant_done(&g);
}

static void test_times(void **state)
{
    (void)state;
    json_t *grant = t_grant(&w, w.dataset);
    char expected[64], actual[64];

    json_object_set_new(grant, "nbf", json_integer(T_NOW_S + 100));
    json_object_set_new(grant, "exp", json_integer(T_NOW_S + 200));
    world_put_all(&w, grant);
    snprintf(expected, sizeof(expected), "at most %d (now)", T_NOW_S);
    snprintf(actual, sizeof(actual), "%d", T_NOW_S + 100);
    expect_job(t_spec(&w, "0123456789abcdef"), "denied", "grant.nbf", expected, actual);
    w.now_ms += 200 * 1000;
    snprintf(expected, sizeof(expected), "later than %d (now)", T_NOW_S + 200);
    snprintf(actual, sizeof(actual), "%d", T_NOW_S + 200);
    expect_job(t_spec(&w, "0123456789abcdef"), "expired", "grant.exp", expected, actual);
    w.now_ms -= 1000;
    expect_job(t_spec(&w, "0123456789abcdef"), NULL, NULL, NULL, NULL);
}

static void test_revoked(void **state)
{
    (void)state;
    json_t *grant = t_grant(&w, w.dataset);
    _cleanup_free_ char *id = xstrdup(json_string_value(json_object_get(grant, "id")));

    world_put_all(&w, grant);
    Coffer__V1__Reply *r = world_owner(&w, t_revoke(&w, id), w.owner);
    assert_int_equal(r->body_case, COFFER__V1__REPLY__BODY_OWNER);
    coffer__v1__reply__free_unpacked(r, NULL);
    expect_job(t_spec(&w, "0123456789abcdef"), "denied", "grant.revoked", "a grant in force",
               "a revoked one");
}

/* A grant in the database that its owner did not sign: by another owner, or with a changed text. */
static void test_signature(void **state)
{
    (void)state;
    _cleanup_jkey_ struct jkey *other = NULL;
    sqlite3 *db = db_handle(engine_svc(w.g)->db);

    world_put_all(&w, NULL);
    MUST(jkey_generate(&other, e));
    _cleanup_free_ char *forged = t_sign(t_grant(&w, w.dataset), other, GRANT_JWS_TYP);
    _cleanup_free_ char *sql = xasprintf("UPDATE grants SET jws = '%s'", forged);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    char job[JOB_ID_LEN + 1];
    _cleanup_free_ char *jws = t_spec_sign(t_spec(&w, "0123456789abcdef"), w.consumer, job);
    _cleanup_free_ char *ear = t_ear_sign(t_ear(&w, job, 1, w.tee), w.verifier);
    Coffer__V1__ReleaseKey *k = world_verdict(&w, job, 1, ear, jws, NULL);
    assert_string_equal(k->refusal->code, "bad-signature");
    assert_string_equal(k->jwe, "");
    coffer__v1__release_key__free_unpacked(k, NULL);

    /* The owner's grant for another of the owner's secrets. */
    _cleanup_free_ char *moved =
        t_sign(t_grant(&w, "other.aaaaaaaaaaaaaaaaaaaaaaaaaa"), w.owner, GRANT_JWS_TYP);
    _cleanup_free_ char *sql2 = xasprintf("UPDATE grants SET jws = '%s'", moved);
    assert_int_equal(sqlite3_exec(db, sql2, NULL, NULL, NULL), SQLITE_OK);
    expect_job(t_spec(&w, "0123456789abcdef"), "denied", "grant.secret", w.dataset,
               "other.aaaaaaaaaaaaaaaaaaaaaaaaaa");
}

/* Of several grants the one that got furthest is named, and any that covers is enough. */
static void test_furthest(void **state)
{
    (void)state;
    json_t *far = t_grant(&w, w.dataset), *near = t_grant(&w, w.dataset);

    json_object_set_new(json_object_get(far, "gate"), "maxBytes", json_integer(10));
    world_put_all(&w, far);
    json_object_set_new(near, "consumers", json_pack("[s]", jkey_thumbprint(w.owner)));
    _cleanup_free_ char *near_jws = t_sign(near, w.owner, GRANT_JWS_TYP);
    Coffer__V1__Reply *r = world_owner(&w, t_put_grant(&w, near_jws), w.owner);
    assert_int_equal(r->body_case, COFFER__V1__REPLY__BODY_OWNER);
    coffer__v1__reply__free_unpacked(r, NULL);
    expect_job(t_spec(&w, "0123456789abcdef"), "denied", "grant.gate.maxBytes", "at most 10",
               "65536");
    _cleanup_free_ char *good = t_sign(t_grant(&w, w.dataset), w.owner, GRANT_JWS_TYP);
    r = world_owner(&w, t_put_grant(&w, good), w.owner);
    assert_int_equal(r->body_case, COFFER__V1__REPLY__BODY_OWNER);
    coffer__v1__reply__free_unpacked(r, NULL);
    expect_job(t_spec(&w, "0123456789abcdef"), NULL, NULL, NULL, NULL);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_shape),     T(test_clauses),  T(test_other_consumer), T(test_recipients),
        T(test_tee),       T(test_status),   T(test_times),          T(test_revoked),
        T(test_signature), T(test_furthest),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

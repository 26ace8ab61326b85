/* The verifier through its engine: challenges, each check of evidence with its clause, repeats. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "svc-verifier/verifier_testing.h"

static struct vworld w;

static int setup(void **state)
{
    (void)state;
    vworld_make(&w, "true");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    vworld_done(&w);
    return 0;
}

static void expect_refusal(struct submit *s, const char *code, const char *clause,
                           const char *expected, const char *actual)
{
    Coffer__V1__Verdict *v = vworld_submit(&w, s, NULL);

    assert_non_null(v);
    assert_non_null(v->refusal);
    assert_string_equal(v->refusal->clause, clause);
    assert_string_equal(v->refusal->code, code);
    if (expected) {
        assert_string_equal(v->refusal->expected, expected);
    }
    if (actual) {
        assert_string_equal(v->refusal->actual, actual);
    }
    assert_string_equal(v->refusal->by, "verifier");
    assert_string_equal(v->ear, "");
    coffer__v1__verdict__free_unpacked(v, NULL);
}

static void expect_status(struct submit *s, const char *status)
{
    Coffer__V1__Verdict *v = vworld_submit(&w, s, NULL);
    _cleanup_(ear_freep) struct ear *r = NULL;

    assert_non_null(v);
    assert_null(v->refusal);
    VMUST(ear_verify(w.trust, v->ear, &r, e));
    assert_string_equal(r->status, status);
    coffer__v1__verdict__free_unpacked(v, NULL);
}

static void test_verdict(void **state)
{
    (void)state;
    _cleanup_(submit_done) struct submit s = vworld_evidence(&w, V_JOB, 1);
    char id[128];
    Coffer__V1__Verdict *v = vworld_submit(&w, &s, id);
    _cleanup_(ear_freep) struct ear *r = NULL;

    assert_non_null(v);
    assert_null(v->refusal);
    assert_string_equal(v->job, V_JOB);
    assert_int_equal(v->attempt, 1);
    assert_string_equal(v->spec_jws, "the spec");
    assert_string_equal(v->tee, "sample");
    assert_string_equal(id, V_JOB ".1.verdict.0");
    VMUST(ear_verify(w.trust, v->ear, &r, e));
    VMUST(ear_check_time(r, w.now_ms, e));
    assert_string_equal(r->job, V_JOB);
    assert_int_equal(r->attempt, 1);
    assert_string_equal(r->tee, "sample");
    assert_string_equal(r->status, "affirming");
    assert_string_equal(jkey_thumbprint(r->cnf), jkey_thumbprint(w.tee));
    assert_int_equal(r->exp - r->iat, 300);
    const json_t *cpu0 = json_object_get(json_object_get(r->claims, "submods"), "cpu0");
    const json_t *evidence = json_object_get(cpu0, "ear.veraison.annotated-evidence");
    assert_int_equal(strlen(json_string_value(json_object_get(evidence, "report_data"))), 128);
    assert_non_null(json_object_get(evidence, "sample"));

    /* The same again: the same EAR, another message id, the spec of the repeat; also when the
     * challenge has expired since, and after a restart. */
    w.now_ms += CHALLENGE_LIFE_MS + 1000;
    vworld_reopen(&w);
    free(s.spec);
    s.spec = xstrdup("the spec again");
    Coffer__V1__Verdict *again = vworld_submit(&w, &s, id);
    assert_non_null(again);
    assert_string_equal(again->ear, v->ear);
    assert_string_equal(again->spec_jws, "the spec again");
    assert_string_equal(id, V_JOB ".1.verdict.1");
    coffer__v1__verdict__free_unpacked(again, NULL);

    /* Once it is worth nothing any more it is forgotten, and so is its challenge. */
    w.now_ms += ANSWER_KEEP_MS;
    vworld_tick(&w);
    expect_refusal(&s, "not-found", "challenge", "a nonce that this verifier gave out",
                   "an unknown one");
    coffer__v1__verdict__free_unpacked(v, NULL);
}

static void test_challenge(void **state)
{
    (void)state;
    _cleanup_(submit_done) struct submit never = vworld_evidence(&w, V_JOB, 1);
    char expected[64];

    random_bytes(never.nonce, sizeof(never.nonce));
    submit_bind(&never, &w);
    expect_refusal(&never, "not-found", "challenge", "a nonce that this verifier gave out",
                   "an unknown one");

    _cleanup_(submit_done) struct submit job = vworld_evidence(&w, V_JOB2, 1);
    snprintf(job.job, sizeof(job.job), "%s", V_JOB);
    submit_bind(&job, &w);
    expect_refusal(&job, "denied", "challenge.job", V_JOB2, V_JOB);
    _cleanup_(submit_done) struct submit attempt = vworld_evidence(&w, V_JOB, 1);
    attempt.attempt = 2;
    submit_bind(&attempt, &w);
    expect_refusal(&attempt, "denied", "challenge.attempt", "1", "2");

    _cleanup_(submit_done) struct submit late = vworld_evidence(&w, V_JOB, 1);
    w.now_ms += CHALLENGE_LIFE_MS;
    snprintf(expected, sizeof(expected), "before %jd ms", (intmax_t)w.now_ms);
    expect_refusal(&late, "expired", "challenge.expires", expected, NULL);
    w.now_ms -= 1;
    expect_status(&late, "affirming");

    /* Used: by other evidence for the same nonce. */
    submit_rekey(&late, &w);
    expect_refusal(&late, "replay", "challenge", "a nonce that no other evidence used",
                   "one that was used");
}

static void test_runtime_data(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *code, *clause;
    } bad[] = {
        {"{", "{ ", "invalid", "runtime_data"},
        {"\"attempt\":1,", "", "invalid", "evidence"},
        {"\"attempt\":1", "\"attempt\":2", "denied", "runtime_data.attempt"},
        {V_JOB, V_JOB2, "denied", "runtime_data.job"},
        {"\"kty\":\"EC\",", "", "invalid", "evidence"},
        {"{\"crv\"", "{\"a\":1,\"crv\"", "invalid", "evidence"},
    };

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        _cleanup_(submit_done) struct submit s = vworld_evidence(&w, V_JOB, 1);
        char *at = strstr(s.runtime_data, bad[i].from);
        assert_non_null(at);
        char *changed = xasprintf("%.*s%s%s", (int)(at - s.runtime_data), s.runtime_data, bad[i].to,
                                  at + strlen(bad[i].from));
        free(s.runtime_data);
        s.runtime_data = changed;
        expect_refusal(&s, bad[i].code, bad[i].clause, NULL, NULL);
        /* The challenge is used up: one challenge, one piece of evidence. */
        submit_bind(&s, &w);
        expect_refusal(&s, "replay", "challenge", NULL, NULL);
    }
    static const char *const unreadable[] = {
        "", "{}", "[]", "{\"nonce\":1}", "{\"nonce\":\"A\"}", "{\"nonce\":\"AAAA\"}"};
    for (size_t i = 0; i < ARRAY_LEN(unreadable); i++) {
        _cleanup_(submit_done) struct submit s = vworld_evidence(&w, V_JOB2, 1);
        free(s.runtime_data);
        s.runtime_data = xstrdup(unreadable[i]);
        expect_refusal(&s, "invalid", i < 4 ? "runtime_data" : "runtime_data.nonce", NULL, NULL);
        /* That had nothing to do with the challenge. */
        submit_bind(&s, &w);
        expect_status(&s, "affirming");
    }
}

static void test_report_data(void **state)
{
    (void)state;
    /* Evidence of another key: the runtime data says another than was hashed. */
    _cleanup_(submit_done) struct submit s = vworld_evidence(&w, V_JOB, 1);
    _cleanup_free_ char *evidence = xstrdup(s.evidence);

    submit_rekey(&s, &w);
    free(s.evidence);
    s.evidence = xstrdup(evidence);
    expect_refusal(&s, "denied", "evidence.report_data", NULL, NULL);

    static const struct {
        const char *evidence, *clause;
    } bad[] = {
        {"", "evidence"},
        {"{\"report_data\":\"AA==\"}", "evidence"},
        {"{\"svn\":\"1\",\"report_data\":\"AA==\"}", "evidence.report_data"},
        {"{\"svn\":\"1\",\"report_data\":\"?\"}", "evidence.report_data"},
        {"{\"svn\":\"2\",\"report_data\":\"AA==\"}", "evidence.svn"},
        {"{\"svn\":\"1\",\"report_data\":\"AA==\",\"more\":1}", "evidence"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        _cleanup_(submit_done) struct submit b = vworld_evidence(&w, V_JOB2, 1);
        free(b.evidence);
        b.evidence = xstrdup(bad[i].evidence);
        expect_refusal(&b, "invalid", bad[i].clause, NULL, NULL);
        expect_refusal(&b, "invalid", bad[i].clause, NULL, NULL); /* the same again */
    }
}

static void test_policy(void **state)
{
    (void)state;
    vworld_done(&w);
    vworld_make(&w, "false");
    _cleanup_(submit_done) struct submit s = vworld_evidence(&w, V_JOB, 1);
    expect_status(&s, "contraindicated");
}

static void test_sizes(void **state)
{
    (void)state;
    _cleanup_(submit_done) struct submit s = vworld_evidence(&w, V_JOB, 1);
    char *big = xmalloc(EVIDENCE_MAX_BYTES + 2);

    memset(big, 'x', EVIDENCE_MAX_BYTES + 1);
    big[EVIDENCE_MAX_BYTES + 1] = 0;
    _cleanup_free_ char *evidence = s.evidence;
    s.evidence = big;
    expect_refusal(&s, "too-large", "evidence", "at most 262144 bytes", "262145");
    big[SPEC_JWS_MAX_BYTES + 1] = 0;
    s.evidence = xstrdup(evidence);
    free(s.spec);
    s.spec = big;
    expect_refusal(&s, "too-large", "spec", "at most 98304 bytes", "98305");
    big[RUNTIME_DATA_MAX_BYTES + 1] = 0;
    s.spec = xstrdup("");
    free(s.runtime_data);
    s.runtime_data = big;
    expect_refusal(&s, "too-large", "runtime_data", "at most 4096 bytes", "4097");
}

static void test_names(void **state)
{
    (void)state;
    static const struct {
        const char *job;
        uint32_t attempt;
        const char *tee, *clause;
    } bad[] = {{"", 1, "sample", "job"},
               {"a.b", 1, "sample", "job"},
               {V_JOB, 0, "sample", "attempt"},
               {V_JOB, 1, "abacus", "evidence.tee"},
               {V_JOB, 1, "A B", "evidence.tee"}};

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        Coffer__V1__Reply *r = vworld_challenge(&w, bad[i].job, bad[i].attempt, bad[i].tee);
        assert_int_equal(r->body_case, COFFER__V1__REPLY__BODY_REFUSAL);
        assert_string_equal(r->refusal->clause, bad[i].clause);
        coffer__v1__reply__free_unpacked(r, NULL);
    }
    /* Evidence without a sound job has nowhere to be answered: a dead letter, no verdict. */
    _cleanup_(submit_done) struct submit s = vworld_evidence(&w, V_JOB, 1);
    snprintf(s.job, sizeof(s.job), "x");
    assert_null(vworld_submit(&w, &s, NULL));
    snprintf(s.job, sizeof(s.job), "%s", V_JOB);
    free(s.tee);
    s.tee = xstrdup("abacus");
    expect_refusal(&s, "unsupported", "evidence.tee", appraiser_names(), "abacus");
}

static void test_bound(void **state)
{
    (void)state;
    Coffer__V1__Reply *r;

    for (int i = 0; i < CHALLENGES_PER_JOB_MAX; i++) {
        r = vworld_challenge(&w, V_JOB, 1, "sample");
        assert_int_equal(r->body_case, COFFER__V1__REPLY__BODY_CHALLENGE);
        assert_int_equal(r->challenge->nonce.len, 32);
        assert_int_equal(r->challenge->expires_ms, w.now_ms + CHALLENGE_LIFE_MS);
        coffer__v1__reply__free_unpacked(r, NULL);
    }
    r = vworld_challenge(&w, V_JOB, 2, "sample");
    assert_int_equal(r->body_case, COFFER__V1__REPLY__BODY_REFUSAL);
    assert_string_equal(r->refusal->code, "busy");
    assert_string_equal(r->refusal->clause, "challenge.outstanding");
    assert_string_equal(r->refusal->expected, "fewer than 8 of one job");
    assert_string_equal(r->refusal->actual, "8");
    coffer__v1__reply__free_unpacked(r, NULL);
    r = vworld_challenge(&w, V_JOB2, 1, "sample");
    assert_int_equal(r->body_case, COFFER__V1__REPLY__BODY_CHALLENGE);
    coffer__v1__reply__free_unpacked(r, NULL);

    int64_t outstanding, answered;
    struct db *db = engine_svc(w.g)->db;
    VMUST(verifier_store_totals(db, &outstanding, &answered, e));
    assert_int_equal(outstanding, 9);
    w.now_ms += CHALLENGE_LIFE_MS;
    assert_true(engine_next_tick_ms(w.g) <= w.now_ms + 1000);
    w.now_ms += 1000;
    vworld_tick(&w);
    VMUST(verifier_store_totals(db, &outstanding, &answered, e));
    assert_int_equal(outstanding, 0);
    assert_int_equal(answered, 0);
    _cleanup_(submit_done) struct submit s = vworld_evidence(&w, V_JOB, 1);
    expect_status(&s, "affirming");
    VMUST(verifier_store_totals(db, &outstanding, &answered, e));
    assert_int_equal(outstanding, 0);
    assert_int_equal(answered, 1);

    assert_int_equal(
        sqlite3_exec(db_handle(db), "UPDATE total SET outstanding = 200000", NULL, NULL, NULL),
        SQLITE_OK);
    r = vworld_challenge(&w, V_JOB2, 1, "sample");
    assert_int_equal(r->body_case, COFFER__V1__REPLY__BODY_REFUSAL);
    assert_string_equal(r->refusal->code, "busy");
    coffer__v1__reply__free_unpacked(r, NULL);
    assert_int_equal(
        sqlite3_exec(db_handle(db), "UPDATE total SET outstanding = 0", NULL, NULL, NULL),
        SQLITE_OK);
    w.now_ms += ATTEMPT_KEEP_MS + 1000;
    vworld_tick(&w);
    int64_t next;
    VMUST(verifier_store_next_prune(db, &next, e));
    assert_int_equal(next, INT64_MAX);
}

static void test_states(void **state)
{
    (void)state;
    enum challenge_state next;
    struct err e = {0};
    int allowed = 0;

    for (int s = 0; s < CHALLENGE_STATE_N; s++) {
        for (int ev = 0; ev < CHALLENGE_EVENT_N; ev++) {
            allowed +=
                !challenge_next((enum challenge_state)s, (enum challenge_event)ev, &next, &e);
        }
    }
    assert_int_equal(allowed, 5);
    assert_int_equal(challenge_next(CHALLENGE_APPRAISED, ON_APPRAISED, &next, &e), -1);
    assert_int_equal(e.code, ERR_WRONG_STATE);
    assert_string_equal(e.msg, "a challenge that is appraised does not take event 1");
    assert_int_equal(challenge_next(CHALLENGE_REFUSED, ON_REPEAT, &next, &e), 0);
    assert_int_equal(next, CHALLENGE_REFUSED);
}

/* A verifier whose key nobody believes does not start. */
static void test_untrusted_key(void **state)
{
    (void)state;
    struct err e = {0};

    engine_close(TAKE_PTR(w.g));
    struct jkey *own = w.keys.sign;
    w.keys.sign = w.tee;
    vworld_write_trust(&w);
    w.keys.sign = own;
    assert_int_equal(vworld_open(&w, &e), -1);
    assert_int_equal(e.code, ERR_DENIED);
    assert_string_equal(e.clause, "trust.verifier");
    assert_null(w.g);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_verdict), T(test_challenge),     T(test_runtime_data), T(test_report_data),
        T(test_policy),  T(test_sizes),         T(test_names),        T(test_bound),
        T(test_states),  T(test_untrusted_key),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

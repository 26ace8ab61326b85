/* Invariant 1 over random sequences of verdicts, grants, revocations, restarts and time: at most
 * one release for each (job, attempt), and only to the cnf of an affirming, unexpired verdict of
 * it; and never under a revoked grant, nor to an attempt older than one that had a release. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "svc-kbs/kbs_testing.h"
#include "svc-kbs/sealstore.h"

#define JOBS 2
#define ATTEMPTS 4 /* one more than the spec allows */
#define EARS 48
#define STEPS 500
#define SEEDS 8

struct known_ear {
    char *jws;
    int job;
    uint32_t attempt;
    int64_t iat_ms;
    int affirming, trusted;
    const struct jkey *cnf;
    int released;
};

struct model {
    struct world w;
    uint64_t rng;
    struct jkey *tee[2];
    char job[JOBS][JOB_ID_LEN + 1];
    char *spec[JOBS];
    struct known_ear ears[EARS];
    size_t n_ears;
    char *jwe[JOBS][ATTEMPTS + 1]; /* what left */
    const struct jkey *to[JOBS][ATTEMPTS + 1];
    uint32_t latest[JOBS];
    char *grant; /* id of the one in force, or NULL */
    unsigned releases, refusals;
};

/* xorshift64*: the same sequence for the same seed everywhere. */
static unsigned rnd(struct model *m, unsigned n)
{
    m->rng ^= m->rng >> 12;
    m->rng ^= m->rng << 25;
    m->rng ^= m->rng >> 27;
    return (unsigned)((m->rng * 0x2545F4914F6CDD1Dull) >> 33) % n;
}

static void new_ear(struct model *m)
{
    if (m->n_ears == EARS) {
        return;
    }
    struct known_ear *k = &m->ears[m->n_ears++];
    k->job = (int)rnd(m, JOBS);
    k->attempt = 1 + rnd(m, ATTEMPTS);
    k->iat_ms = m->w.now_ms;
    k->affirming = rnd(m, 4) != 0;
    k->trusted = rnd(m, 6) != 0;
    k->cnf = m->tee[rnd(m, 2)];
    json_t *claims = t_ear(&m->w, m->job[k->job], k->attempt, k->cnf);
    if (!k->affirming) {
        t_ear_hardware(claims, 97, "contraindicated");
    }
    k->jws = t_ear_sign(claims, k->trusted ? m->w.verifier : m->w.owner);
}

static void check_new_release(struct model *m, const struct known_ear *k, const char *jwe)
{
    assert_true(k->affirming);
    assert_true(k->trusted);
    assert_true(m->w.now_ms / 1000 < k->iat_ms / 1000 + 300);
    assert_non_null(m->grant);
    assert_true(k->attempt <= 3);
    assert_true(k->attempt > m->latest[k->job]);
    _cleanup_secret_ struct secret *plain = NULL;
    MUST(jwe_decrypt(k->cnf, jwe, 1u << 18, &plain, e));
    struct err no = {0};
    struct secret *stolen = NULL;
    const struct jkey *other = k->cnf == m->tee[0] ? m->tee[1] : m->tee[0];
    assert_int_equal(jwe_decrypt(other, jwe, 1u << 18, &stolen, &no), -1);
}

static void send_verdict(struct model *m)
{
    if (!m->n_ears) {
        return;
    }
    struct known_ear *k = &m->ears[rnd(m, (unsigned)m->n_ears)];
    /* Mostly under its own name; sometimes under another's. */
    int job = rnd(m, 8) ? k->job : (int)rnd(m, JOBS);
    uint32_t attempt = rnd(m, 8) ? k->attempt : 1 + rnd(m, ATTEMPTS);
    const char *spec = m->spec[rnd(m, 10) ? job : (int)rnd(m, JOBS)];
    Coffer__V1__ReleaseKey *r = world_verdict(&m->w, m->job[job], attempt, k->jws, spec, NULL);

    assert_non_null(r);
    assert_true(!r->refusal == (r->jwe[0] != 0));
    if (r->refusal) {
        m->refusals++;
    } else {
        assert_int_equal(job, k->job);
        assert_int_equal(attempt, k->attempt);
        char **before = &m->jwe[job][attempt];
        if (*before) {
            assert_string_equal(*before, r->jwe);
            assert_true(k->released);
            assert_ptr_equal(m->to[job][attempt], k->cnf);
        } else {
            check_new_release(m, k, r->jwe);
            *before = xstrdup(r->jwe);
            m->to[job][attempt] = k->cnf;
            m->latest[job] = attempt;
            k->released = 1;
            m->releases++;
        }
    }
    coffer__v1__release_key__free_unpacked(r, NULL);
}

static void owner(struct model *m, json_t *cmd)
{
    Coffer__V1__Reply *r = world_owner(&m->w, cmd, m->w.owner);

    assert_non_null(r);
    assert_int_equal(r->body_case, COFFER__V1__REPLY__BODY_OWNER);
    coffer__v1__reply__free_unpacked(r, NULL);
}

static void toggle_grant(struct model *m)
{
    if (m->grant) {
        owner(m, t_revoke(&m->w, m->grant));
        free(TAKE_PTR(m->grant));
        return;
    }
    json_t *g = t_grant(&m->w, m->w.dataset);
    json_object_set_new(g, "exp", json_integer(T_NOW_S + 10 * 86400));
    m->grant = xstrdup(json_string_value(json_object_get(g, "id")));
    _cleanup_free_ char *jws = t_sign(g, m->w.owner, GRANT_JWS_TYP);
    owner(m, t_put_grant(&m->w, jws));
}

static void pass_time(struct model *m)
{
    m->w.now_ms += rnd(m, 20) ? (int64_t)rnd(m, 60000) : (int64_t)RELEASE_KEEP_MS;
    MUST(engine_begin(m->w.g, e));
    MUST(engine_tick(m->w.g, e));
    MUST(engine_commit(m->w.g, e));
}

static void restart(struct model *m)
{
    world_close(&m->w);
    MUST(world_open(&m->w, e));
}

static void step(struct model *m)
{
    switch (rnd(m, 16)) {
    case 0:
        toggle_grant(m);
        break;
    case 1:
        pass_time(m);
        break;
    case 2:
        if (!rnd(m, 4)) {
            restart(m);
        }
        break;
    case 3:
    case 4:
        new_ear(m);
        break;
    default:
        send_verdict(m);
    }
}

static void run(uint64_t seed, struct model *m)
{
    memset(m, 0, sizeof(*m));
    m->rng = seed * 0x9E3779B97F4A7C15ull + 1;
    world_make(&m->w);
    MUST(world_open(&m->w, e));
    for (int i = 0; i < 2; i++) {
        MUST(jkey_generate(&m->tee[i], e));
    }
    for (int i = 0; i < JOBS; i++) {
        char nonce[20];
        snprintf(nonce, sizeof(nonce), "nonce-%010d", i);
        m->spec[i] = t_spec_sign(t_spec(&m->w, nonce), m->w.consumer, m->job[i]);
    }
    owner(m, t_put_secret(&m->w, m->w.dataset, buf_bytes(&m->w.prefix), m->w.key));
    toggle_grant(m);
    for (int i = 0; i < STEPS; i++) {
        step(m);
    }
}

static void model_done(struct model *m)
{
    for (int i = 0; i < JOBS; i++) {
        free(m->spec[i]);
        for (int k = 0; k <= ATTEMPTS; k++) {
            free(m->jwe[i][k]);
        }
    }
    for (size_t i = 0; i < m->n_ears; i++) {
        free(m->ears[i].jws);
    }
    jkey_free(m->tee[0]);
    jkey_free(m->tee[1]);
    free(m->grant);
    world_done(&m->w);
}

static void test_at_most_one_release(void **state)
{
    (void)state;
    unsigned releases = 0, refusals = 0;

    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        static struct model m;
        run(seed, &m);
        releases += m.releases;
        refusals += m.refusals;
        model_done(&m);
    }
    /* The sequences do reach both outcomes. */
    assert_true(releases >= SEEDS);
    assert_true(refusals >= SEEDS);
}

/* The table itself: nothing leads from RELEASED to new keys. */
static void test_table(void **state)
{
    (void)state;
    struct err e = {0};
    enum release_state next;

    assert_int_equal(release_next(RELEASE_NONE, ON_CLEARED, &next, &e), 0);
    assert_int_equal(next, RELEASE_RELEASED);
    assert_int_equal(release_next(RELEASE_REFUSED, ON_CLEARED, &next, &e), 0);
    assert_int_equal(next, RELEASE_RELEASED);
    assert_int_equal(release_next(RELEASE_RELEASED, ON_CLEARED, &next, &e), -1);
    assert_int_equal(e.code, ERR_WRONG_STATE);
    assert_string_equal(e.msg, "a release that is released does not take event 0");
    assert_int_equal(release_next(RELEASE_NONE, ON_SAME_VERDICT, &next, &e), -1);
    assert_int_equal(release_next(RELEASE_REFUSED, ON_SAME_VERDICT, &next, &e), -1);
    for (int ev = 0; ev < RELEASE_EVENT_N; ev++) {
        if (!release_next(RELEASE_RELEASED, (enum release_event)ev, &next, &e)) {
            assert_int_equal(next, RELEASE_RELEASED);
        }
    }
}

/* Even a writer that ignores the table cannot change a released row. */
static void test_row_is_final(void **state)
{
    (void)state;
    struct world w;
    struct err why = {0};
    struct release r = {.job = "jaaaaaaaaaaaaaaaaaaaaaaaaaa",
                        .attempt = 1,
                        .state = RELEASE_NONE,
                        .jti = "a",
                        .cnf = "b",
                        .jwe = (char *)"first",
                        .release_jws = (char *)"x"};

    world_make(&w);
    MUST(world_open(&w, e));
    struct db *db = engine_svc(w.g)->db;
    assert_int_equal(release_apply(db, &r, ON_CLEARED, 1, &why), 0);
    assert_int_equal(release_apply(db, &r, ON_CLEARED, 1, &why), -1);
    r.jwe = (char *)"second";
    assert_int_equal(kbs_store_release_put(db, &r, 1, &why), -1);
    struct release got;
    assert_int_equal(kbs_store_release_get(db, r.job, 1, &got, &why), 0);
    assert_string_equal(got.jwe, "first");
    release_done(&got);
    world_done(&w);
}

static void test_sealing(void **state)
{
    (void)state;
    _cleanup_secret_ struct secret *kek = secret_random(32), *other = secret_random(32);
    _cleanup_secret_ struct secret *key = secret_random(32), *got = NULL, *none = NULL;
    _cleanup_buf_ struct buf ref = BUF_INIT(SEALED_REF_MAX_BYTES);
    const struct secret_backend *b = secret_backend_find("local");
    const struct secret_name name = {"a.b", "dataset", "o"};
    const struct secret_name others[] = {
        {"a.c", "dataset", "o"}, {"a.b", "image-key", "o"}, {"a.b", "dataset", "p"}};
    struct err e = {0};

    assert_non_null(b);
    assert_null(secret_backend_find("vault"));
    assert_int_equal(b->put(kek, &name, key, &ref, &e), 0);
    assert_int_equal(ref.n, 12 + 32 + 16);
    assert_null(memmem(ref.p, ref.n, secret_cp(key), 32));
    assert_int_equal(b->get(kek, &name, buf_bytes(&ref), &got, &e), 0);
    assert_true(secret_eq(got, key));
    assert_int_equal(b->get(other, &name, buf_bytes(&ref), &none, &e), -1);
    assert_int_equal(e.code, ERR_BAD_SIGNATURE);
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        assert_int_equal(b->get(kek, &others[i], buf_bytes(&ref), &none, &e), -1);
    }
    for (size_t i = 0; i < ref.n; i++) {
        ref.p[i] ^= 1;
        assert_int_equal(b->get(kek, &name, buf_bytes(&ref), &none, &e), -1);
        assert_int_equal(e.code, ERR_BAD_SIGNATURE);
        ref.p[i] ^= 1;
    }
    for (size_t n = 0; n < ref.n; n++) {
        assert_int_equal(b->get(kek, &name, BYTES(ref.p, n), &none, &e), -1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_row_is_final),
        cmocka_unit_test(test_sealing),
        cmocka_unit_test(test_at_most_one_release),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

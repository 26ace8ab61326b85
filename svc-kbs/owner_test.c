/* Owner commands, and the keys at start. */
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

/* Takes the reply over; its JSON. */
static json_t *ok(Coffer__V1__Reply *r)
{
    json_t *j = NULL;

    assert_non_null(r);
    if (r->body_case != COFFER__V1__REPLY__BODY_OWNER) {
        fail_msg("refused: %s", r->refusal->message);
    }
    MUST(json_parse("reply", BYTES_STR(r->owner->json), 1u << 20, &j, e));
    coffer__v1__reply__free_unpacked(r, NULL);
    return j;
}

static void done(Coffer__V1__Reply *r)
{
    json_decref(ok(r));
}

static void no(Coffer__V1__Reply *r, const char *code, const char *clause, const char *expected,
               const char *actual)
{
    assert_non_null(r);
    assert_int_equal(r->body_case, COFFER__V1__REPLY__BODY_REFUSAL);
    assert_string_equal(r->refusal->clause, clause);
    assert_string_equal(r->refusal->code, code);
    if (expected) {
        assert_string_equal(r->refusal->expected, expected);
    }
    if (actual) {
        assert_string_equal(r->refusal->actual, actual);
    }
    coffer__v1__reply__free_unpacked(r, NULL);
}

static json_t *put(void)
{
    return t_put_secret(&w, w.dataset, buf_bytes(&w.prefix), w.key);
}

static void test_put_secret(void **state)
{
    (void)state;
    _cleanup_jkey_ struct jkey *other = NULL;
    _cleanup_secret_ struct secret *other_key = secret_random(32);
    _cleanup_secret_ struct secret *short_key = secret_random(31);

    MUST(jkey_generate(&other, e));
    no(world_owner(&w, put(), other), "denied", "secret.owner", jkey_thumbprint(w.owner),
       jkey_thumbprint(other));
    _cleanup_json_ json_t *j = ok(world_owner(&w, put(), w.owner));
    assert_string_equal(json_string_value(json_object_get(j, "id")), w.dataset);
    assert_true(json_is_true(json_object_get(j, "ok")));
    done(world_owner(&w, put(), w.owner));
    no(world_owner(&w, t_put_secret(&w, w.dataset, buf_bytes(&w.prefix), other_key), w.owner),
       "wrong-state", "secret.key", "the key that is stored under this id already", "another one");

    struct err e = {0};
    char *jwe = NULL;
    assert_int_equal(keybox_seal(w.kbs.seal, w.dataset, short_key, &jwe, &e), -1);
    assert_string_equal(e.msg, "key: expected 32 bytes, found 31");
}

/* The box of one id put under another: what somebody who saw the command would try. */
static void test_stolen_box(void **state)
{
    (void)state;
    _cleanup_jkey_ struct jkey *thief = NULL;
    _cleanup_buf_ struct buf prefix = BUF_INIT(1u << 16);
    _cleanup_secret_ struct secret *own = NULL;
    struct seal_header h;

    MUST(jkey_generate(&thief, e));
    MUST(seal_dataset_header_new("mine", "file", "AES-256-GCM", 4096, thief, &prefix, &own, e));
    MUST(seal_header_parse(buf_bytes(&prefix), &h, e));
    json_t *cmd = t_put_secret(&w, h.id, buf_bytes(&prefix), own);
    _cleanup_json_ json_t *victim = put();
    json_object_set(cmd, "jwe", json_object_get(victim, "jwe"));
    no(world_owner(&w, cmd, thief), "denied", "jwe.id", h.id, "the key of another id");
    seal_header_done(&h);
}

static void test_bad_secret(void **state)
{
    (void)state;
    _cleanup_jkey_ struct jkey *stranger = NULL;
    _cleanup_buf_ struct buf longer = BUF_INIT(1u << 16);
    _cleanup_free_ char *jwe = NULL;
    json_t *cmd, *box = NULL;

    /* To another KBS. */
    MUST(jkey_generate(&stranger, e));
    MUST(keybox_seal(stranger, w.dataset, w.key, &jwe, e));
    MUST(json_parse("jwe", BYTES_STR(jwe), 1u << 16, &box, e));
    cmd = put();
    json_object_set_new(cmd, "jwe", box);
    no(world_owner(&w, cmd, w.owner), "bad-signature", "jwe",
       "a key sealed to the KBS together with its id", NULL);

    /* A header with data behind it: its id is of the prefix alone. */
    MUST(buf_add(&longer, w.prefix.p, w.prefix.n, e));
    MUST(buf_add(&longer, "x", 1, e));
    no(world_owner(&w, t_put_secret(&w, w.dataset, buf_bytes(&longer), w.key), w.owner), "invalid",
       "secret.id", "a header or descriptor to compute the id from", NULL);
    cmd = put();
    json_object_set_new(cmd, "kind", json_string("other"));
    no(world_owner(&w, cmd, w.owner), "invalid", "secret.id", NULL, NULL);
    cmd = put();
    json_object_set_new(cmd, "more", json_true());
    no(world_owner(&w, cmd, w.owner), "invalid", "secret.id", NULL,
       "command.more: not a known member");
}

static void test_replay_and_time(void **state)
{
    (void)state;
    _cleanup_free_ char *jws = t_sign(t_list(&w), w.owner, OWNER_JWS_TYP);
    char expected[64], actual[32];

    Coffer__V1__Reply *r = world_owner_jws(&w, jws);
    struct trust trust = {.kbs = {.keys = {w.kbs.sign}, .n = 1}};
    MUST(owner_proof_verify(&trust, r->owner->proof_jws, jws, r->owner->json, e));
    done(r);
    no(world_owner_jws(&w, jws), "replay", "command", "a command that was not sent before",
       "the same one again");
    /* The same words signed anew are another command. */
    done(world_owner(&w, t_list(&w), w.owner));

    json_t *old = t_list(&w);
    json_object_set_new(old, "iat", json_integer(T_NOW_S - 301));
    snprintf(expected, sizeof(expected), "%d to %d", T_NOW_S - 300, T_NOW_S + 300);
    snprintf(actual, sizeof(actual), "%d", T_NOW_S - 301);
    no(world_owner(&w, old, w.owner), "expired", "command.iat", expected, actual);
    json_t *ahead = t_list(&w);
    json_object_set_new(ahead, "iat", json_integer(T_NOW_S + 301));
    no(world_owner(&w, ahead, w.owner), "expired", "command.iat", NULL, NULL);

    /* Remembered for as long as it is fresh. */
    w.now_ms += 299 * 1000;
    MUST(engine_begin(w.g, e));
    MUST(engine_tick(w.g, e));
    MUST(engine_commit(w.g, e));
    no(world_owner_jws(&w, jws), "replay", "command", NULL, NULL);
}

/* An ECDSA signature (r, s) holds as (r, n - s) too: that must not be a second command. */
static void test_malleable_replay(void **state)
{
    (void)state;
    static const uint8_t order[32] = {0xff, 0xff, 0xff, 0xff, 0,    0,    0,    0,
                                      0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                      0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84,
                                      0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51};
    _cleanup_free_ char *jws = t_sign(t_list(&w), w.owner, OWNER_JWS_TYP);
    _cleanup_buf_ struct buf sig = BUF_INIT(64), payload = BUF_INIT(4096);
    _cleanup_jkey_ struct jkey *who = NULL;
    char *dot = strrchr(jws, '.');
    unsigned borrow = 0;

    MUST(b64url_decode(dot + 1, strlen(dot + 1), &sig, e));
    for (int i = 31; i >= 0; i--) {
        unsigned v = 256u + order[i] - sig.p[32 + i] - borrow;
        sig.p[32 + i] = (uint8_t)v;
        borrow = v < 256;
    }
    _cleanup_free_ char *sig2 = b64url_encode(sig.p, sig.n);
    _cleanup_free_ char *jws2 = xasprintf("%.*s.%s", (int)(dot - jws), jws, sig2);
    assert_string_not_equal(jws, jws2);
    MUST(jws_verify_embedded(jws2, OWNER_JWS_TYP, 65536, &payload, &who, e));
    done(world_owner_jws(&w, jws));
    no(world_owner_jws(&w, jws2), "replay", "command", NULL, NULL);
}

static void test_command(void **state)
{
    (void)state;
    json_t *cmd = t_list(&w);

    json_object_set_new(cmd, "cmd", json_string("drop"));
    no(world_owner(&w, cmd, w.owner), "invalid", "command.cmd",
       "put-secret, put-grant, revoke or list", "another one");
    _cleanup_free_ char *wrong_typ = t_sign(t_list(&w), w.owner, "coffer-grant+jws");
    no(world_owner_jws(&w, wrong_typ), "invalid", "command.signature",
       "a command signed by its owner", NULL);
    _cleanup_free_ char *forged = t_sign(t_list(&w), w.owner, OWNER_JWS_TYP);
    char *c = strchr(forged, '.') + 10;
    *c = *c == 'A' ? 'B' : 'A';
    no(world_owner_jws(&w, forged), "bad-signature", "command.signature", NULL, NULL);
    no(world_owner_jws(&w, ""), "invalid", "command.signature", NULL, NULL);
    cmd = t_list(&w);
    json_object_del(cmd, "iat");
    no(world_owner(&w, cmd, w.owner), "invalid", "command", "a signed owner command",
       "command.iat: expected an integer, found nothing");
}

static Coffer__V1__Reply *put_grant(json_t *grant, const struct jkey *signer,
                                    const struct jkey *sender)
{
    _cleanup_free_ char *jws = t_sign(grant, signer, GRANT_JWS_TYP);

    return world_owner(&w, t_put_grant(&w, jws), sender);
}

static void test_grants(void **state)
{
    (void)state;
    _cleanup_jkey_ struct jkey *other = NULL;
    _cleanup_json_ json_t *grant = t_grant(&w, w.dataset);
    const char *id = json_string_value(json_object_get(grant, "id"));

    MUST(jkey_generate(&other, e));
    no(put_grant(json_incref(grant), w.owner, w.owner), "not-found", "grant.secret",
       "a secret that was put here before", w.dataset);
    done(world_owner(&w, put(), w.owner));
    no(put_grant(json_incref(grant), other, other), "denied", "grant.owner",
       jkey_thumbprint(w.owner), jkey_thumbprint(other));
    no(put_grant(json_incref(grant), other, w.owner), "bad-signature", "grant.signature",
       "a grant signed by the owner who sends it", NULL);
    json_t *expired = t_grant(&w, w.dataset);
    json_object_set_new(expired, "exp", json_integer(T_NOW_S));
    no(put_grant(expired, w.owner, w.owner), "expired", "grant.exp", NULL, NULL);

    _cleanup_json_ json_t *j = ok(put_grant(json_incref(grant), w.owner, w.owner));
    assert_string_equal(json_string_value(json_object_get(j, "id")), id);
    done(put_grant(json_incref(grant), w.owner, w.owner));
    json_t *changed = json_deep_copy(grant);
    json_object_set_new(changed, "exp", json_integer(T_NOW_S + 99999));
    no(put_grant(changed, w.owner, w.owner), "wrong-state", "grant.id", "an id that is new", id);

    no(world_owner(&w, t_revoke(&w, id), other), "not-found", "grant.id", "a grant of the signer's",
       "an id that names none");
    done(world_owner(&w, t_revoke(&w, id), w.owner));
    done(world_owner(&w, t_revoke(&w, id), w.owner));
    no(put_grant(json_incref(grant), w.owner, w.owner), "wrong-state", "grant.revoked",
       "an id that was not revoked", id);
}

static void test_grant_bound(void **state)
{
    (void)state;
    done(world_owner(&w, put(), w.owner));
    for (int i = 0; i < GRANTS_IN_FORCE_MAX; i++) {
        done(put_grant(t_grant(&w, w.dataset), w.owner, w.owner));
    }
    no(put_grant(t_grant(&w, w.dataset), w.owner, w.owner), "too-large", "grant.count",
       "fewer than 64 in force for one secret", "64");
}

static void test_list(void **state)
{
    (void)state;
    char job[JOB_ID_LEN + 1];
    _cleanup_jkey_ struct jkey *other = NULL;

    MUST(jkey_generate(&other, e));
    world_put_all(&w, NULL);
    json_t *brief = t_grant(&w, w.dataset);
    json_object_set_new(brief, "exp", json_integer(T_NOW_S + 5));
    done(put_grant(brief, w.owner, w.owner));
    json_t *gone = t_grant(&w, w.dataset);
    _cleanup_free_ char *gone_id = xstrdup(json_string_value(json_object_get(gone, "id")));
    done(put_grant(gone, w.owner, w.owner));
    done(world_owner(&w, t_revoke(&w, gone_id), w.owner));
    w.now_ms += 10 * 1000;

    _cleanup_free_ char *spec = t_spec_sign(t_spec(&w, "0123456789abcdef"), w.consumer, job);
    _cleanup_free_ char *ear = t_ear_sign(t_ear(&w, job, 1, w.tee), w.verifier);
    Coffer__V1__ReleaseKey *k = world_verdict(&w, job, 1, ear, spec, NULL);
    assert_null(k->refusal);
    coffer__v1__release_key__free_unpacked(k, NULL);

    _cleanup_json_ json_t *j = ok(world_owner(&w, t_list(&w), w.owner));
    const json_t *secrets = json_object_get(j, "secrets"), *grants = json_object_get(j, "grants");
    assert_int_equal(json_array_size(secrets), 1);
    const json_t *s0 = json_array_get(secrets, 0);
    assert_string_equal(json_string_value(json_object_get(s0, "id")), w.dataset);
    assert_string_equal(json_string_value(json_object_get(s0, "kind")), "dataset");
    assert_int_equal(json_array_size(grants), 3);
    static const char *const states[] = {"revoked", "expired", "active"};
    for (size_t i = 0; i < 3; i++) {
        const json_t *g = json_array_get(grants, i);
        assert_string_equal(json_string_value(json_object_get(g, "state")), states[i]);
        assert_int_equal(json_integer_value(json_object_get(g, "uses")), i == 2);
    }
    _cleanup_json_ json_t *none = ok(world_owner(&w, t_list(&w), other));
    assert_int_equal(json_array_size(json_object_get(none, "secrets")), 0);
    assert_int_equal(json_array_size(json_object_get(none, "grants")), 0);
}

/* No key in the clear, in the database or in a reply. */
static void test_at_rest(void **state)
{
    (void)state;
    world_put_all(&w, NULL);
    world_close(&w);
    static const char *const files[] = {"db", "db-wal"};
    _cleanup_free_ char *text = b64url_encode(secret_cp(w.key), 32);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        _cleanup_free_ char *path = world_path(&w, files[i]);
        _cleanup_buf_ struct buf b = BUF_INIT(16u << 20);
        if (access(path, F_OK)) {
            continue;
        }
        MUST(file_read(path, 16u << 20, 1, &b, e));
        assert_true(b.n > 4096);
        assert_null(memmem(b.p, b.n, secret_cp(w.key), 32));
        assert_null(memmem(b.p, b.n, text, strlen(text)));
    }
}

/* ---- keys at start ---- */

static void fails_to_start(enum err_code code, const char *message)
{
    struct err e = {0};

    assert_int_equal(world_open(&w, &e), -1);
    assert_int_equal(e.code, code);
    if (!strstr(e.msg, message)) {
        fail_msg("expected \"%s\", found \"%s\"", message, e.msg);
    }
}

static void test_wrong_kek(void **state)
{
    (void)state;
    _cleanup_free_ char *kek = world_path(&w, "kek"), *kept = world_path(&w, "kek.kept");
    _cleanup_secret_ struct secret *other = secret_random(32), *brief = secret_random(31);

    world_put_all(&w, NULL);
    world_close(&w);
    assert_int_equal(rename(kek, kept), 0);
    fails_to_start(ERR_NOT_FOUND, "/kek: the key is missing and may not be made");
    assert_int_equal(access(kek, F_OK), -1); /* and it was not made */
    MUST(secret_write_file(kek, other, e));
    fails_to_start(ERR_DENIED,
                   "kek: expected the key that this database was sealed with, got another key in "
                   "data-dir/kek");
    MUST(secret_write_file(kek, brief, e));
    fails_to_start(ERR_INVALID, "/kek: expected 32 bytes, found 31");
    assert_int_equal(rename(kept, kek), 0);
    assert_int_equal(chmod(kek, 0644), 0);
    fails_to_start(ERR_DENIED, "kek");
    assert_int_equal(chmod(kek, 0600), 0);
    MUST(world_open(&w, e));
}

static void test_untrusted_key(void **state)
{
    (void)state;
    struct service_keys own = w.kbs;
    struct jkey *other = NULL;

    world_close(&w);
    MUST(jkey_generate(&other, e));
    w.kbs.sign = other;
    world_write_trust(&w);
    _cleanup_free_ char *want = xasprintf("trust.kbs: expected this service's own key in the trust "
                                          "file, got no key %s",
                                          jkey_thumbprint(own.sign));
    fails_to_start(ERR_DENIED, want);
    w.kbs.sign = own.sign;
    w.kbs.seal = other;
    world_write_trust(&w);
    fails_to_start(ERR_DENIED, "trust.kbs_seal: expected");
    w.kbs = own;
    world_write_trust(&w);
    MUST(world_open(&w, e));
    jkey_free(other);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_put_secret),      T(test_stolen_box),       T(test_bad_secret),
        T(test_replay_and_time), T(test_malleable_replay), T(test_command),
        T(test_grants),          T(test_grant_bound),      T(test_list),
        T(test_at_rest),         T(test_wrong_kek),        T(test_untrusted_key),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The trust file, JWS by its keys, EARs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/evp.h>

#include "common/fileio.h"
#include "common/trust.h"

static const char job[] = "jaaaaaaaaaaaaaaaaaaaaaaaaaa";
static struct jkey *key[3];

static int setup(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(key); i++) {
        if (jkey_generate(&key[i], NULL)) {
            return -1;
        }
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(key); i++) {
        jkey_free(key[i]);
    }
    return 0;
}

static json_t *good_trust(void)
{
    json_t *j = json_pack("{s:i,s:[o],s:[o],s:o,s:[o],s:o,s:[o]}", "v", 1, "verifier",
                          jkey_public_jwk(key[0]), "kbs", jkey_public_jwk(key[1]), "kbs_seal",
                          jkey_public_jwk(key[1]), "gate", jkey_public_jwk(key[1]), "gate_seal",
                          jkey_public_jwk(key[1]), "reviewers", jkey_public_jwk(key[2]));
    assert_non_null(j);
    return j;
}

static struct trust *load(void)
{
    _cleanup_json_ json_t *j = good_trust();
    struct trust *t = NULL;
    struct err e = {0};

    if (trust_from_json(j, &t, &e)) {
        fail_msg("%s", e.msg);
    }
    return t;
}

static void bad_trust(json_t *j, const char *message)
{
    struct trust *t = NULL;
    struct err e = {0};

    assert_int_equal(trust_from_json(j, &t, &e), -1);
    if (!strstr(e.msg, message)) {
        fail_msg("expected \"%s\", found \"%s\"", message, e.msg);
    }
    json_decref(j);
}

static void test_trust(void **state)
{
    (void)state;
    static const char *const members[] = {"v",    "verifier",  "kbs",      "kbs_seal",
                                          "gate", "gate_seal", "reviewers"};
    _cleanup_(trust_freep) struct trust *t = load();

    assert_int_equal(t->verifier.n, 1);
    assert_string_equal(jkey_thumbprint(t->verifier.keys[0]), jkey_thumbprint(key[0]));
    assert_ptr_equal(trust_find(&t->verifier, jkey_thumbprint(key[0])), t->verifier.keys[0]);
    assert_null(trust_find(&t->verifier, jkey_thumbprint(key[1])));
    assert_string_equal(jkey_thumbprint(t->reviewers.keys[0]), jkey_thumbprint(key[2]));

    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        json_t *j = good_trust();
        char want[64];
        json_object_del(j, members[i]);
        snprintf(want, sizeof(want), "trust.%s: expected", members[i]);
        bad_trust(j, want);
    }
    json_t *j = good_trust();
    json_object_set_new(j, "v", json_integer(2));
    bad_trust(j, "trust.v: expected 1 to 1, found 2");
    j = good_trust();
    json_object_set_new(j, "verifiers", json_array());
    bad_trust(j, "trust.verifiers: not a known member");
    j = good_trust();
    json_object_set_new(j, "kbs", json_array());
    bad_trust(j, "trust.kbs: expected 1 to 8 keys, found 0");
    j = good_trust();
    while (json_array_size(json_object_get(j, "gate")) < 9) {
        json_array_append_new(json_object_get(j, "gate"), jkey_public_jwk(key[0]));
    }
    bad_trust(j, "trust.gate: expected 1 to 8 keys, found 9");
    j = good_trust();
    json_array_append_new(json_object_get(j, "gate"), jkey_public_jwk(key[1]));
    bad_trust(j, "trust.gate[1]: expected a key that is not in the list yet");
    j = good_trust();
    json_object_set_new(json_object_get(j, "kbs_seal"), "d", json_string("AA"));
    bad_trust(j, "trust.kbs_seal.d: not a known member");
    j = good_trust();
    json_object_set_new(json_object_get(j, "gate_seal"), "x", json_string("AA"));
    bad_trust(j, "trust.gate_seal");
    bad_trust(json_array(), "trust: expected an object");
    j = good_trust();
    json_object_set_new(j, "reviewers", json_array());
    struct trust *none = NULL;
    assert_int_equal(trust_from_json(j, &none, NULL), 0);
    assert_int_equal(none->release.n, 0);
    trust_free(TAKE_PTR(none));
    /* Who signs reference values may be left out, but not be nobody. */
    json_object_set_new(j, "release", json_pack("[o]", jkey_public_jwk(key[0])));
    assert_int_equal(trust_from_json(j, &none, NULL), 0);
    assert_string_equal(jkey_thumbprint(none->release.keys[0]), jkey_thumbprint(key[0]));
    trust_free(none);
    json_object_set_new(j, "release", json_array());
    bad_trust(j, "trust.release: expected 1 to 8 keys, found 0");
}

static void test_file(void **state)
{
    (void)state;
    char path[] = "/tmp/coffer-trust-XXXXXX";
    int fd = mkstemp(path);
    _cleanup_json_ json_t *j = good_trust();
    _cleanup_free_ char *text = NULL;
    _cleanup_(trust_freep) struct trust *t = NULL;
    struct err e = {0};

    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(jcs_encode(j, &text, &e), 0);
    assert_int_equal(file_replace(path, BYTES_STR(text), 0644, &e), 0);
    assert_int_equal(trust_read(path, &t, &e), 0);
    text[strlen(text) - 1] = 0;
    assert_int_equal(file_replace(path, BYTES_STR(text), 0644, &e), 0);
    struct trust *no = NULL;
    assert_int_equal(trust_read(path, &no, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_non_null(strstr(e.msg, path));
    unlink(path);
    assert_int_equal(trust_read(path, &no, &e), -1);
    assert_int_equal(e.code, ERR_IO);
}

static void test_verify(void **state)
{
    (void)state;
    _cleanup_(trust_freep) struct trust *t = load();
    _cleanup_buf_ struct buf out = BUF_INIT(64), none = BUF_INIT(64);
    _cleanup_free_ char *good = NULL, *stranger = NULL;
    struct err e = {0};

    assert_int_equal(jws_sign(key[0], "a", 0, BYTES_STR("hello"), &good, &e), 0);
    assert_int_equal(jws_sign(key[1], "a", 1, BYTES_STR("hello"), &stranger, &e), 0);
    assert_int_equal(trust_verify(&t->verifier, "verifier", good, "a", 1024, &out, &e), 0);
    assert_memory_equal(out.p, "hello", 5);
    assert_int_equal(trust_verify(&t->verifier, "verifier", good, "b", 1024, &none, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(trust_verify(&t->verifier, "verifier", good, "a", 100, &none, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_int_equal(trust_verify(&t->verifier, "verifier", stranger, "a", 1024, &none, &e), -1);
    assert_int_equal(e.code, ERR_BAD_SIGNATURE);
    assert_string_equal(e.clause, "verifier.signature");
    assert_string_equal(e.expected, "a signature by a verifier key of the trust file");
    assert_non_null(strstr(e.actual, jkey_thumbprint(key[1])));
    static const char *const bad[] = {"", ".", "a.b.c", "e30.e30.AA", "eyJraWQiOiJ4In0.e30.AA"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(trust_verify(&t->verifier, "verifier", bad[i], "a", 1024, &none, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
    }
    /* The key of the trust file by name, another's signature. */
    _cleanup_free_ char *header = xstrndup(good, (size_t)(strchr(good, '.') - good));
    _cleanup_free_ char *mixed = xasprintf("%s%s", header, strchr(stranger, '.'));
    assert_int_equal(trust_verify(&t->verifier, "verifier", mixed, "a", 1024, &none, &e), -1);
    assert_int_equal(e.code, ERR_BAD_SIGNATURE);
    assert_string_equal(e.actual, "one that does not");
    assert_int_equal(none.n, 0);
}

/* ---- EAR ---- */

static json_t *good_ear(void)
{
    static const uint8_t raw[32];
    _cleanup_free_ char *jti = b64url_encode(raw, 16), *nonce = b64url_encode(raw, 32);
    json_t *vector = json_object();

    for (size_t i = 0; i < EAR_VECTOR_N; i++) {
        json_object_set_new(vector, ear_vector_members[i], json_integer(i == 3 ? 2 : 0));
    }
    json_t *j = json_pack(
        "{s:s,s:i,s:i,s:s,s:s,s:{s:s,s:s},s:{s:o},s:{s:i,s:s,s:i,s:s,s:s},s:{s:{s:s,s:o,s:s,s:{}}}"
        "}",
        "eat_profile", "tag:github.com,2024:confidential-containers/Trustee", "iat", 1000, "exp",
        1300, "jti", jti, "iss", "coffer-verifier", "ear.verifier-id", "developer", "coffer",
        "build", "0", "cnf", "jwk", jkey_public_jwk(key[2]), "coffer", "v", 1, "job", job,
        "attempt", 2, "nonce", nonce, "tee", "sample", "submods", "cpu0", "ear.status", "affirming",
        "ear.trustworthiness-vector", vector, "ear.appraisal-policy-id", "p",
        "ear.veraison.annotated-evidence");
    assert_non_null(j);
    return j;
}

/* Takes over `claims`. */
static int verify_ear(json_t *claims, struct ear **ret, struct err *e)
{
    _cleanup_(trust_freep) struct trust *t = load();
    _cleanup_free_ char *token = NULL;

    assert_int_equal(jws_sign_json(key[0], "JWT", 0, claims, &token, e), 0);
    json_decref(claims);
    return ear_verify(t, token, ret, e);
}

static void test_ear(void **state)
{
    (void)state;
    _cleanup_(ear_freep) struct ear *r = NULL;
    struct err e = {0};

    assert_int_equal(verify_ear(good_ear(), &r, &e), 0);
    assert_string_equal(r->job, job);
    assert_int_equal(r->attempt, 2);
    assert_string_equal(r->tee, "sample");
    assert_string_equal(r->status, "affirming");
    assert_string_equal(jkey_thumbprint(r->cnf), jkey_thumbprint(key[2]));
    assert_int_equal(ear_check_time(r, 1000 * 1000, &e), 0);
    assert_int_equal(ear_check_time(r, 1300 * 1000 - 1, &e), 0);
    assert_int_equal(ear_check_time(r, 1300 * 1000, &e), -1);
    assert_int_equal(e.code, ERR_EXPIRED);
    assert_string_equal(e.clause, "verdict.exp");
    assert_string_equal(e.expected, "later than 1300 (now)");
    assert_string_equal(e.actual, "1300");
    assert_int_equal(ear_check_time(r, 940 * 1000, &e), 0);
    assert_int_equal(ear_check_time(r, 939 * 1000, &e), -1);
    assert_string_equal(e.clause, "verdict.iat");
}

/* Sets the member at a path of at most four steps, separated by '/'. */
static void put(json_t *j, const char *path, json_t *value)
{
    char copy[128];
    snprintf(copy, sizeof(copy), "%s", path);
    char *save = NULL, *step = strtok_r(copy, "/", &save), *next;

    while ((next = strtok_r(NULL, "/", &save))) {
        j = json_object_get(j, step);
        step = next;
    }
    if (value) {
        json_object_set_new(j, step, value);
    } else {
        assert_int_equal(json_object_del(j, step), 0);
    }
}

static void test_bad_ear(void **state)
{
    (void)state;
    static const struct {
        const char *path, *value, *message;
    } bad[] = {
        {"eat_profile", "\"x\"", "ear.eat_profile: expected \"tag:"},
        {"iss", "\"x\"", "ear.iss: expected \"coffer-verifier\""},
        {"iat", "\"x\"", "ear.iat: expected an integer"},
        {"exp", "1000", "ear.exp: expected 1 to 300 seconds after iat, found 0"},
        {"exp", "1301", "ear.exp: expected 1 to 300 seconds after iat, found 301"},
        {"jti", "\"AA\"", "ear.jti: expected 16 bytes as base64url"},
        {"nbf", "1", "ear.nbf: not a known member"},
        {"ear.verifier-id/build", "1", "build: expected a string"},
        {"cnf/kid", "\"x\"", "ear.cnf.kid: not a known member"},
        {"cnf/jwk", "{}", "ear.cnf.jwk"},
        {"cnf/jwk/d", "\"AA\"", "ear.cnf.jwk.d: not a known member"},
        {"coffer/v", "2", "ear.coffer.v: expected 1 to 1"},
        {"coffer/job", "\"../x\"", "ear.coffer.job: expected a job id"},
        {"coffer/attempt", "0", "ear.coffer.attempt: expected 1"},
        {"coffer/nonce", "\"AA\"", "ear.coffer.nonce: expected 32 bytes"},
        {"coffer/tee", "\"A B\"", "ear.coffer.tee: expected 1 to 32 of [a-z0-9-]"},
        {"coffer/tee", "\"\"", "ear.coffer.tee: expected 1 to 32"},
        {"submods/gpu0", "{}", "ear.submods.gpu0: not a known member"},
        {"submods/cpu0/ear.status", "\"warning\"", "ear.status: expected \"affirming\""},
        {"submods/cpu0/ear.status", "\"none\"", "ear.status: expected \"affirming\""},
        {"submods/cpu0/ear.trustworthiness-vector/hardware", "97",
         "ear.status: expected \"contraindicated\""},
        {"submods/cpu0/ear.trustworthiness-vector/configuration", "33",
         "ear.status: expected \"warning\""},
        {"submods/cpu0/ear.trustworthiness-vector/hardware", "0", "ear.status: expected \"none\""},
        {"submods/cpu0/ear.trustworthiness-vector/hardware", "128", "hardware: expected -128"},
        {"submods/cpu0/ear.trustworthiness-vector/more", "0", "expected 8 members, found 9"},
        {"submods/cpu0/ear.veraison.annotated-evidence", "1", "expected an object"},
    };
    static const char *const required[] = {"eat_profile",
                                           "iat",
                                           "exp",
                                           "jti",
                                           "iss",
                                           "cnf",
                                           "cnf/jwk",
                                           "coffer",
                                           "coffer/v",
                                           "coffer/job",
                                           "coffer/attempt",
                                           "coffer/nonce",
                                           "coffer/tee",
                                           "ear.verifier-id",
                                           "submods",
                                           "submods/cpu0",
                                           "submods/cpu0/ear.status",
                                           "submods/cpu0/ear.appraisal-policy-id",
                                           "submods/cpu0/ear.trustworthiness-vector",
                                           "submods/cpu0/ear.trustworthiness-vector/storage-opaque",
                                           "submods/cpu0/ear.veraison.annotated-evidence"};
    struct ear *r = NULL;
    struct err e = {0};

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        json_t *j = good_ear();
        put(j, bad[i].path, json_loads(bad[i].value, JSON_DECODE_ANY, NULL));
        assert_int_equal(verify_ear(j, &r, &e), -1);
        if (!strstr(e.msg, bad[i].message)) {
            fail_msg("%s: expected \"%s\", found \"%s\"", bad[i].path, bad[i].message, e.msg);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(required); i++) {
        json_t *j = good_ear();
        put(j, required[i], NULL);
        assert_int_equal(verify_ear(j, &r, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
    }
    assert_null(r);
}

static void test_status(void **state)
{
    (void)state;
    static const struct {
        int claim;
        const char *status;
    } tiers[] = {{-1, "none"},
                 {0, "none"},
                 {1, "none"},
                 {2, "affirming"},
                 {31, "affirming"},
                 {-2, "affirming"},
                 {-32, "affirming"},
                 {32, "warning"},
                 {95, "warning"},
                 {-33, "warning"},
                 {-96, "warning"},
                 {96, "contraindicated"},
                 {127, "contraindicated"},
                 {-97, "contraindicated"},
                 {-128, "contraindicated"}};

    for (size_t i = 0; i < ARRAY_LEN(tiers); i++) {
        int vector[EAR_VECTOR_N] = {0};
        vector[7] = tiers[i].claim;
        assert_string_equal(ear_vector_status(vector), tiers[i].status);
        vector[0] = 96;
        assert_string_equal(ear_vector_status(vector), "contraindicated");
    }
}

static void test_runtime_data(void **state)
{
    (void)state;
    static const char jwk[] = "{\"crv\":\"P-256\",\"kty\":\"EC\","
                              "\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
                              "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}";
    uint8_t nonce[32] = {0}, data[64], want[64] = {0};
    _cleanup_free_ char *jcs = NULL, *text = NULL;
    _cleanup_jkey_ struct jkey *k = NULL;
    _cleanup_json_ json_t *j = json_loads(jwk, 0, NULL);
    struct err e = {0};

    assert_int_equal(jkey_from_jwk(j, &k, &e), 0);
    assert_int_equal(runtime_data_make(job, 7, BYTES(nonce, 32), k, &jcs, data, &e), 0);
    text =
        xasprintf("{\"attempt\":7,\"job\":\"%s\",\"nonce\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
                  "AAAAAAA\",\"tee-pubkey\":%s}",
                  job, jwk);
    assert_string_equal(jcs, text);
    assert_int_equal(EVP_Digest(text, strlen(text), want, NULL, EVP_sha384(), NULL), 1);
    assert_memory_equal(data, want, 64);
}

static void test_owner_proof(void **state)
{
    _cleanup_(trust_freep) struct trust *t = load();
    _cleanup_free_ char *proof = NULL, *forged = NULL;
    struct err e = {0};

    (void)state;
    assert_int_equal(owner_proof_make(key[1], "command", "{}", 5, &proof, &e), 0);
    assert_int_equal(owner_proof_make(key[0], "command", "{}", 5, &forged, &e), 0);
    assert_int_equal(owner_proof_verify(t, proof, "command", "{}", &e), 0);
    assert_int_equal(owner_proof_verify(t, forged, "command", "{}", &e), -1);
    assert_string_equal(e.clause, "kbs.signature");
    assert_int_equal(owner_proof_verify(t, proof, "another", "{}", &e), -1);
    assert_string_equal(e.clause, "proof.command");
    assert_int_equal(owner_proof_verify(t, proof, "command", "{\"ok\":true}", &e), -1);
    assert_string_equal(e.clause, "proof.reply");
    assert_int_equal(owner_proof_verify(t, "", "command", "{}", &e), -1); /* an older KBS's */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trust),        cmocka_unit_test(test_file),
        cmocka_unit_test(test_verify),       cmocka_unit_test(test_ear),
        cmocka_unit_test(test_bad_ear),      cmocka_unit_test(test_status),
        cmocka_unit_test(test_runtime_data), cmocka_unit_test(test_owner_proof),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}

/* An independent implementation must read what ours writes, and ours what it writes. */
#include "common/jose.h"

#include <jose/b64.h>
#include <jose/jwe.h>
#include <jose/jwk.h>
#include <jose/jws.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/fileio.h"

#define MAX 65536u
#define ROUNDS 50

static json_t *their_key(void)
{
    json_t *jwk = json_pack("{s:s,s:s}", "kty", "EC", "crv", "P-256");

    assert_true(jose_jwk_gen(NULL, jwk));
    return jwk;
}

static struct jkey *as_ours(const json_t *jwk)
{
    struct jkey *k = NULL;
    struct err e = {0};

    if (jkey_from_jwk(jwk, &k, &e)) {
        fail_msg("%s", e.msg);
    }
    return k;
}

static void thumbprints_agree(void **state _unused_)
{
    for (int i = 0; i < ROUNDS; i++) {
        _cleanup_json_ json_t *jwk = their_key();
        _cleanup_jkey_ struct jkey *k = as_ours(jwk);
        _cleanup_json_ json_t *thp = jose_jwk_thp(NULL, jwk, "S256");
        assert_string_equal(jkey_thumbprint(k), json_string_value(thp));
    }
}

static void they_verify_our_signatures(void **state _unused_)
{
    for (int i = 0; i < ROUNDS; i++) {
        struct err e = {0};
        _cleanup_jkey_ struct jkey *k = NULL;
        _cleanup_free_ char *jws = NULL;
        assert_int_equal(jkey_generate(&k, &e), 0);
        assert_int_equal(jws_sign(k, "JWT", i % 2, BYTES_STR("{\"a\":1}"), &jws, &e), 0);
        char *dot1 = strchr(jws, '.'), *dot2 = strrchr(jws, '.');
        *dot1 = *dot2 = 0;
        _cleanup_json_ json_t *flat = json_pack("{s:s,s:s,s:s}", "protected", jws, "payload",
                                                dot1 + 1, "signature", dot2 + 1);
        _cleanup_json_ json_t *jwk = jkey_public_jwk(k), *other = their_key();
        assert_true(jose_jws_ver(NULL, flat, NULL, jwk, false));
        assert_false(jose_jws_ver(NULL, flat, NULL, other, false));
    }
}

static void we_verify_their_signatures(void **state _unused_)
{
    for (int i = 0; i < ROUNDS; i++) {
        _cleanup_json_ json_t *jwk = their_key();
        _cleanup_jkey_ struct jkey *k = as_ours(jwk);
        _cleanup_json_ json_t *pub = jkey_public_jwk(k);
        _cleanup_json_ json_t *jws = json_pack("{s:o}", "payload", jose_b64_enc("hello", 5));
        _cleanup_json_ json_t *sig =
            json_pack("{s:{s:s,s:s,s:O}}", "protected", "alg", "ES256", "typ", "JWT", "jwk", pub);
        _cleanup_buf_ struct buf payload = BUF_INIT(100);
        _cleanup_jkey_ struct jkey *signer = NULL;
        struct err e = {0};
        assert_true(jose_jws_sig(NULL, jws, sig, jwk));
        _cleanup_free_ char *compact =
            xasprintf("%s.%s.%s", json_string_value(json_object_get(jws, "protected")),
                      json_string_value(json_object_get(jws, "payload")),
                      json_string_value(json_object_get(jws, "signature")));
        assert_int_equal(jws_verify(compact, k, "JWT", MAX, &payload, &e), 0);
        assert_string_equal((char *)payload.p, "hello");
        buf_done(&payload);
        assert_int_equal(jws_verify_embedded(compact, "JWT", MAX, &payload, &signer, &e), 0);
        assert_string_equal(jkey_thumbprint(signer), jkey_thumbprint(k));
    }
}

static void they_decrypt_ours(void **state _unused_)
{
    for (int i = 0; i < ROUNDS; i++) {
        _cleanup_json_ json_t *jwk = their_key(), *other = their_key();
        _cleanup_jkey_ struct jkey *k = as_ours(jwk);
        _cleanup_secret_ struct secret *in = secret_random(32);
        _cleanup_free_ char *text = NULL;
        _cleanup_json_ json_t *jwe = NULL;
        struct err e = {0};
        size_t n = 0;
        assert_int_equal(jwe_encrypt(k, BYTES(secret_cp(in), 32), &text, &e), 0);
        assert_int_equal(json_parse("jwe", BYTES_STR(text), MAX, &jwe, &e), 0);
        _cleanup_free_ uint8_t *out = jose_jwe_dec(NULL, jwe, NULL, jwk, &n);
        assert_non_null(out);
        assert_int_equal(n, 32);
        assert_memory_equal(out, secret_cp(in), 32);
        assert_null(jose_jwe_dec(NULL, jwe, NULL, other, &n));
    }
}

/* libjose leaves epk outside the protected header, where we do not accept it; so the key is wrapped
 * first, and the header then composed around its epk before the content is encrypted. */
static json_t *they_encrypt(const json_t *jwk, const void *p, size_t n)
{
    _cleanup_json_ json_t *cek = json_object();
    json_t *jwe =
        json_pack("{s:{s:s,s:s}}", "unprotected", "alg", "ECDH-ES+A256KW", "enc", "A256GCM");

    assert_true(jose_jwe_enc_jwk(NULL, jwe, NULL, jwk, cek));
    json_t *epk = json_object_get(json_object_get(jwe, "header"), "epk");
    assert_non_null(epk);
    json_object_set_new(
        jwe, "protected",
        json_pack("{s:O,s:s,s:s}", "epk", epk, "enc", "A256GCM", "alg", "ECDH-ES+A256KW"));
    json_object_del(jwe, "header");
    json_object_del(jwe, "unprotected");
    assert_true(jose_jwe_enc_cek(NULL, jwe, cek, p, n));
    return jwe;
}

static void we_decrypt_theirs(void **state _unused_)
{
    for (int i = 0; i < ROUNDS; i++) {
        _cleanup_json_ json_t *jwk = their_key();
        _cleanup_jkey_ struct jkey *k = as_ours(jwk);
        _cleanup_secret_ struct secret *in = secret_random(48), *out = NULL;
        _cleanup_json_ json_t *jwe = they_encrypt(jwk, secret_cp(in), 48);
        _cleanup_free_ char *text = json_dumps(jwe, JSON_COMPACT);
        struct err e = {0};
        if (jwe_decrypt(k, text, MAX, &out, &e)) {
            fail_msg("%s", e.msg);
        }
        assert_true(secret_eq(in, out));
    }
}

static void they_use_our_key_files(void **state _unused_)
{
    char path[] = "/tmp/coffer-interop-XXXXXX";
    _cleanup_close_ int fd = mkstemp(path);
    _cleanup_buf_ struct buf b = BUF_INIT(4096);
    _cleanup_jkey_ struct jkey *k = NULL;
    _cleanup_json_ json_t *jwk = NULL;
    _cleanup_free_ char *text = NULL;
    struct err e = {0};
    size_t n = 0;

    assert_true(fd >= 0);
    assert_int_equal(jkey_generate(&k, &e), 0);
    assert_int_equal(jkey_write_private(path, k, &e), 0);
    assert_int_equal(file_read(path, 4096, 1, &b, &e), 0);
    unlink(path);
    assert_int_equal(json_parse("jwk", buf_bytes(&b), 4096, &jwk, &e), 0);
    assert_int_equal(jwe_encrypt(k, BYTES_STR("hello"), &text, &e), 0);
    _cleanup_json_ json_t *jwe = NULL;
    assert_int_equal(json_parse("jwe", BYTES_STR(text), MAX, &jwe, &e), 0);
    _cleanup_free_ char *out = jose_jwe_dec(NULL, jwe, NULL, jwk, &n);
    assert_non_null(out);
    assert_int_equal(n, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thumbprints_agree),          cmocka_unit_test(they_verify_our_signatures),
        cmocka_unit_test(we_verify_their_signatures), cmocka_unit_test(they_decrypt_ours),
        cmocka_unit_test(we_decrypt_theirs),          cmocka_unit_test(they_use_our_key_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

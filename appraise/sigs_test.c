#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#include "appraise/sigs.h"

/* Against OpenSSL's EVP interface, for what both say of good, bad and strange signatures. */

struct curve {
    enum ec_curve id;
    const char *name;
    size_t n;
    const EVP_MD *md;
    const char *order, *p; /* hex */
};

static struct curve curves[2];

static int setup(void **state)
{
    (void)state;
    curves[0] = (struct curve){EC_P256,
                               "P-256",
                               32,
                               EVP_sha256(),
                               "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
                               "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff"};
    curves[1] = (struct curve){EC_P384,
                               "P-384",
                               48,
                               EVP_sha384(),
                               "ffffffffffffffffffffffffffffffffffffffffffffffff"
                               "c7634d81f4372ddf581a0db248b0a77aecec196accc52973",
                               "ffffffffffffffffffffffffffffffffffffffffffffffff"
                               "fffffffffffffffeffffffff0000000000000000ffffffff"};
    return 0;
}

static void sign(EVP_PKEY *key, const struct curve *c, struct bytes m, uint8_t *r_s)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    uint8_t der[256];
    const uint8_t *p = der;
    size_t n = sizeof(der);

    assert_int_equal(EVP_DigestSignInit(ctx, NULL, c->md, NULL, key), 1);
    assert_int_equal(EVP_DigestSign(ctx, der, &n, m.p, m.n), 1);
    ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &p, (long)n);
    assert_int_equal(BN_bn2binpad(ECDSA_SIG_get0_r(sig), r_s, (int)c->n), (int)c->n);
    assert_int_equal(BN_bn2binpad(ECDSA_SIG_get0_s(sig), r_s + c->n, (int)c->n), (int)c->n);
    ECDSA_SIG_free(sig);
    EVP_MD_CTX_free(ctx);
}

/* What the EVP interface says. */
static int peer(EVP_PKEY *key, const struct curve *c, struct bytes m, const uint8_t *r_s)
{
    ECDSA_SIG *sig = ECDSA_SIG_new();
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    uint8_t *der = NULL;

    ECDSA_SIG_set0(sig, BN_bin2bn(r_s, (int)c->n, NULL), BN_bin2bn(r_s + c->n, (int)c->n, NULL));
    int n = i2d_ECDSA_SIG(sig, &der);
    int ok = n > 0 && EVP_DigestVerifyInit(ctx, NULL, c->md, NULL, key) == 1 &&
             EVP_DigestVerify(ctx, der, (size_t)n, m.p, m.n) == 1;
    OPENSSL_free(der);
    ECDSA_SIG_free(sig);
    EVP_MD_CTX_free(ctx);
    return ok;
}

static int ours(const struct ec_key *k, struct bytes m, const uint8_t *r_s)
{
    struct err e = {0};
    int rc = ec_verify("sig", k, m, r_s, &e);

    assert_int_equal(e.code, rc ? ERR_BAD_SIGNATURE : ERR_NONE);
    return rc == 0;
}

static void test_random(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(curves); i++) {
        const struct curve *c = &curves[i];
        EVP_PKEY *key = EVP_EC_gen(c->name), *other = EVP_EC_gen(c->name);
        _cleanup_(ec_key_freep) struct ec_key *k = NULL, *wrong = NULL;
        struct err e = {0};
        assert_int_equal(ec_key_from_pkey(c->id, "k", key, &k, &e), 0);
        assert_int_equal(ec_key_from_pkey(c->id, "k", other, &wrong, &e), 0);
        assert_int_equal(
            ec_key_from_pkey(c->id == EC_P256 ? EC_P384 : EC_P256, "k", key, &wrong, &e), -1);
        for (uint32_t n = 0; n < 300; n++) {
            uint8_t m[200], r_s[96], bad[96];
            memset(m, (int)n, sizeof(m));
            sign(key, c, BYTES(m, n % 200), r_s);
            assert_true(ours(k, BYTES(m, n % 200), r_s));
            assert_false(ours(wrong, BYTES(m, n % 200), r_s));
            assert_false(ours(k, BYTES(m, n % 200 + 1), r_s));
            memcpy(bad, r_s, sizeof(bad));
            bad[n % (2 * c->n)] ^= (uint8_t)(1u << n % 8);
            assert_false(ours(k, BYTES(m, n % 200), bad));
            assert_false(peer(key, c, BYTES(m, n % 200), bad));
        }
        EVP_PKEY_free(key);
        EVP_PKEY_free(other);
    }
}

/* 0, 1, the order and its neighbours, p, all ones, and r + order where it fits. */
static void test_edges(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(curves); i++) {
        const struct curve *c = &curves[i];
        EVP_PKEY *key = EVP_EC_gen(c->name);
        _cleanup_(ec_key_freep) struct ec_key *k = NULL;
        uint8_t edge[7][48] = {{0}}, good[96], r_s[96];
        struct bytes m = BYTES("message", 7);
        struct err e = {0};

        assert_int_equal(ec_key_from_pkey(c->id, "k", key, &k, &e), 0);
        sign(key, c, m, good);
        edge[1][c->n - 1] = 1;
        for (size_t d = 0; d < 3; d++) { /* order - 1, order, order + 1 */
            hex_decode(c->order, edge[2 + d], c->n, &e);
            edge[2 + d][c->n - 1] = (uint8_t)(edge[2 + d][c->n - 1] + d - 1);
        }
        hex_decode(c->p, edge[5], c->n, &e);
        memset(edge[6], 0xff, c->n);
        for (size_t r = 0; r < 8; r++) {
            for (size_t s = 0; s < 8; s++) {
                memcpy(r_s, r < 7 ? edge[r] : good, c->n);
                memcpy(r_s + c->n, s < 7 ? edge[s] : good + c->n, c->n);
                assert_int_equal(ours(k, m, r_s), r == 7 && s == 7);
                assert_int_equal(peer(key, c, m, r_s), r == 7 && s == 7);
            }
        }
        /* order - s is as good as s: ECDSA is malleable, and both sides know */
        BIGNUM *n = NULL, *s = BN_bin2bn(good + c->n, (int)c->n, NULL);
        assert_true(BN_hex2bn(&n, c->order) > 0);
        BN_sub(s, n, s);
        memcpy(r_s, good, c->n);
        BN_bn2binpad(s, r_s + c->n, (int)c->n);
        assert_true(ours(k, m, r_s));
        assert_true(peer(key, c, m, r_s));
        BN_free(n);
        BN_free(s);
        EVP_PKEY_free(key);
    }
}

static void test_keys(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(curves); i++) {
        const struct curve *c = &curves[i];
        EVP_PKEY *key = EVP_EC_gen(c->name), *rsa = EVP_RSA_gen(2048);
        uint8_t point[97], bad[96];
        struct ec_key *k = NULL;
        struct err e = {0};
        size_t n;

        assert_int_equal(
            EVP_PKEY_get_octet_string_param(key, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof(point), &n),
            1);
        assert_int_equal(ec_key_new(c->id, "k", BYTES(point + 1, 2 * c->n), &k, &e), 0);
        ec_key_free(TAKE_PTR(k));
        assert_int_equal(ec_key_new(c->id, "k", BYTES(point + 1, 2 * c->n - 1), &k, &e), -1);
        for (size_t bit = 0; bit < 16 * c->n; bit++) {
            memcpy(bad, point + 1, 2 * c->n);
            bad[bit / 8] ^= (uint8_t)(1u << bit % 8);
            assert_int_equal(ec_key_new(c->id, "k", BYTES(bad, 2 * c->n), &k, &e), -1);
        }
        memset(bad, 0, sizeof(bad));
        assert_int_equal(ec_key_new(c->id, "k", BYTES(bad, 2 * c->n), &k, &e), -1);
        memset(bad, 0xff, sizeof(bad));
        assert_int_equal(ec_key_new(c->id, "k", BYTES(bad, 2 * c->n), &k, &e), -1);
        hex_decode(c->p, bad, c->n, &e); /* x = p is no other spelling of 0 */
        assert_int_equal(ec_key_new(c->id, "k", BYTES(bad, 2 * c->n), &k, &e), -1);
        assert_int_equal(ec_key_from_pkey(c->id, "k", rsa, &k, &e), -1);
        assert_null(k);
        EVP_PKEY_free(key);
        EVP_PKEY_free(rsa);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_edges),
                                       cmocka_unit_test(test_keys)};

    return cmocka_run_group_tests(tests, setup, NULL);
}

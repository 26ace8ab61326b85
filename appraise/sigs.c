/* OpenSSL's curve code for P-256 is the fastest there is in Debian 12; what surrounds it in the EVP
 * interface (a provider's import of every new key, DER around r and s) costs a fifth of the
 * verification again, so the lower interface is used, which OpenSSL 3 still has and calls
 * deprecated. For P-384 OpenSSL 3.0 has no code of its own and nettle takes 0.6 of its time. Both
 * check that a key is a point of the curve, and that r and s are in range. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "appraise/sigs.h"

#include <nettle/bignum.h>
#include <nettle/ecc-curve.h>
#include <nettle/ecdsa.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#define COORDINATE_MAX 48u

struct ec_key {
    enum ec_curve curve;
    EC_KEY *p256;
    struct ecc_point p384;
    int has_p384;
};

static size_t coordinate_bytes(enum ec_curve c)
{
    return c == EC_P256 ? 32 : 48;
}

void ec_key_free(struct ec_key *k)
{
    if (k) {
        EC_KEY_free(k->p256);
        if (k->has_p384) {
            ecc_point_clear(&k->p384);
        }
        free(k);
    }
}

enum ec_curve ec_key_curve(const struct ec_key *k)
{
    return k->curve;
}

/* Made once: a group costs ten times the import of a key. Never freed. */
static const EC_GROUP *p256_group(void)
{
    static EC_GROUP *g;

    if (!g) {
        g = EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1);
    }
    return g;
}

static int set_p256(struct ec_key *k, const uint8_t *xy)
{
    uint8_t point[65] = {POINT_CONVERSION_UNCOMPRESSED};
    const EC_GROUP *g = p256_group();
    EC_POINT *p = g ? EC_POINT_new(g) : NULL;

    memcpy(point + 1, xy, 64);
    k->p256 = EC_KEY_new();
    /* oct2point refuses coordinates of p and more, and points beside the curve */
    int ok = p && k->p256 && EC_KEY_set_group(k->p256, g) == 1 &&
             EC_POINT_oct2point(g, p, point, sizeof(point), NULL) == 1 &&
             EC_KEY_set_public_key(k->p256, p) == 1;
    EC_POINT_free(p);
    ERR_clear_error();
    return ok;
}

static int set_p384(struct ec_key *k, const uint8_t *xy)
{
    mpz_t x, y;

    nettle_mpz_init_set_str_256_u(x, 48, xy);
    nettle_mpz_init_set_str_256_u(y, 48, xy + 48);
    ecc_point_init(&k->p384, nettle_get_secp_384r1());
    k->has_p384 = 1;
    int ok = ecc_point_set(&k->p384, x, y) == 1;
    mpz_clear(x);
    mpz_clear(y);
    return ok;
}

int ec_key_new(enum ec_curve curve, const char *what, struct bytes xy, struct ec_key **ret,
               struct err *e)
{
    _cleanup_(ec_key_freep) struct ec_key *k = xcalloc(1, sizeof(*k));
    const char *expected = curve == EC_P256 ? "a point of P-256" : "a point of P-384";

    k->curve = curve;
    if (xy.n != 2 * coordinate_bytes(curve)) {
        return err_refuse(e, ERR_INVALID, what, expected, "%zu bytes", xy.n);
    }
    if (!(curve == EC_P256 ? set_p256(k, xy.p) : set_p384(k, xy.p))) {
        return err_refuse(e, ERR_INVALID, what, expected, "a point beside it");
    }
    *ret = TAKE_PTR(k);
    return 0;
}

int ec_key_from_pkey(enum ec_curve curve, const char *what, EVP_PKEY *pkey, struct ec_key **ret,
                     struct err *e)
{
    uint8_t point[1 + 2 * COORDINATE_MAX];
    size_t n, bytes = coordinate_bytes(curve);
    char group[32] = "";

    int ok = EVP_PKEY_is_a(pkey, "EC") && EVP_PKEY_get_group_name(pkey, group, 32, &n) == 1 &&
             streq(group, curve == EC_P256 ? "prime256v1" : "secp384r1") &&
             EVP_PKEY_get_octet_string_param(pkey, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof(point),
                                             &n) == 1 &&
             n == 1 + 2 * bytes && point[0] == POINT_CONVERSION_UNCOMPRESSED;
    ERR_clear_error();
    if (!ok) {
        return err_refuse(e, ERR_INVALID, what,
                          curve == EC_P256 ? "a key on P-256" : "a key on P-384", "another");
    }
    return ec_key_new(curve, what, BYTES(point + 1, 2 * bytes), ret, e);
}

/* ---- verification ---------------------------------------------------------------------------- */

static int verify_p256(const struct ec_key *k, const uint8_t hash[32], const uint8_t *r_s)
{
    ECDSA_SIG *sig = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(r_s, 32, NULL), *s = BN_bin2bn(r_s + 32, 32, NULL);
    int ok = sig && r && s && ECDSA_SIG_set0(sig, r, s) == 1;

    if (!ok) {
        BN_free(r);
        BN_free(s);
    }
    ok = ok && ECDSA_do_verify(hash, 32, sig, k->p256) == 1; /* 0 < r, s < order */
    ECDSA_SIG_free(sig);
    ERR_clear_error();
    return ok;
}

static int verify_p384(const struct ec_key *k, const uint8_t hash[48], const uint8_t *r_s)
{
    struct dsa_signature sig;

    dsa_signature_init(&sig);
    nettle_mpz_set_str_256_u(sig.r, 48, r_s);
    nettle_mpz_set_str_256_u(sig.s, 48, r_s + 48);
    int ok = ecdsa_verify(&k->p384, 48, hash, &sig) == 1; /* 0 < r, s < order */
    dsa_signature_clear(&sig);
    return ok;
}

int ec_verify(const char *what, const struct ec_key *k, struct bytes message, const uint8_t *r_s,
              struct err *e)
{
    const EVP_MD *md = k->curve == EC_P256 ? EVP_sha256() : EVP_sha384();
    uint8_t hash[EVP_MAX_MD_SIZE];

    if (EVP_Digest(message.p, message.n, hash, NULL, md, NULL) != 1) {
        return err_set(e, ERR_INTERNAL, "cannot hash %s", what);
    }
    if (k->curve == EC_P256 ? verify_p256(k, hash, r_s) : verify_p384(k, hash, r_s)) {
        return 0;
    }
    return err_refuse(e, ERR_BAD_SIGNATURE, what,
                      k->curve == EC_P256 ? "an ECDSA signature on P-256 by the key"
                                          : "an ECDSA signature on P-384 by the key",
                      "one that does not hold");
}

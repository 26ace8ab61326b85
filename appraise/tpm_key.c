/* Signatures by TPM keys, through OpenSSL. */
#include "appraise/tpm_key.h"

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>

static int from_params(const char *type, OSSL_PARAM_BLD *b, EVP_PKEY **ret, struct err *e)
{
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(b);
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    EVP_PKEY *key = NULL;
    int ok = params && ctx && EVP_PKEY_fromdata_init(ctx) == 1 &&
             EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params) == 1;

    EVP_PKEY_CTX_free(ctx);
    ctx = ok ? EVP_PKEY_CTX_new(key, NULL) : NULL;
    /* For ECC: the point is on the curve. */
    ok = ctx && EVP_PKEY_public_check_quick(ctx) == 1;
    EVP_PKEY_CTX_free(ctx);
    OSSL_PARAM_free(params);
    ERR_clear_error();
    if (!ok) {
        EVP_PKEY_free(key);
        return err_set(e, ERR_INVALID, "expected a public %s key, found none that is sound", type);
    }
    *ret = key;
    return 0;
}

int tpm_ecc_key(uint16_t curve, struct bytes x, struct bytes y, EVP_PKEY **ret, struct err *e)
{
    size_t size = curve == TPM_ECC_P256 ? 32 : 48;
    uint8_t point[1 + 2 * 48] = {4};
    OSSL_PARAM_BLD *b = OSSL_PARAM_BLD_new();
    int rc = -1;

    /* A TPM may leave out leading zeros. */
    if (x.n > size || y.n > size) {
        OSSL_PARAM_BLD_free(b);
        return err_set(e, ERR_INVALID, "expected a point of %zu bytes each, found %zu and %zu",
                       size, x.n, y.n);
    }
    memcpy(point + 1 + size - x.n, x.p, x.n);
    memcpy(point + 1 + 2 * size - y.n, y.p, y.n);
    if (b &&
        OSSL_PARAM_BLD_push_utf8_string(b, OSSL_PKEY_PARAM_GROUP_NAME,
                                        curve == TPM_ECC_P256 ? "P-256" : "P-384", 0) == 1 &&
        OSSL_PARAM_BLD_push_octet_string(b, OSSL_PKEY_PARAM_PUB_KEY, point, 1 + 2 * size) == 1) {
        rc = from_params("EC", b, ret, e);
    } else {
        err_set(e, ERR_INTERNAL, "cannot build a key");
    }
    OSSL_PARAM_BLD_free(b);
    return rc;
}

static int rsa_key(const struct tpm_public *pub, EVP_PKEY **ret, struct err *e)
{
    BIGNUM *n = BN_bin2bn(pub->rsa_n.p, (int)pub->rsa_n.n, NULL), *x = BN_new();
    OSSL_PARAM_BLD *b = OSSL_PARAM_BLD_new();
    int rc = -1;

    if (n && x && b && BN_set_word(x, pub->rsa_exponent) == 1 &&
        OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_N, n) == 1 &&
        OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_E, x) == 1) {
        rc = from_params("RSA", b, ret, e);
    } else {
        err_set(e, ERR_INTERNAL, "cannot build a key");
    }
    OSSL_PARAM_BLD_free(b);
    BN_free(n);
    BN_free(x);
    return rc;
}

int tpm_public_key(const struct tpm_public *pub, EVP_PKEY **ret, struct err *e)
{
    return pub->type == TPM_ALG_RSA ? rsa_key(pub, ret, e)
                                    : tpm_ecc_key(pub->curve, pub->ecc_x, pub->ecc_y, ret, e);
}

/* r and s as OpenSSL wants them. NULL when there is no such. */
static uint8_t *ecdsa_der(const struct tpm_signature *sig, int *ret_n)
{
    ECDSA_SIG *es = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(sig->r.p, (int)sig->r.n, NULL);
    BIGNUM *s = BN_bin2bn(sig->s.p, (int)sig->s.n, NULL);
    uint8_t *der = NULL;

    if (!es || !r || !s || ECDSA_SIG_set0(es, r, s) != 1) {
        BN_free(r);
        BN_free(s);
    } else {
        *ret_n = i2d_ECDSA_SIG(es, &der);
    }
    ECDSA_SIG_free(es);
    return der;
}

static int holds(EVP_PKEY *key, const struct tpm_signature *sig, const char *md,
                 struct bytes message)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    EVP_PKEY_CTX *pctx = NULL; /* ctx owns it */
    uint8_t *der = NULL;
    struct bytes s = sig->rsa;
    int der_n = 0;
    int ok = ctx && EVP_DigestVerifyInit_ex(ctx, &pctx, md, NULL, NULL, key, NULL) == 1;

    if (ok && sig->scheme == TPM_ALG_RSAPSS) {
        ok = EVP_PKEY_CTX_set_rsa_padding(pctx, RSA_PKCS1_PSS_PADDING) == 1 &&
             EVP_PKEY_CTX_set_rsa_pss_saltlen(pctx, RSA_PSS_SALTLEN_AUTO) == 1;
    }
    if (ok && sig->scheme == TPM_ALG_ECDSA) {
        der = ecdsa_der(sig, &der_n);
        ok = der && der_n > 0;
        s = BYTES(der, ok ? (size_t)der_n : 0);
    }
    ok = ok && EVP_DigestVerify(ctx, s.p, s.n, message.p, message.n) == 1;
    OPENSSL_free(der);
    EVP_MD_CTX_free(ctx);
    ERR_clear_error();
    return ok;
}

static const char *hash_name(uint16_t hash, int allow_sha1)
{
    switch (hash) {
    case TPM_ALG_SHA1:
        return allow_sha1 ? "SHA1" : NULL;
    case TPM_ALG_SHA256:
        return "SHA256";
    case TPM_ALG_SHA384:
        return "SHA384";
    case TPM_ALG_SHA512:
        return "SHA512";
    }
    return NULL;
}

int tpm_signature_verify(const struct tpm_public *key, const struct tpm_signature *sig,
                         struct bytes message, int allow_sha1, struct err *e)
{
    const char *md = hash_name(sig->hash, allow_sha1);
    EVP_PKEY *pkey = NULL;

    if (!md) {
        return err_set(e, ERR_UNSUPPORTED,
                       "a signature: expected SHA-256, 384 or 512, found hash 0x%04x", sig->hash);
    }
    if ((key->type == TPM_ALG_ECC) != (sig->scheme == TPM_ALG_ECDSA)) {
        return err_set(e, ERR_BAD_SIGNATURE, "a signature of another kind than the key");
    }
    if (key->scheme != TPM_ALG_NULL &&
        (key->scheme != sig->scheme || key->scheme_hash != sig->hash)) {
        return err_set(e, ERR_BAD_SIGNATURE,
                       "expected scheme 0x%04x with hash 0x%04x, as the key says, found 0x%04x "
                       "with 0x%04x",
                       key->scheme, key->scheme_hash, sig->scheme, sig->hash);
    }
    if (tpm_public_key(key, &pkey, e)) {
        return -1;
    }
    int ok = holds(pkey, sig, md, message);
    EVP_PKEY_free(pkey);
    return ok ? 0 : err_set(e, ERR_BAD_SIGNATURE, "the signature does not hold");
}

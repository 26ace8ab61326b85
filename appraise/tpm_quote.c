#include "appraise/tpm_quote.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include "appraise/tpm_key.h"

#define AK_PARTS_MAX 1200u
#define RSA_MIN_BITS 2048

/* ---- keys ---- */

void tpm_ak_done(struct tpm_ak *ak)
{
    buf_done(&ak->parts);
    *ak = (struct tpm_ak){0};
}

static int take_number(EVP_PKEY *key, const char *name, size_t n, struct buf *parts,
                       struct bytes *ret)
{
    BIGNUM *v = NULL;
    size_t at = parts->n;
    int ok = EVP_PKEY_get_bn_param(key, name, &v) == 1;

    n = ok && !n ? (size_t)BN_num_bytes(v) : n;
    ok = ok && buf_reserve(parts, n, NULL) == 0 && BN_bn2binpad(v, parts->p + at, (int)n) == (int)n;
    BN_free(v);
    if (!ok) {
        return -1;
    }
    parts->n += n;
    *ret = BYTES(NULL, n); /* p follows, when the buffer no longer moves */
    return 0;
}

static int take_rsa(EVP_PKEY *key, struct tpm_ak *ak)
{
    BIGNUM *exponent = NULL;
    int ok = EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_E, &exponent) == 1 &&
             BN_num_bits(exponent) <= 32 && EVP_PKEY_get_bits(key) >= RSA_MIN_BITS &&
             EVP_PKEY_get_bits(key) <= 4096 &&
             take_number(key, OSSL_PKEY_PARAM_RSA_N, 0, &ak->parts, &ak->pub.rsa_n) == 0;

    if (ok) {
        ak->pub.type = TPM_ALG_RSA;
        ak->pub.rsa_bits = (uint16_t)EVP_PKEY_get_bits(key);
        ak->pub.rsa_exponent = (uint32_t)BN_get_word(exponent);
        ak->pub.rsa_n.p = ak->parts.p;
    }
    BN_free(exponent);
    return ok ? 0 : -1;
}

static int take_ecc(EVP_PKEY *key, struct tpm_ak *ak)
{
    size_t n = EVP_PKEY_get_bits(key) == 256 ? 32 : EVP_PKEY_get_bits(key) == 384 ? 48 : 0;
    char curve[32];

    if (!n ||
        EVP_PKEY_get_utf8_string_param(key, OSSL_PKEY_PARAM_GROUP_NAME, curve, sizeof(curve),
                                       NULL) != 1 ||
        (!streq(curve, "prime256v1") && !streq(curve, "secp384r1")) ||
        take_number(key, OSSL_PKEY_PARAM_EC_PUB_X, n, &ak->parts, &ak->pub.ecc_x) ||
        take_number(key, OSSL_PKEY_PARAM_EC_PUB_Y, n, &ak->parts, &ak->pub.ecc_y)) {
        return -1;
    }
    ak->pub.type = TPM_ALG_ECC;
    ak->pub.curve = n == 32 ? TPM_ECC_P256 : TPM_ECC_P384;
    ak->pub.ecc_x.p = ak->parts.p;
    ak->pub.ecc_y.p = ak->parts.p + n;
    return 0;
}

int tpm_ak_from_pkey(const char *what, EVP_PKEY *key, struct tpm_ak *ret, struct err *e)
{
    struct tpm_ak ak = {.parts = BUF_INIT(AK_PARTS_MAX),
                        .pub = {.scheme = TPM_ALG_NULL, .scheme_hash = TPM_ALG_NULL}};
    int kind = EVP_PKEY_get_base_id(key);

    if (kind == EVP_PKEY_RSA ? take_rsa(key, &ak) : kind == EVP_PKEY_EC ? take_ecc(key, &ak) : -1) {
        tpm_ak_done(&ak);
        return err_refuse(e, ERR_UNSUPPORTED, what, "RSA of 2048 to 4096 bits, P-256 or P-384",
                          "another kind of key");
    }
    *ret = ak;
    return 0;
}

int tpm_ak_from_spki(const char *what, struct bytes der, struct tpm_ak *ret, struct err *e)
{
    const uint8_t *p = der.p;
    EVP_PKEY *key = der.n <= 4096 ? d2i_PUBKEY(NULL, &p, (long)der.n) : NULL;
    int rc =
        key && p == der.p + der.n
            ? tpm_ak_from_pkey(what, key, ret, e)
            : err_refuse(e, ERR_INVALID, what, "a SubjectPublicKeyInfo in DER", "something else");

    EVP_PKEY_free(key);
    return rc;
}

int tpm_ak_from_public(const char *what, struct bytes in, struct tpm_ak *ret, struct err *e)
{
    const uint32_t must = TPM_RESTRICTED | TPM_SIGN | TPM_FIXED_TPM | TPM_SENSITIVE_DATA_ORIGIN;
    struct tpm_ak ak = {.has_attributes = 1};
    struct err why = {0};

    if (tpm_public_parse(in, &ak.pub, &why)) {
        return err_refuse(e, why.code, what, "a TPMT_PUBLIC of an RSA or ECC key", "%.200s",
                          why.msg);
    }
    if ((ak.pub.attributes & must) != must || ak.pub.attributes & TPM_DECRYPT) {
        return err_refuse(e, ERR_DENIED, what,
                          "a restricted signing key that its TPM made and keeps",
                          "attributes 0x%08x", ak.pub.attributes);
    }
    *ret = ak;
    return 0;
}

/* ---- quotes ---- */

static int refuse_as(struct err *e, const struct err *why, const char *clause, const char *expected)
{
    return err_refuse(e, why->code, clause, expected, "%.200s", why->msg);
}

static int check_selection(const struct tpm_quote *q, const struct tpm_bank *bank, struct err *e)
{
    uint32_t selected = 0, other = 0;

    for (size_t i = 0; i < q->n_selections; i++) {
        if (q->selections[i].hash == bank->hash) {
            selected |= q->selections[i].pcrs;
        } else {
            other |= q->selections[i].pcrs;
        }
    }
    if (!selected || other || selected != bank->pcrs || q->n_selections != 1) {
        char expected[96];
        snprintf(expected, sizeof(expected), "one selection of bank 0x%04x: 0x%06x", bank->hash,
                 bank->pcrs);
        return err_refuse(e, ERR_DENIED, "evidence.quote.pcrs", expected,
                          "%zu selections: 0x%06x of that bank, 0x%06x of others", q->n_selections,
                          selected, other);
    }
    return 0;
}

static int check_digest(const struct tpm_quote *q, const struct tpm_bank *bank, uint16_t hash,
                        struct err *e)
{
    uint8_t all[TPM_PCRS * TPM_MAX_DIGEST], digest[TPM_MAX_DIGEST];
    size_t n = 0, each = tpm_digest_bytes(bank->hash), digest_n;

    for (size_t i = 0; i < TPM_PCRS; i++) {
        if (bank->pcrs & 1u << i) {
            memcpy(all + n, bank->v[i], each);
            n += each;
        }
    }
    if (tpm_hash(hash, BYTES(all, n), digest, &digest_n, e)) {
        return -1;
    }
    if (q->pcr_digest.n == digest_n && CRYPTO_memcmp(q->pcr_digest.p, digest, digest_n) == 0) {
        return 0;
    }
    _cleanup_free_ char *expected = hex_encode(digest, digest_n);
    _cleanup_free_ char *actual = hex_encode(q->pcr_digest.p, q->pcr_digest.n);
    return err_refuse(e, ERR_DENIED, "evidence.quote.pcr_digest", expected, "%s", actual);
}

int tpm_quote_verify(const struct tpm_ak *ak, struct bytes message,
                     const struct tpm_signature *signature, const struct tpm_bank *bank,
                     struct tpm_quote *ret, struct err *e)
{
    struct tpm_quote q;
    struct err why = {0};

    if (!tpm_digest_bytes(bank->hash)) {
        return err_refuse(e, ERR_UNSUPPORTED, "evidence.quote.pcrs", "a bank of SHA-1 or SHA-2",
                          "0x%04x", bank->hash);
    }
    if (tpm_quote_parse(message, &q, &why)) {
        return refuse_as(e, &why, "evidence.quote", "a quote that a TPM made");
    }
    if (tpm_signature_verify(&ak->pub, signature, message, 0, &why)) {
        return refuse_as(e, &why, "evidence.quote.signature", "one by the attestation key");
    }
    if (check_selection(&q, bank, e) || check_digest(&q, bank, signature->hash, e)) {
        return -1;
    }
    *ret = q;
    return 0;
}

static int check_extra(const struct tpm_quote *q, const char *clause, struct bytes wanted,
                       struct err *e)
{
    if (q->extra.n == wanted.n && CRYPTO_memcmp(q->extra.p, wanted.p, wanted.n) == 0) {
        return 0;
    }
    _cleanup_free_ char *expected = hex_encode(wanted.p, wanted.n);
    _cleanup_free_ char *actual = hex_encode(q->extra.p, q->extra.n);
    return err_refuse(e, ERR_DENIED, clause, expected, "%s", actual);
}

int tpm_quote_bound(const struct tpm_quote *q, struct bytes nonce, const uint8_t *report_data,
                    struct err *e)
{
    if (nonce.n && check_extra(q, "evidence.nonce", nonce, e)) {
        return -1;
    }
    return report_data ? check_extra(q, "evidence.report_data", BYTES(report_data, 64), e) : 0;
}

int tpm_log_matches(const struct eventlog *log, const struct tpm_bank *bank, struct err *e)
{
    int b = eventlog_bank_of(bank->hash);
    uint32_t touched = 0;

    if (b < 0 || !log->has[b]) {
        return err_refuse(e, ERR_DENIED, "evidence.event_log", "digests of the quoted bank",
                          "none of 0x%04x", bank->hash);
    }
    for (size_t i = 0; i < log->n; i++) {
        touched |= 1u << log->v[i].pcr;
    }
    for (size_t i = 0; i < TPM_PCRS; i++) {
        if (!(touched & 1u << i) ||
            (bank->pcrs & 1u << i &&
             memcmp(log->pcr[b][i], bank->v[i], tpm_digest_bytes(bank->hash)) == 0)) {
            continue;
        }
        _cleanup_free_ char *expected = hex_encode(bank->v[i], tpm_digest_bytes(bank->hash));
        _cleanup_free_ char *actual = hex_encode(log->pcr[b][i], tpm_digest_bytes(bank->hash));
        return err_refuse(e, ERR_DENIED, "evidence.event_log",
                          bank->pcrs & 1u << i ? expected : "events of quoted PCRs only",
                          "PCR %zu: %s", i, actual);
    }
    return touched ? 0 : err_refuse(e, ERR_DENIED, "evidence.event_log", "events", "none");
}

void tpm_put_pcrs(json_t *claims, const struct tpm_bank *bank)
{
    char name[16];

    for (unsigned i = 0; i < TPM_PCRS; i++) {
        if (bank->pcrs & 1u << i) {
            _cleanup_free_ char *hex = hex_encode(bank->v[i], tpm_digest_bytes(bank->hash));
            snprintf(name, sizeof(name), "pcr%02u", i);
            json_object_set_new(claims, name, json_string(hex));
        }
    }
}

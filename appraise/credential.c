#include "appraise/credential.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#include "appraise/tpm.h"
#include "common/secret.h"

#define SEED_MAX EVP_MAX_MD_SIZE
#define POINT_MAX 48u

/* What a key's template says about the storage key that the endorsement key is. */
struct kind {
    const char *type;
    int bits;
    uint16_t name_alg;
    const char *md, *cipher, *group;
    size_t md_bytes, key_bytes;
};

static const struct kind kinds[] = {
    {"RSA", 2048, TPM_ALG_SHA256, "SHA256", "AES-128-CFB", NULL, 32, 16},
    {"RSA", 3072, TPM_ALG_SHA384, "SHA384", "AES-256-CFB", NULL, 48, 32},
    {"EC", 256, TPM_ALG_SHA256, "SHA256", "AES-128-CFB", "P-256", 32, 16},
    {"EC", 384, TPM_ALG_SHA384, "SHA384", "AES-256-CFB", "P-384", 48, 32},
};

static const struct kind *kind_of(EVP_PKEY *ek)
{
    char group[32] = "";
    size_t n;

    EVP_PKEY_get_group_name(ek, group, sizeof(group), &n);
    ERR_clear_error();
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        int named = !kinds[i].group || streq(group, kinds[i].group) ||
                    (kinds[i].bits == 256 && streq(group, "prime256v1")) ||
                    (kinds[i].bits == 384 && streq(group, "secp384r1"));
        if (EVP_PKEY_is_a(ek, kinds[i].type) && EVP_PKEY_get_bits(ek) == kinds[i].bits && named) {
            return &kinds[i];
        }
    }
    return NULL;
}

static int out_of_order(struct err *e, const char *what)
{
    ERR_clear_error();
    return err_set(e, ERR_INTERNAL, "credential: cannot %s", what);
}

static void put32(uint8_t p[4], uint32_t v)
{
    for (int i = 0; i < 4; i++) {
        p[i] = (uint8_t)(v >> (24 - 8 * i));
    }
}

/* ---- the derivations: Part 1, 11.4.10; what is wanted here is never more than one block ---- */

static int hmac(const struct kind *k, struct bytes key, const struct bytes *parts, size_t n,
                uint8_t out[EVP_MAX_MD_SIZE])
{
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)(uintptr_t)k->md, 0),
        OSSL_PARAM_construct_end()};
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    EVP_MAC_CTX *ctx = mac ? EVP_MAC_CTX_new(mac) : NULL;
    size_t got = 0;
    int ok = ctx && EVP_MAC_init(ctx, key.p, key.n, params) == 1;

    for (size_t i = 0; ok && i < n; i++) {
        ok = EVP_MAC_update(ctx, parts[i].p, parts[i].n) == 1;
    }
    ok = ok && EVP_MAC_final(ctx, out, &got, EVP_MAX_MD_SIZE) == 1 && got == k->md_bytes;
    EVP_MAC_CTX_free(ctx);
    EVP_MAC_free(mac);
    return ok;
}

/* `label` with its NUL. */
static int kdfa(const struct kind *k, struct bytes key, struct bytes label, struct bytes context,
                size_t n_bytes, uint8_t out[EVP_MAX_MD_SIZE])
{
    uint8_t one[4], bits[4];

    put32(one, 1);
    put32(bits, (uint32_t)n_bytes * 8);
    const struct bytes parts[] = {BYTES(one, 4), label, context, BYTES(bits, 4)};
    return n_bytes <= k->md_bytes && hmac(k, key, parts, ARRAY_LEN(parts), out);
}

static int kdfe(const struct kind *k, struct bytes z, struct bytes label, struct bytes u,
                struct bytes v, uint8_t out[EVP_MAX_MD_SIZE])
{
    EVP_MD *md = EVP_MD_fetch(NULL, k->md, NULL);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    uint8_t one[4];

    put32(one, 1);
    int ok = md && ctx && EVP_DigestInit_ex(ctx, md, NULL) == 1 &&
             EVP_DigestUpdate(ctx, one, 4) == 1 && EVP_DigestUpdate(ctx, z.p, z.n) == 1 &&
             EVP_DigestUpdate(ctx, label.p, label.n) == 1 && EVP_DigestUpdate(ctx, u.p, u.n) == 1 &&
             EVP_DigestUpdate(ctx, v.p, v.n) == 1 && EVP_DigestFinal_ex(ctx, out, NULL) == 1;
    EVP_MD_CTX_free(ctx);
    EVP_MD_free(md);
    return ok;
}

/* ---- the seed, and how it travels ---- */

#define IDENTITY "IDENTITY" /* its NUL is part of it */

static int put2b(struct buf *ret, struct bytes b, struct err *e)
{
    uint8_t n[2] = {(uint8_t)(b.n >> 8), (uint8_t)b.n};

    return buf_add(ret, n, 2, e) || buf_add(ret, b.p, b.n, e) ? -1 : 0;
}

static int seed_by_rsa(const struct kind *k, EVP_PKEY *ek, uint8_t seed[SEED_MAX], struct buf *ret,
                       struct err *e)
{
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(ek, NULL);
    void *label = OPENSSL_memdup(IDENTITY, sizeof(IDENTITY));
    uint8_t out[512];
    size_t n = sizeof(out);

    random_bytes(seed, k->md_bytes);
    int ok = ctx && label && EVP_PKEY_encrypt_init(ctx) == 1 &&
             EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_OAEP_PADDING) == 1 &&
             EVP_PKEY_CTX_set_rsa_oaep_md_name(ctx, k->md, NULL) == 1 &&
             EVP_PKEY_CTX_set_rsa_mgf1_md_name(ctx, k->md, NULL) == 1;
    if (ok && EVP_PKEY_CTX_set0_rsa_oaep_label(ctx, label, sizeof(IDENTITY)) == 1) {
        label = NULL; /* ctx has it */
    }
    ok = ok && !label && EVP_PKEY_encrypt(ctx, out, &n, seed, k->md_bytes) == 1;
    OPENSSL_free(label);
    EVP_PKEY_CTX_free(ctx);
    return ok ? put2b(ret, BYTES(out, n), e) : out_of_order(e, "encrypt to the endorsement key");
}

/* x, y of a public key, each with its leading zeros. */
static int point_of(EVP_PKEY *key, size_t size, uint8_t x[POINT_MAX], uint8_t y[POINT_MAX])
{
    BIGNUM *bx = NULL, *by = NULL;
    int ok = EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_EC_PUB_X, &bx) == 1 &&
             EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_EC_PUB_Y, &by) == 1 &&
             BN_bn2binpad(bx, x, (int)size) == (int)size &&
             BN_bn2binpad(by, y, (int)size) == (int)size;

    BN_free(bx);
    BN_free(by);
    return ok;
}

static int agree(EVP_PKEY *own, EVP_PKEY *peer, uint8_t z[POINT_MAX], size_t size)
{
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(own, NULL);
    size_t n = size;
    int ok = ctx && EVP_PKEY_derive_init(ctx) == 1 && EVP_PKEY_derive_set_peer(ctx, peer) == 1 &&
             EVP_PKEY_derive(ctx, z, &n) == 1 && n == size;

    EVP_PKEY_CTX_free(ctx);
    return ok;
}

static int seed_by_ecc(const struct kind *k, EVP_PKEY *ek, uint8_t seed[SEED_MAX], struct buf *ret,
                       struct err *e)
{
    size_t size = (size_t)k->bits / 8;
    uint8_t ex[POINT_MAX], ey[POINT_MAX], x[POINT_MAX], y[POINT_MAX], z[POINT_MAX];
    _cleanup_buf_ struct buf point = BUF_INIT(4 + 2 * POINT_MAX);
    EVP_PKEY *own = EVP_EC_gen(k->group);
    int ok = own && point_of(own, size, x, y) && point_of(ek, size, ex, ey) &&
             agree(own, ek, z, size) &&
             kdfe(k, BYTES(z, size), BYTES(IDENTITY, sizeof(IDENTITY)), BYTES(x, size),
                  BYTES(ex, size), seed);

    OPENSSL_cleanse(z, sizeof(z));
    EVP_PKEY_free(own);
    if (!ok) {
        return out_of_order(e, "agree on a key with the endorsement key");
    }
    return put2b(&point, BYTES(x, size), e) || put2b(&point, BYTES(y, size), e) ||
                   put2b(ret, buf_bytes(&point), e)
               ? -1
               : 0;
}

/* ---- the credential ---- */

static int encrypt(const struct kind *k, const uint8_t *key, struct bytes plain, uint8_t *out)
{
    static const uint8_t iv[16] = {0};
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, k->cipher, NULL);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n = 0;
    int ok = cipher && ctx && EVP_EncryptInit_ex2(ctx, cipher, key, iv, NULL) == 1 &&
             EVP_EncryptUpdate(ctx, out, &n, plain.p, (int)plain.n) == 1 && (size_t)n == plain.n;

    EVP_CIPHER_CTX_free(ctx);
    EVP_CIPHER_free(cipher);
    return ok;
}

static int protect(const struct kind *k, struct bytes seed, struct bytes ak_name,
                   const uint8_t *secret, struct buf *ret, struct err *e)
{
    _cleanup_buf_ struct buf id = BUF_INIT(2 + EVP_MAX_MD_SIZE + 2 + CREDENTIAL_SECRET_BYTES);
    uint8_t key[EVP_MAX_MD_SIZE], tag[EVP_MAX_MD_SIZE];
    uint8_t plain[2 + CREDENTIAL_SECRET_BYTES] = {0, CREDENTIAL_SECRET_BYTES};
    uint8_t hidden[sizeof(plain)];

    memcpy(plain + 2, secret, CREDENTIAL_SECRET_BYTES);
    const struct bytes signed_parts[] = {BYTES(hidden, sizeof(hidden)), ak_name};
    int ok = kdfa(k, seed, BYTES("STORAGE", 8), ak_name, k->key_bytes, key) &&
             encrypt(k, key, BYTES(plain, sizeof(plain)), hidden) &&
             kdfa(k, seed, BYTES("INTEGRITY", 10), BYTES("", 0), k->md_bytes, key) &&
             hmac(k, BYTES(key, k->md_bytes), signed_parts, ARRAY_LEN(signed_parts), tag);
    OPENSSL_cleanse(key, sizeof(key));
    OPENSSL_cleanse(plain, sizeof(plain));
    if (!ok) {
        return out_of_order(e, "protect the secret");
    }
    return put2b(&id, BYTES(tag, k->md_bytes), e) || buf_add(&id, hidden, sizeof(hidden), e) ||
                   put2b(ret, buf_bytes(&id), e)
               ? -1
               : 0;
}

int credential_make(EVP_PKEY *ek, struct bytes ak_name,
                    const uint8_t secret[CREDENTIAL_SECRET_BYTES], struct buf *ret, struct err *e)
{
    const struct kind *k = kind_of(ek);
    _cleanup_buf_ struct buf sent = BUF_INIT(CREDENTIAL_MAX_BYTES);
    uint8_t seed[SEED_MAX];

    if (!k) {
        return err_set(e, ERR_UNSUPPORTED,
                       "expected an endorsement key on P-256, P-384, or RSA with 2048 or 3072 "
                       "bits, found another kind");
    }
    int rc = k->group ? seed_by_ecc(k, ek, seed, &sent, e) : seed_by_rsa(k, ek, seed, &sent, e);
    rc = rc ? rc : protect(k, BYTES(seed, k->md_bytes), ak_name, secret, ret, e);
    OPENSSL_cleanse(seed, sizeof(seed));
    return rc ? rc : buf_add(ret, sent.p, sent.n, e);
}

int credential_proof(struct bytes secret, struct bytes ak_pub, struct bytes ek_cert,
                     uint8_t ret[CREDENTIAL_PROOF_BYTES], struct err *e)
{
    const struct bytes parts[] = {BYTES_STR("coffer vtpm credential"), secret, ak_pub, ek_cert};
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1;

    for (size_t i = 0; ok && i < ARRAY_LEN(parts); i++) {
        uint8_t n[4];
        put32(n, (uint32_t)parts[i].n);
        ok = EVP_DigestUpdate(ctx, n, 4) == 1 && EVP_DigestUpdate(ctx, parts[i].p, parts[i].n) == 1;
    }
    ok = ok && EVP_DigestFinal_ex(ctx, ret, NULL) == 1;
    EVP_MD_CTX_free(ctx);
    return ok ? 0 : out_of_order(e, "hash");
}

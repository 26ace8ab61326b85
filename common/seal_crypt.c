#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include "common/seal_int.h"

#define NONCE_BYTES 12u
#define INFO "coffer/seal/v1"

/* One context for each direction: both hold the expanded key and are wiped by OpenSSL. */
struct sealer {
    EVP_CIPHER_CTX *seal, *open;
    uint32_t chunk_bytes;
};

/* key = HKDF-SHA256(data key, salt = SHA-256(prefix), info) */
static int derive(const struct secret *key, const uint8_t salt[32], uint8_t *out, struct err *e)
{
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
    char digest[] = "SHA256", info[] = INFO;
    /* The parameter type has no const; OpenSSL only reads these. */
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)(uintptr_t)secret_cp(key),
                                          secret_n(key)),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)(uintptr_t)salt, 32),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, strlen(info)),
        OSSL_PARAM_construct_end(),
    };
    int ok = ctx && EVP_KDF_derive(ctx, out, SEAL_KEY_BYTES, params) == 1;

    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    return ok ? 0 : err_set(e, ERR_INTERNAL, "seal: the key could not be derived");
}

int sealer_new(const struct seal_header *h, const struct secret *key, struct sealer **ret,
               struct err *e)
{
    _cleanup_(sealer_freep) struct sealer *s = NULL;
    _cleanup_secret_ struct secret *derived = NULL;
    const EVP_CIPHER *cipher =
        streq(h->cipher, SEAL_AES256GCM) ? EVP_aes_256_gcm() : EVP_chacha20_poly1305();

    if (secret_n(key) != SEAL_KEY_BYTES) {
        return err_set(e, ERR_INVALID, "seal key: expected %u bytes, got %zu", SEAL_KEY_BYTES,
                       secret_n(key));
    }
    derived = secret_new(SEAL_KEY_BYTES);
    if (derive(key, h->salt, secret_p(derived), e) < 0) {
        return -1;
    }
    s = xcalloc(1, sizeof(*s));
    s->chunk_bytes = h->chunk_bytes;
    s->seal = EVP_CIPHER_CTX_new();
    s->open = EVP_CIPHER_CTX_new();
    if (!s->seal || !s->open ||
        !EVP_EncryptInit_ex(s->seal, cipher, NULL, secret_cp(derived), NULL) ||
        !EVP_DecryptInit_ex(s->open, cipher, NULL, secret_cp(derived), NULL)) {
        return err_set(e, ERR_INTERNAL, "seal: %s is not available", h->cipher);
    }
    *ret = TAKE_PTR(s);
    return 0;
}

void sealer_free(struct sealer *s)
{
    if (!s) {
        return;
    }
    EVP_CIPHER_CTX_free(s->seal);
    EVP_CIPHER_CTX_free(s->open);
    free(s);
}

static void make_nonce(uint64_t index, int final, uint8_t out[NONCE_BYTES])
{
    memset(out, 0, 3);
    for (unsigned i = 0; i < 8; i++) {
        out[3 + i] = (uint8_t)(index >> (56 - 8 * i));
    }
    out[11] = final ? 1 : 0;
}

static int check_size(const struct sealer *s, uint64_t index, int final, size_t plain,
                      struct err *e)
{
    if (final ? plain > s->chunk_bytes : plain != s->chunk_bytes) {
        return err_set(e, ERR_INVALID, "sealed chunk %llu%s: expected %s%u plain bytes, got %zu",
                       (unsigned long long)index, final ? " (last)" : "", final ? "at most " : "",
                       s->chunk_bytes, plain);
    }
    return 0;
}

int sealer_seal(struct sealer *s, uint64_t index, int final, struct bytes plain, uint8_t *out,
                struct err *e)
{
    uint8_t nonce[NONCE_BYTES];
    int n = 0, rest = 0;

    if (check_size(s, index, final, plain.n, e) < 0) {
        return -1;
    }
    make_nonce(index, final, nonce);
    if (!EVP_EncryptInit_ex(s->seal, NULL, NULL, NULL, nonce) ||
        (plain.n && !EVP_EncryptUpdate(s->seal, out, &n, plain.p, (int)plain.n)) ||
        !EVP_EncryptFinal_ex(s->seal, out + n, &rest) || (size_t)n + (size_t)rest != plain.n ||
        !EVP_CIPHER_CTX_ctrl(s->seal, EVP_CTRL_AEAD_GET_TAG, SEAL_TAG_BYTES, out + plain.n)) {
        return err_set(e, ERR_INTERNAL, "sealed chunk %llu: could not be encrypted",
                       (unsigned long long)index);
    }
    return 0;
}

int sealer_open(struct sealer *s, uint64_t index, int final, struct bytes sealed, uint8_t *out,
                struct err *e)
{
    size_t plain;

    if (sealed.n < SEAL_TAG_BYTES) {
        return err_set(e, ERR_INVALID, "sealed chunk %llu: expected at least %u bytes, got %zu",
                       (unsigned long long)index, SEAL_TAG_BYTES, sealed.n);
    }
    plain = sealed.n - SEAL_TAG_BYTES;
    return sealer_open_apart(s, index, final, BYTES(sealed.p, plain), sealed.p + plain, out, e);
}

int sealer_open_apart(struct sealer *s, uint64_t index, int final, struct bytes cipher,
                      const uint8_t tag[SEAL_TAG_BYTES], uint8_t *out, struct err *e)
{
    uint8_t nonce[NONCE_BYTES], expected[SEAL_TAG_BYTES];
    const size_t plain = cipher.n;
    int n = 0, rest = 0;

    if (check_size(s, index, final, plain, e) < 0) {
        return -1;
    }
    make_nonce(index, final, nonce);
    memcpy(expected, tag, SEAL_TAG_BYTES);
    if (!EVP_DecryptInit_ex(s->open, NULL, NULL, NULL, nonce) ||
        !EVP_CIPHER_CTX_ctrl(s->open, EVP_CTRL_AEAD_SET_TAG, SEAL_TAG_BYTES, expected) ||
        (plain && !EVP_DecryptUpdate(s->open, out, &n, cipher.p, (int)plain))) {
        return err_set(e, ERR_INTERNAL, "sealed chunk %llu: could not be decrypted",
                       (unsigned long long)index);
    }
    if (EVP_DecryptFinal_ex(s->open, out + n, &rest) != 1 || (size_t)n + (size_t)rest != plain) {
        /* What was written to `out` is not authentic: nobody may see it. */
        if (plain) {
            explicit_bzero(out, plain);
        }
        return err_set(e, ERR_BAD_SIGNATURE,
                       "sealed chunk %llu%s: does not open: it was changed, moved or cut off, or "
                       "the key is of another file",
                       (unsigned long long)index, final ? " (last)" : "");
    }
    return 0;
}

#include "svc-kbs/sealstore.h"

#include <openssl/evp.h>

#define NONCE_BYTES 12
#define TAG_BYTES 16
#define AAD_MAX_BYTES 512

static void cipher_ctx_freep(EVP_CIPHER_CTX **p)
{
    EVP_CIPHER_CTX_free(*p);
}

static int aad_of(const struct secret_name *n, char aad[AAD_MAX_BYTES], size_t *ret_n,
                  struct err *e)
{
    /* '|' stands in none of the three, so the parts cannot run into each other. */
    int len = snprintf(aad, AAD_MAX_BYTES, "%s|%s|%s", n->id, n->kind, n->owner);

    if (len < 0 || len >= AAD_MAX_BYTES || strchr(n->id, '|') || strchr(n->kind, '|')) {
        return err_set(e, ERR_INTERNAL, "a secret's name does not fit");
    }
    *ret_n = (size_t)len;
    return 0;
}

/* AES-256-GCM under the KEK with a random nonce: nonce | ciphertext | tag. */
static int local_put(const struct secret *kek, const struct secret_name *name,
                     const struct secret *key, struct buf *ret_ref, struct err *e)
{
    _cleanup_(cipher_ctx_freep) EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    size_t n = secret_n(key), aad_n;
    char aad[AAD_MAX_BYTES];
    int len, end;

    if (n > SEALED_REF_MAX_BYTES / 2) {
        return err_set(e, ERR_INTERNAL, "seal %.96s: the key is too long", name->id);
    }
    if (aad_of(name, aad, &aad_n, e) || buf_reserve(ret_ref, NONCE_BYTES + n + TAG_BYTES, e)) {
        return err_wrap(e, "seal %.96s", name->id);
    }
    uint8_t *nonce = ret_ref->p + ret_ref->n, *box = nonce + NONCE_BYTES;
    random_bytes(nonce, NONCE_BYTES);
    if (!ctx || EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, secret_cp(kek), nonce) != 1 ||
        EVP_EncryptUpdate(ctx, NULL, &len, (const uint8_t *)aad, (int)aad_n) != 1 ||
        EVP_EncryptUpdate(ctx, box, &len, secret_cp(key), (int)n) != 1 ||
        EVP_EncryptFinal_ex(ctx, box + len, &end) != 1 ||
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG_BYTES, box + n) != 1) {
        return err_set(e, ERR_INTERNAL, "seal %.96s: the cipher failed", name->id);
    }
    ret_ref->n += NONCE_BYTES + n + TAG_BYTES;
    return 0;
}

static int local_get(const struct secret *kek, const struct secret_name *name, struct bytes ref,
                     struct secret **ret_key, struct err *e)
{
    _cleanup_(cipher_ctx_freep) EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    _cleanup_secret_ struct secret *key = NULL;
    char aad[AAD_MAX_BYTES];
    uint8_t tag[TAG_BYTES];
    size_t aad_n;
    int len, end;

    if (ref.n <= NONCE_BYTES + TAG_BYTES || ref.n > SEALED_REF_MAX_BYTES) {
        return err_set(e, ERR_BAD_SIGNATURE, "%.96s: no sealed key", name->id);
    }
    if (aad_of(name, aad, &aad_n, e)) {
        return -1;
    }
    size_t n = ref.n - NONCE_BYTES - TAG_BYTES;
    const uint8_t *box = ref.p + NONCE_BYTES;
    memcpy(tag, box + n, TAG_BYTES);
    key = secret_new(n);
    if (!ctx || EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, secret_cp(kek), ref.p) != 1 ||
        EVP_DecryptUpdate(ctx, NULL, &len, (const uint8_t *)aad, (int)aad_n) != 1 ||
        EVP_DecryptUpdate(ctx, secret_p(key), &len, box, (int)n) != 1 ||
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, TAG_BYTES, tag) != 1) {
        return err_set(e, ERR_INTERNAL, "open %.96s: the cipher failed", name->id);
    }
    if (EVP_DecryptFinal_ex(ctx, secret_p(key) + len, &end) != 1) {
        return err_set(e, ERR_BAD_SIGNATURE, "%.96s: the sealed key does not open", name->id);
    }
    *ret_key = TAKE_PTR(key);
    return 0;
}

static const struct secret_backend backends[] = {
    {"local", local_put, local_get},
};

const struct secret_backend *secret_backend_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(backends); i++) {
        if (streq(backends[i].name, name)) {
            return &backends[i];
        }
    }
    return NULL;
}

static const struct secret_name check_name = {.id = "kek-check", .kind = "check", .owner = ""};
static const char check_text[] = "coffer/kbs/kek/v1";

int kek_check_make(const struct secret *kek, struct buf *ret, struct err *e)
{
    _cleanup_secret_ struct secret *text = secret_from(check_text, sizeof(check_text));

    return local_put(kek, &check_name, text, ret, e);
}

int kek_check(const struct secret *kek, struct bytes check, struct err *e)
{
    _cleanup_secret_ struct secret *text = NULL;

    if (local_get(kek, &check_name, check, &text, e)) {
        return err_refuse(e, ERR_DENIED, "kek", "the key that this database was sealed with",
                          "another key in data-dir/kek");
    }
    return 0;
}

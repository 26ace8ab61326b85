#include "common/jose_int.h"

#define HEADER_MAX_BYTES 1024u
#define KEY_BYTES 32u
#define WRAPPED_BYTES 40u /* RFC 3394: eight more than the key */
#define IV_BYTES 12u
#define TAG_BYTES 16u
#define JWE_MAX_BYTES (2u << 20)

/* What one encryption or decryption derives; in secret memory. */
struct keys {
    uint8_t z[P256_BYTES]; /* shared secret: x coordinate */
    uint8_t kek[KEY_BYTES];
    uint8_t cek[KEY_BYTES];
};

static struct keys *keys_of(struct secret *s)
{
    return (struct keys *)(void *)secret_p(s);
}

static int ecdh(const struct jkey *priv, const struct jkey *pub, uint8_t z[P256_BYTES])
{
    size_t n = P256_BYTES;
    _cleanup_pkey_ctx_ EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(NULL, jkey_pkey(priv), NULL);

    /* No validation of the peer here: every struct jkey was checked when it was made. */
    return ctx && EVP_PKEY_derive_init(ctx) == 1 &&
                   EVP_PKEY_derive_set_peer_ex(ctx, jkey_pkey(pub), 0) == 1 &&
                   EVP_PKEY_derive(ctx, z, &n) == 1 && n == P256_BYTES
               ? 0
               : -1;
}

/* RFC 7518 §4.6.2: Concat KDF, one round of SHA-256: counter 1, Z, AlgorithmID, empty PartyUInfo
 * and PartyVInfo, 256 bits. */
static int derive_kek(struct keys *k)
{
    static const uint8_t counter[] = {0, 0, 0, 1};
    static const uint8_t info[] = "\0\0\0\x0e"
                                  "ECDH-ES+A256KW"
                                  "\0\0\0\0"
                                  "\0\0\0\0"
                                  "\0\0\x01\0";
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int ok = ctx && EVP_DigestInit_ex2(ctx, jose_sha256(), NULL) == 1 &&
             EVP_DigestUpdate(ctx, counter, sizeof(counter)) == 1 &&
             EVP_DigestUpdate(ctx, k->z, sizeof(k->z)) == 1 &&
             EVP_DigestUpdate(ctx, info, sizeof(info) - 1) == 1 &&
             EVP_DigestFinal_ex(ctx, k->kek, NULL) == 1;

    EVP_MD_CTX_free(ctx);
    return ok ? 0 : -1;
}

static int wrap_cek(const struct keys *k, uint8_t out[WRAPPED_BYTES])
{
    int n = 0, last = 0;
    _cleanup_cipher_ctx_ EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();

    return ctx && EVP_EncryptInit_ex2(ctx, jose_a256kw(), k->kek, NULL, NULL) == 1 &&
                   EVP_EncryptUpdate(ctx, out, &n, k->cek, (int)KEY_BYTES) == 1 &&
                   EVP_EncryptFinal_ex(ctx, out + n, &last) == 1 && n + last == (int)WRAPPED_BYTES
               ? 0
               : -1;
}

static int unwrap_cek(struct keys *k, const uint8_t in[WRAPPED_BYTES])
{
    uint8_t out[WRAPPED_BYTES];
    int n = 0, last = 0;
    _cleanup_cipher_ctx_ EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int ok = ctx && EVP_DecryptInit_ex2(ctx, jose_a256kw(), k->kek, NULL, NULL) == 1 &&
             EVP_DecryptUpdate(ctx, out, &n, in, (int)WRAPPED_BYTES) == 1 &&
             EVP_DecryptFinal_ex(ctx, out + n, &last) == 1 && n + last == (int)KEY_BYTES;

    if (ok) {
        memcpy(k->cek, out, KEY_BYTES);
    }
    explicit_bzero(out, sizeof(out));
    return ok ? 0 : -1;
}

static int gcm_encrypt(const struct keys *k, const uint8_t iv[IV_BYTES], struct bytes aad,
                       struct bytes plain, uint8_t *out, uint8_t tag[TAG_BYTES])
{
    int n = 0, last = 0;
    _cleanup_cipher_ctx_ EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();

    return ctx && EVP_EncryptInit_ex2(ctx, jose_a256gcm(), k->cek, iv, NULL) == 1 &&
                   EVP_EncryptUpdate(ctx, NULL, &n, aad.p, (int)aad.n) == 1 &&
                   EVP_EncryptUpdate(ctx, out, &n, plain.p, (int)plain.n) == 1 &&
                   EVP_EncryptFinal_ex(ctx, out + n, &last) == 1 &&
                   EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, (int)TAG_BYTES, tag) == 1
               ? 0
               : -1;
}

static int gcm_decrypt(const struct keys *k, const uint8_t *iv, struct bytes aad,
                       struct bytes cipher, uint8_t *tag, uint8_t *out)
{
    int n = 0, last = 0;
    _cleanup_cipher_ctx_ EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();

    return ctx && EVP_DecryptInit_ex2(ctx, jose_a256gcm(), k->cek, iv, NULL) == 1 &&
                   EVP_DecryptUpdate(ctx, NULL, &n, aad.p, (int)aad.n) == 1 &&
                   EVP_DecryptUpdate(ctx, out, &n, cipher.p, (int)cipher.n) == 1 &&
                   EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, (int)TAG_BYTES, tag) == 1 &&
                   EVP_DecryptFinal_ex(ctx, out + n, &last) == 1
               ? 0
               : -1;
}

/* The header is composed as text, in this order, because clients in the field rebuild it from its
 * parsed form to get the additional data: any other spelling would not open. */
static char *compose_header(const struct jkey *epk)
{
    _cleanup_free_ char *h = xasprintf("{\"alg\":\"ECDH-ES+A256KW\",\"enc\":\"A256GCM\","
                                       "\"epk\":{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"%s\","
                                       "\"y\":\"%s\"}}",
                                       jkey_x(epk), jkey_y(epk));

    return b64url_encode(h, strlen(h));
}

int jwe_encrypt(const struct jkey *to, struct bytes plain, char **ret, struct err *e)
{
    _cleanup_secret_ struct secret *mem = secret_new(sizeof(struct keys));
    struct keys *k = keys_of(mem);
    _cleanup_jkey_ struct jkey *epk = NULL;
    _cleanup_free_ char *header64 = NULL, *wrapped64 = NULL, *iv64 = NULL, *cipher64 = NULL;
    _cleanup_free_ char *tag64 = NULL;
    _cleanup_free_ uint8_t *cipher = NULL;
    uint8_t wrapped[WRAPPED_BYTES], iv[IV_BYTES], tag[TAG_BYTES];

    if (plain.n < 1 || plain.n > SECRET_MAX_BYTES) {
        return err_set(e, plain.n ? ERR_TOO_LARGE : ERR_INVALID,
                       "JWE: expected 1 to %u bytes to encrypt, found %zu", SECRET_MAX_BYTES,
                       plain.n);
    }
    if (jkey_generate(&epk, e)) {
        return -1;
    }
    random_bytes(k->cek, sizeof(k->cek));
    random_bytes(iv, sizeof(iv));
    header64 = compose_header(epk);
    cipher = xmalloc(plain.n);
    if (ecdh(epk, to, k->z) || derive_kek(k) || wrap_cek(k, wrapped) ||
        gcm_encrypt(k, iv, BYTES_STR(header64), plain, cipher, tag)) {
        return err_openssl(e, "encrypt");
    }
    wrapped64 = b64url_encode(wrapped, sizeof(wrapped));
    iv64 = b64url_encode(iv, sizeof(iv));
    cipher64 = b64url_encode(cipher, plain.n);
    tag64 = b64url_encode(tag, sizeof(tag));
    *ret = xasprintf("{\"protected\":\"%s\",\"encrypted_key\":\"%s\",\"iv\":\"%s\","
                     "\"ciphertext\":\"%s\",\"tag\":\"%s\"}",
                     header64, wrapped64, iv64, cipher64, tag64);
    return 0;
}

static int check_value(const json_t *o, const char *what, const char *key, const char *expected,
                       struct err *e)
{
    const char *s;

    if (json_get_str(o, what, key, &s, e)) {
        return -1;
    }
    if (!streq(s, expected)) {
        return err_set(e, ERR_INVALID, "%s.%s: expected %s, found %.32s", what, key, expected, s);
    }
    return 0;
}

static int parse_header(const char *header64, struct jkey **ret_epk, struct err *e)
{
    static const char *const known[] = {"alg", "enc", "epk", NULL};
    static const char *const known_epk[] = {"crv", "kty", "x", "y", NULL};
    _cleanup_buf_ struct buf text = BUF_INIT(HEADER_MAX_BYTES);
    _cleanup_json_ json_t *h = NULL;
    json_t *epk;

    if (b64url_decode(header64, strlen(header64), &text, e)) {
        return err_wrap(e, "JWE header");
    }
    if (json_parse("JWE header", buf_bytes(&text), HEADER_MAX_BYTES, &h, e)) {
        return -1;
    }
    if (json_object_get(h, "crit")) {
        return err_set(e, ERR_INVALID, "JWE header.crit: no critical extension is understood");
    }
    if (json_only_keys(h, "JWE header", known, e) ||
        check_value(h, "JWE header", "alg", "ECDH-ES+A256KW", e) ||
        check_value(h, "JWE header", "enc", "A256GCM", e) ||
        json_get_obj(h, "JWE header", "epk", &epk, e) ||
        json_only_keys(epk, "JWE header.epk", known_epk, e)) {
        return -1;
    }
    if (jkey_from_jwk(epk, ret_epk, e)) {
        return err_wrap(e, "JWE header.epk");
    }
    return 0;
}

/* Appends a member's bytes; `want` is their exact number, or 0 for any. */
static int get_member(const json_t *o, const char *key, size_t want, struct buf *ret, struct err *e)
{
    const char *s;

    if (json_get_str(o, "JWE", key, &s, e)) {
        return -1;
    }
    if (b64url_decode(s, strlen(s), ret, e)) {
        return err_wrap(e, "JWE.%s", key);
    }
    if (want && ret->n != want) {
        return err_set(e, ERR_INVALID, "JWE.%s: expected %zu bytes, found %zu", key, want, ret->n);
    }
    return 0;
}

int jwe_decrypt(const struct jkey *with, const char *jwe, size_t max, struct secret **ret,
                struct err *e)
{
    static const char *const known[] = {"protected",  "encrypted_key", "iv",
                                        "ciphertext", "tag",           NULL};
    size_t limit = max < JWE_MAX_BYTES ? max : JWE_MAX_BYTES;
    size_t n = strnlen(jwe, limit + 1);
    _cleanup_json_ json_t *o = NULL;
    _cleanup_jkey_ struct jkey *epk = NULL;
    _cleanup_buf_ struct buf wrapped = BUF_INIT(WRAPPED_BYTES), iv = BUF_INIT(IV_BYTES);
    _cleanup_buf_ struct buf tag = BUF_INIT(TAG_BYTES), cipher = BUF_INIT(SECRET_MAX_BYTES);
    _cleanup_secret_ struct secret *mem = secret_new(sizeof(struct keys)), *plain = NULL;
    struct keys *k = keys_of(mem);
    const char *header64;

    if (!jkey_is_private(with)) {
        return err_set(e, ERR_INVALID, "JWE: expected a private key to decrypt with");
    }
    if (n > limit) {
        return err_set(e, ERR_TOO_LARGE, "JWE: expected at most %zu bytes, found more", limit);
    }
    if (json_parse("JWE", BYTES(jwe, n), limit, &o, e) || json_only_keys(o, "JWE", known, e) ||
        json_get_str(o, "JWE", "protected", &header64, e) ||
        get_member(o, "encrypted_key", WRAPPED_BYTES, &wrapped, e) ||
        get_member(o, "iv", IV_BYTES, &iv, e) || get_member(o, "ciphertext", 0, &cipher, e) ||
        get_member(o, "tag", TAG_BYTES, &tag, e) || parse_header(header64, &epk, e)) {
        return -1;
    }
    if (!cipher.n) {
        return err_set(e, ERR_INVALID, "JWE.ciphertext: expected at least one byte, found none");
    }
    if (ecdh(with, epk, k->z) || derive_kek(k)) {
        return err_openssl(e, "derive a key");
    }
    plain = secret_new(cipher.n);
    if (unwrap_cek(k, wrapped.p) ||
        gcm_decrypt(k, iv.p, BYTES_STR(header64), buf_bytes(&cipher), tag.p, secret_p(plain))) {
        openssl_forget_errors();
        return err_set(e, ERR_BAD_SIGNATURE, "JWE: does not open with key %s",
                       jkey_thumbprint(with));
    }
    *ret = TAKE_PTR(plain);
    return 0;
}

#include "common/keywrap.h"

#include <openssl/evp.h>

#include "common/jcs.h"

#define IV_BYTES 12u
#define TAG_BYTES 16u
#define WRAP_TYPE "A256GCM"

static const char *const packet_keys[] = {"kid",         "wrapped_data",      "iv",
                                          "wrap_type",   "version",           "provider",
                                          "annotations", "provider_settings", NULL};

struct packet {
    json_t *json;    /* owned */
    const char *kid; /* borrowed from json */
    struct buf wrapped, iv;
};

static void packet_done(struct packet *p)
{
    json_decref(p->json);
    buf_done(&p->wrapped);
    buf_done(&p->iv);
}
#define _cleanup_packet_ _cleanup_(packet_done)

int keywrap_kid_check(const char *kid, struct err *e)
{
    size_t n = strlen(kid);

    if (n < 1 || n > KEYWRAP_KID_MAX_BYTES) {
        return err_set(e, ERR_INVALID, "image key id: expected 1 to %u bytes, got %zu",
                       KEYWRAP_KID_MAX_BYTES, n);
    }
    for (size_t i = 0; i < n; i++) {
        if (kid[i] <= ' ' || kid[i] > '~' || strchr("\",\\", kid[i])) {
            return err_set(e, ERR_INVALID,
                           "image key id: byte %zu is not a printable character that is allowed",
                           i);
        }
    }
    return 0;
}

static int decode_member(const json_t *j, const char *key, struct buf *ret, struct err *e)
{
    const char *s;

    if (json_get_str(j, "key packet", key, &s, e) < 0) {
        return -1;
    }
    if (b64_decode(s, strlen(s), ret, e) < 0) {
        return err_wrap(e, "key packet.%s", key);
    }
    return 0;
}

static int packet_parse(struct bytes in, struct packet *p, struct err *e)
{
    const char *wrap_type, *version;

    p->wrapped = BUF_INIT(KEYWRAP_OPTS_MAX_BYTES + TAG_BYTES);
    p->iv = BUF_INIT(64);
    if (json_parse("key packet", in, KEYWRAP_PACKET_MAX_BYTES, &p->json, e) < 0) {
        return -1;
    }
    if (!json_is_object(p->json)) {
        return err_set(e, ERR_INVALID, "key packet: expected a JSON object");
    }
    if (json_only_keys(p->json, "key packet", packet_keys, e) < 0 ||
        json_get_str(p->json, "key packet", "kid", &p->kid, e) < 0 ||
        keywrap_kid_check(p->kid, e) < 0 ||
        json_get_str(p->json, "key packet", "wrap_type", &wrap_type, e) < 0) {
        return -1;
    }
    if (json_object_get(p->json, "version")) {
        if (json_get_str(p->json, "key packet", "version", &version, e) < 0) {
            return -1;
        }
        if (!streq(version, "0.1.0")) {
            return err_set(e, ERR_UNSUPPORTED, "key packet.version: expected 0.1.0, got \"%.40s\"",
                           version);
        }
    }
    if (!streq(wrap_type, WRAP_TYPE)) {
        return err_set(e, ERR_UNSUPPORTED,
                       "key packet.wrap_type: expected " WRAP_TYPE ", got \"%.40s\"", wrap_type);
    }
    if (decode_member(p->json, "wrapped_data", &p->wrapped, e) < 0 ||
        decode_member(p->json, "iv", &p->iv, e) < 0) {
        return -1;
    }
    if (p->iv.n != IV_BYTES) {
        return err_set(e, ERR_INVALID, "key packet.iv: expected %u bytes, got %zu", IV_BYTES,
                       p->iv.n);
    }
    if (p->wrapped.n <= TAG_BYTES) {
        return err_set(e, ERR_INVALID, "key packet.wrapped_data: expected over %u bytes, got %zu",
                       TAG_BYTES, p->wrapped.n);
    }
    return 0;
}

static int check_kek(const char *kid, const struct secret *kek, struct err *e)
{
    if (secret_n(kek) != KEYWRAP_KEK_BYTES) {
        return err_set(e, ERR_INVALID, "image key \"%s\": expected %u bytes, got %zu", kid,
                       KEYWRAP_KEK_BYTES, secret_n(kek));
    }
    return 0;
}

static int gcm_seal(const struct secret *kek, const uint8_t *iv, struct bytes plain, uint8_t *out)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n = 0, rest = 0;
    int ok = ctx && EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, secret_cp(kek), iv) &&
             EVP_EncryptUpdate(ctx, out, &n, plain.p, (int)plain.n) &&
             EVP_EncryptFinal_ex(ctx, out + n, &rest) && n + rest == (int)plain.n &&
             EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, out + plain.n);

    EVP_CIPHER_CTX_free(ctx);
    return ok;
}

static int gcm_open(const struct secret *kek, const uint8_t *iv, struct bytes sealed, uint8_t *out)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    size_t plain = sealed.n - TAG_BYTES;
    uint8_t tag[TAG_BYTES];
    int n = 0, rest = 0;

    memcpy(tag, sealed.p + plain, TAG_BYTES);
    int ok = ctx && EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, secret_cp(kek), iv) &&
             EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, tag) &&
             EVP_DecryptUpdate(ctx, out, &n, sealed.p, (int)plain) &&
             EVP_DecryptFinal_ex(ctx, out + n, &rest) == 1 && n + rest == (int)plain;

    EVP_CIPHER_CTX_free(ctx);
    return ok;
}

int keywrap_wrap(const char *kid, const struct secret *kek, struct bytes opts,
                 char **ret_packet_json, struct err *e)
{
    _cleanup_free_ uint8_t *wrapped = NULL;
    _cleanup_free_ char *wrapped64 = NULL, *iv64 = NULL;
    _cleanup_json_ json_t *j = NULL;
    uint8_t iv[IV_BYTES];

    if (keywrap_kid_check(kid, e) < 0 || check_kek(kid, kek, e) < 0) {
        return -1;
    }
    if (opts.n < 1 || opts.n > KEYWRAP_OPTS_MAX_BYTES) {
        return err_set(e, opts.n ? ERR_TOO_LARGE : ERR_INVALID,
                       "layer options: expected 1 to %u bytes, got %zu", KEYWRAP_OPTS_MAX_BYTES,
                       opts.n);
    }
    wrapped = xmalloc(opts.n + TAG_BYTES);
    random_bytes(iv, sizeof(iv));
    if (!gcm_seal(kek, iv, opts, wrapped)) {
        return err_set(e, ERR_INTERNAL, "image key \"%s\": AES-256-GCM failed", kid);
    }
    wrapped64 = b64_encode(wrapped, opts.n + TAG_BYTES);
    iv64 = b64_encode(iv, sizeof(iv));
    j = json_pack("{s:s, s:s, s:s, s:s}", "kid", kid, "wrapped_data", wrapped64, "iv", iv64,
                  "wrap_type", WRAP_TYPE);
    if (!j) {
        return err_set(e, ERR_INTERNAL, "key packet: could not be composed");
    }
    return jcs_encode(j, ret_packet_json, e);
}

int keywrap_kid(struct bytes packet_json, char **ret_kid, struct err *e)
{
    _cleanup_packet_ struct packet p = {0};

    if (packet_parse(packet_json, &p, e) < 0) {
        return -1;
    }
    *ret_kid = xstrdup(p.kid);
    return 0;
}

int keywrap_unwrap(struct bytes packet_json, keywrap_find_fn find, void *arg,
                   struct secret **ret_opts, struct err *e)
{
    _cleanup_packet_ struct packet p = {0};
    _cleanup_secret_ struct secret *opts = NULL;
    const struct secret *kek = NULL;

    if (packet_parse(packet_json, &p, e) < 0 || find(arg, p.kid, &kek, e) < 0 ||
        check_kek(p.kid, kek, e) < 0) {
        return -1;
    }
    opts = secret_new(p.wrapped.n - TAG_BYTES);
    if (!gcm_open(kek, p.iv.p, buf_bytes(&p.wrapped), secret_p(opts))) {
        return err_set(e, ERR_BAD_SIGNATURE,
                       "key packet: the image key \"%s\" does not open it: another key wrapped it, "
                       "or it was changed",
                       p.kid);
    }
    *ret_opts = TAKE_PTR(opts);
    return 0;
}

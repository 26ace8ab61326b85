#include "common/seal.h"

#include <openssl/evp.h>

#include "common/seal_int.h"

#define MAGIC "COFFER1\n"
#define MAGIC_BYTES 8u
#define FIXED_BYTES (MAGIC_BYTES + 4u)
#define SALT_BYTES 16u
#define NAME_MAX_BYTES 63u
#define ID_DIGITS 26
#define CHUNK_MIN_BYTES 4096u
#define CHUNK_MAX_BYTES 1048576u

static const char *const dataset_keys[] = {"v",    "kind",  "cipher", "chunk_bytes", "name",
                                           "form", "owner", "salt",   "key",         NULL};
static const char *const result_keys[] = {"v", "kind", "cipher", "chunk_bytes", NULL};
static const char *const owner_keys[] = {"crv", "kty", "x", "y", NULL};
static const char *const jwe_keys[] = {"protected",  "encrypted_key", "iv",
                                       "ciphertext", "tag",           NULL};

static int is_chunk_bytes(int64_t n)
{
    return n >= CHUNK_MIN_BYTES && n <= CHUNK_MAX_BYTES && (n & (n - 1)) == 0;
}

static int is_name(const char *s)
{
    size_t n = strlen(s);

    if (n < 1 || n > NAME_MAX_BYTES) {
        return 0;
    }
    return strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

static int check_name_form(const char *name, const char *form, struct err *e)
{
    if (!is_name(name)) {
        return err_set(e, ERR_INVALID,
                       "seal header.name: expected 1 to 63 of a-z, 0-9 and '-', got \"%.80s\"",
                       name);
    }
    if (!streq(form, "file") && !streq(form, "tar")) {
        return err_set(e, ERR_INVALID,
                       "seal header.form: expected \"file\" or \"tar\", got \"%.80s\"", form);
    }
    return 0;
}

static int check_cipher(const char *cipher, struct err *e)
{
    if (!streq(cipher, SEAL_AES256GCM) && !streq(cipher, SEAL_CHACHA20POLY1305)) {
        return err_set(e, ERR_INVALID,
                       "seal header.cipher: expected \"" SEAL_AES256GCM "\" or "
                       "\"" SEAL_CHACHA20POLY1305 "\", got \"%.80s\"",
                       cipher);
    }
    return 0;
}

static int check_chunk_bytes(int64_t n, struct err *e)
{
    if (!is_chunk_bytes(n)) {
        return err_set(e, ERR_INVALID,
                       "seal header.chunk_bytes: expected a power of two from %u to %u, got %lld",
                       CHUNK_MIN_BYTES, CHUNK_MAX_BYTES, (long long)n);
    }
    return 0;
}

void seal_header_done(struct seal_header *h)
{
    json_decref(h->json);
    free(h->kind);
    free(h->cipher);
    free(h->name);
    free(h->form);
    jkey_free(h->owner);
    memset(h, 0, sizeof(*h));
}
#define _cleanup_header_ _cleanup_(seal_header_done)

/* The members that only a dataset has. */
static int parse_dataset(struct seal_header *h, struct err *e)
{
    const char *name, *form, *salt;
    json_t *owner, *key;

    if (json_get_str(h->json, "seal header", "name", &name, e) < 0 ||
        json_get_str(h->json, "seal header", "form", &form, e) < 0 ||
        json_get_str(h->json, "seal header", "salt", &salt, e) < 0 ||
        json_get_obj(h->json, "seal header", "owner", &owner, e) < 0 ||
        json_get_obj(h->json, "seal header", "key", &key, e) < 0 ||
        json_only_keys(owner, "seal header.owner", owner_keys, e) < 0 ||
        json_only_keys(key, "seal header.key", jwe_keys, e) < 0 ||
        check_name_form(name, form, e) < 0) {
        return -1;
    }
    for (size_t i = 0; jwe_keys[i]; i++) {
        const char *unused;
        if (json_get_str(key, "seal header.key", jwe_keys[i], &unused, e) < 0) {
            return -1;
        }
    }
    _cleanup_buf_ struct buf raw = BUF_INIT(SALT_BYTES + 3);
    if (b64url_decode(salt, strlen(salt), &raw, e) < 0 || raw.n != SALT_BYTES) {
        return err_set(e, ERR_INVALID,
                       "seal header.salt: expected %u bytes in base64url, got %zu characters",
                       SALT_BYTES, strlen(salt));
    }
    if (jkey_from_jwk(owner, &h->owner, e) < 0) {
        return err_wrap(e, "seal header.owner");
    }
    h->name = xstrdup(name);
    h->form = xstrdup(form);
    return 0;
}

static int parse_members(struct seal_header *h, struct err *e)
{
    const char *kind, *cipher;
    int64_t v, chunk_bytes;
    int dataset;

    if (!json_is_object(h->json)) {
        return err_set(e, ERR_INVALID, "seal header: expected a JSON object");
    }
    if (json_get_int(h->json, "seal header", "v", 1, 1, &v, e) < 0 ||
        json_get_str(h->json, "seal header", "kind", &kind, e) < 0 ||
        json_get_str(h->json, "seal header", "cipher", &cipher, e) < 0 ||
        json_get_int(h->json, "seal header", "chunk_bytes", 0, UINT32_MAX, &chunk_bytes, e) < 0) {
        return -1;
    }
    dataset = streq(kind, "dataset");
    if (!dataset && !streq(kind, "result")) {
        return err_set(e, ERR_INVALID,
                       "seal header.kind: expected \"dataset\" or \"result\", got \"%.80s\"", kind);
    }
    if (json_only_keys(h->json, "seal header", dataset ? dataset_keys : result_keys, e) < 0 ||
        check_cipher(cipher, e) < 0 || check_chunk_bytes(chunk_bytes, e) < 0) {
        return -1;
    }
    h->kind = xstrdup(kind);
    h->cipher = xstrdup(cipher);
    h->chunk_bytes = (uint32_t)chunk_bytes;
    return dataset ? parse_dataset(h, e) : 0;
}

/* One header has one spelling: otherwise two files of the same meaning would have different ids. */
static int check_canonical(const json_t *j, struct bytes text, struct err *e)
{
    _cleanup_free_ char *jcs = NULL;

    if (jcs_encode(j, &jcs, e) < 0) {
        return err_wrap(e, "seal header");
    }
    if (strlen(jcs) != text.n || memcmp(jcs, text.p, text.n) != 0) {
        return err_set(e, ERR_INVALID, "seal header: is not in canonical form (RFC 8785)");
    }
    return 0;
}

static int hash_prefix(struct seal_header *h, struct bytes prefix, struct err *e)
{
    if (!EVP_Digest(prefix.p, prefix.n, h->salt, NULL, EVP_sha256(), NULL)) {
        return err_set(e, ERR_INTERNAL, "seal header: SHA-256 failed");
    }
    if (h->name) {
        _cleanup_free_ char *digits = b32_encode_lower(h->salt, sizeof(h->salt));
        snprintf(h->id, sizeof(h->id), "%.63s.%.*s", h->name, ID_DIGITS, digits);
    }
    return 0;
}

int seal_header_parse(struct bytes in, struct seal_header *ret, struct err *e)
{
    _cleanup_header_ struct seal_header h = {0};
    uint32_t n;

    if (in.n < FIXED_BYTES) {
        return err_set(e, ERR_INVALID, "seal magic: expected at least %u bytes, got %zu",
                       FIXED_BYTES, in.n);
    }
    if (memcmp(in.p, MAGIC, MAGIC_BYTES) != 0) {
        return err_set(e, ERR_INVALID, "seal magic: expected \"COFFER1\\n\": not a sealed stream");
    }
    n = (uint32_t)in.p[8] << 24 | (uint32_t)in.p[9] << 16 | (uint32_t)in.p[10] << 8 | in.p[11];
    if (n > SEAL_HEADER_MAX_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "seal header_bytes: at most %u, got %u",
                       SEAL_HEADER_MAX_BYTES, n);
    }
    if (n > in.n - FIXED_BYTES) {
        return err_set(e, ERR_INVALID, "seal header_bytes: says %u, but %zu bytes follow", n,
                       in.n - FIXED_BYTES);
    }
    struct bytes text = BYTES(in.p + FIXED_BYTES, n);
    if (json_parse("seal header", text, SEAL_HEADER_MAX_BYTES, &h.json, e) < 0 ||
        parse_members(&h, e) < 0 || check_canonical(h.json, text, e) < 0) {
        return -1;
    }
    h.prefix_bytes = FIXED_BYTES + n;
    if (hash_prefix(&h, BYTES(in.p, h.prefix_bytes), e) < 0) {
        return -1;
    }
    *ret = h;
    h = (struct seal_header){0};
    return 0;
}

static int compose(const json_t *j, struct buf *ret, struct err *e)
{
    _cleanup_free_ char *jcs = NULL;
    _cleanup_buf_ struct buf b = BUF_INIT(FIXED_BYTES + SEAL_HEADER_MAX_BYTES);
    uint8_t be[4];
    size_t n;

    if (jcs_encode(j, &jcs, e) < 0) {
        return err_wrap(e, "seal header");
    }
    n = strlen(jcs);
    if (n > SEAL_HEADER_MAX_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "seal header: %zu bytes, at most %u", n,
                       SEAL_HEADER_MAX_BYTES);
    }
    for (unsigned i = 0; i < 4; i++) {
        be[i] = (uint8_t)(n >> (24 - 8 * i));
    }
    if (buf_add(&b, MAGIC, MAGIC_BYTES, e) < 0 || buf_add(&b, be, sizeof(be), e) < 0 ||
        buf_add(&b, jcs, n, e) < 0) {
        return -1;
    }
    *ret = b;
    b = (struct buf){0};
    return 0;
}

int seal_dataset_header_new(const char *name, const char *form, const char *cipher,
                            uint32_t chunk_bytes, const struct jkey *owner, struct buf *ret_prefix,
                            struct secret **ret_key, struct err *e)
{
    _cleanup_secret_ struct secret *key = NULL;
    _cleanup_json_ json_t *j = NULL, *jwe = NULL;
    _cleanup_free_ char *text = NULL, *salt64 = NULL;
    uint8_t salt[SALT_BYTES];

    if (check_name_form(name, form, e) < 0 || check_cipher(cipher, e) < 0 ||
        check_chunk_bytes(chunk_bytes, e) < 0) {
        return -1;
    }
    key = secret_random(SEAL_KEY_BYTES);
    if (jwe_encrypt(owner, BYTES(secret_cp(key), SEAL_KEY_BYTES), &text, e) < 0) {
        return err_wrap(e, "seal header.key");
    }
    if (json_parse("seal header.key", BYTES_STR(text), SEAL_HEADER_MAX_BYTES, &jwe, e) < 0) {
        return -1;
    }
    random_bytes(salt, sizeof(salt));
    salt64 = b64url_encode(salt, sizeof(salt));
    j = json_pack("{s:i, s:s, s:s, s:I, s:s, s:s, s:o, s:s, s:O}", "v", 1, "kind", "dataset",
                  "cipher", cipher, "chunk_bytes", (json_int_t)chunk_bytes, "name", name, "form",
                  form, "owner", jkey_public_jwk(owner), "salt", salt64, "key", jwe);
    if (!j) {
        return err_set(e, ERR_INTERNAL, "seal header: could not be composed");
    }
    if (compose(j, ret_prefix, e) < 0) {
        return -1;
    }
    *ret_key = TAKE_PTR(key);
    return 0;
}

int seal_result_header_new(struct buf *ret_prefix, struct secret **ret_key, struct err *e)
{
    _cleanup_json_ json_t *j =
        json_pack("{s:i, s:s, s:s, s:I}", "v", 1, "kind", "result", "cipher", SEAL_AES256GCM,
                  "chunk_bytes", (json_int_t)SEAL_CHUNK_DEFAULT_BYTES);

    if (!j) {
        return err_set(e, ERR_INTERNAL, "seal header: could not be composed");
    }
    if (compose(j, ret_prefix, e) < 0) {
        return -1;
    }
    *ret_key = secret_random(SEAL_KEY_BYTES);
    return 0;
}

int seal_header_open_key(const struct seal_header *h, const struct jkey *owner, struct secret **ret,
                         struct err *e)
{
    _cleanup_secret_ struct secret *key = NULL;
    _cleanup_free_ char *jwe = NULL;

    if (!h->owner) {
        return err_set(e, ERR_INVALID, "seal header.kind: a \"%s\" carries no key", h->kind);
    }
    if (!jkey_is_private(owner)) {
        return err_set(e, ERR_INVALID, "seal header.key: opening it needs the private key");
    }
    if (!streq(jkey_thumbprint(h->owner), jkey_thumbprint(owner))) {
        return err_refuse(e, ERR_DENIED, "seal header.owner", jkey_thumbprint(h->owner), "%s",
                          jkey_thumbprint(owner));
    }
    /* Not json_dumps: the canonical form is what the library's own decoder is known to take. */
    if (jcs_encode(json_object_get(h->json, "key"), &jwe, e) < 0 ||
        jwe_decrypt(owner, jwe, SEAL_HEADER_MAX_BYTES, &key, e) < 0) {
        return err_wrap(e, "seal header.key");
    }
    if (secret_n(key) != SEAL_KEY_BYTES) {
        return err_set(e, ERR_INVALID, "seal header.key: expected a key of %u bytes, got %zu",
                       SEAL_KEY_BYTES, secret_n(key));
    }
    *ret = TAKE_PTR(key);
    return 0;
}

#include "common/keybox.h"

int keybox_seal(const struct jkey *to, const char *id, const struct secret *key, char **ret_jwe,
                struct err *e)
{
    _cleanup_secret_ struct secret *plain = NULL;
    size_t n = strlen(id);

    if (secret_n(key) != KEYBOX_KEY_BYTES) {
        return err_set(e, ERR_INVALID, "key: expected %u bytes, found %zu", KEYBOX_KEY_BYTES,
                       secret_n(key));
    }
    if (!n || n > KEYBOX_ID_MAX) {
        return err_set(e, ERR_INVALID, "key id: expected 1 to %u characters, found %zu",
                       KEYBOX_ID_MAX, n);
    }
    plain = secret_new(KEYBOX_KEY_BYTES + n);
    memcpy(secret_p(plain), secret_cp(key), KEYBOX_KEY_BYTES);
    memcpy(secret_p(plain) + KEYBOX_KEY_BYTES, id, n);
    return jwe_encrypt(to, BYTES(secret_cp(plain), secret_n(plain)), ret_jwe, e);
}

int keybox_open(const struct jkey *with, const char *jwe, const char *id, struct secret **ret_key,
                struct err *e)
{
    _cleanup_secret_ struct secret *plain = NULL;
    size_t n = strlen(id);

    if (jwe_decrypt(with, jwe, KEYBOX_MAX_BYTES, &plain, e)) {
        return err_wrap(e, "jwe");
    }
    if (secret_n(plain) <= KEYBOX_KEY_BYTES || secret_n(plain) > KEYBOX_KEY_BYTES + KEYBOX_ID_MAX) {
        return err_set(e, ERR_INVALID, "jwe: expected a %u-byte key and the id it belongs to",
                       KEYBOX_KEY_BYTES);
    }
    /* What came is not shown: it may be any plaintext that somebody sealed to us. */
    if (secret_n(plain) != KEYBOX_KEY_BYTES + n ||
        memcmp(secret_cp(plain) + KEYBOX_KEY_BYTES, id, n) != 0) {
        return err_refuse(e, ERR_DENIED, "jwe.id", id, "the key of another id");
    }
    *ret_key = secret_from(secret_cp(plain), KEYBOX_KEY_BYTES);
    return 0;
}

#define ID_DIGITS 26
#define NAME_MAX_BYTES 63
static const char name_chars[] = "abcdefghijklmnopqrstuvwxyz0123456789-";

int secret_id_valid(const char *id)
{
    size_t n = strspn(id, name_chars);

    return n >= 1 && n <= NAME_MAX_BYTES && id[n] == '.' && strlen(id + n + 1) == ID_DIGITS &&
           strspn(id + n + 1, "abcdefghijklmnopqrstuvwxyz234567") == ID_DIGITS;
}

int image_key_id(const json_t *descriptor, char ret_id[KEYBOX_ID_MAX + 1], struct jkey **ret_owner,
                 struct err *e)
{
    static const char *const members[] = {"kind", "name", "owner", "salt", "v", NULL};
    static const char *const jwk_members[] = {"crv", "kty", "x", "y", NULL};
    static const char what[] = "descriptor";
    _cleanup_jkey_ struct jkey *owner = NULL;
    _cleanup_buf_ struct buf salt = BUF_INIT(64);
    const char *kind, *name, *salt_text;
    uint8_t digest[32];
    json_t *jwk;
    int64_t v;

    if (json_only_keys(descriptor, what, members, e) ||
        json_get_int(descriptor, what, "v", 1, 1, &v, e) ||
        json_get_str(descriptor, what, "kind", &kind, e) ||
        json_get_str(descriptor, what, "name", &name, e) ||
        json_get_str(descriptor, what, "salt", &salt_text, e) ||
        json_get_obj(descriptor, what, "owner", &jwk, e) ||
        json_only_keys(jwk, "descriptor.owner", jwk_members, e) || jkey_from_jwk(jwk, &owner, e) ||
        jcs_sha256(descriptor, digest, e)) {
        return -1;
    }
    size_t n = strlen(name);
    if (!streq(kind, "image-key")) {
        return err_set(e, ERR_INVALID, "descriptor.kind: expected \"image-key\"");
    }
    if (!n || n > NAME_MAX_BYTES || strspn(name, name_chars) != n) {
        return err_set(e, ERR_INVALID, "descriptor.name: expected 1 to %d of [a-z0-9-]",
                       NAME_MAX_BYTES);
    }
    if (b64url_decode(salt_text, strlen(salt_text), &salt, e) || salt.n != 16) {
        return err_set(e, ERR_INVALID, "descriptor.salt: expected 16 bytes as base64url");
    }
    _cleanup_free_ char *digits = b32_encode_lower(digest, sizeof(digest));
    snprintf(ret_id, KEYBOX_ID_MAX + 1, "%s.%.*s", name, ID_DIGITS, digits);
    if (ret_owner) {
        *ret_owner = TAKE_PTR(owner);
    }
    return 0;
}

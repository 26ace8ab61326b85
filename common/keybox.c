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
        memcmp(secret_cp(plain) + KEYBOX_KEY_BYTES, id, n)) {
        return err_refuse(e, ERR_DENIED, "jwe.id", id, "the key of another id");
    }
    *ret_key = secret_from(secret_cp(plain), KEYBOX_KEY_BYTES);
    return 0;
}

#include "common/keyfile.h"

#include <errno.h>
#include <sys/stat.h>

static char *path_of(const char *dir, const char *name)
{
    return xasprintf("%s/%s", dir, name);
}

/* 1 when it exists, 0 when not; anything else is an error, so that no key is ever replaced. */
static int exists(const char *path, struct err *e)
{
    struct stat st;

    if (!lstat(path, &st)) {
        return 1;
    }
    return errno == ENOENT ? 0 : err_errno(e, "%s", path);
}

static int missing(const char *path, struct err *e)
{
    return err_set(e, ERR_NOT_FOUND, "%s: the key is missing and may not be made", path);
}

static int load_jwk(const char *dir, const char *name, int generate, struct jkey **ret,
                    struct err *e)
{
    _cleanup_free_ char *file = xasprintf("%s.jwk", name), *path = path_of(dir, file);
    _cleanup_free_ char *pub_file = xasprintf("%s.pub.jwk", name), *pub = path_of(dir, pub_file);
    _cleanup_jkey_ struct jkey *k = NULL;
    int there = exists(path, e);

    if (there < 0) {
        return -1;
    }
    if (there) {
        return jkey_read_private(path, ret, e);
    }
    if (!generate) {
        return missing(path, e);
    }
    if (jkey_generate(&k, e) || jkey_write_private(path, k, e) || jkey_write_public(pub, k, e)) {
        return -1;
    }
    *ret = TAKE_PTR(k);
    return 0;
}

static int load_kek(const char *dir, int generate, struct secret **ret, struct err *e)
{
    _cleanup_free_ char *path = path_of(dir, "kek");
    _cleanup_secret_ struct secret *kek = NULL;
    int there = exists(path, e);

    if (there < 0) {
        return -1;
    }
    if (there) {
        if (secret_read_file(path, KEYFILE_KEK_BYTES, &kek, e)) {
            return -1;
        }
        if (secret_n(kek) != KEYFILE_KEK_BYTES) {
            return err_set(e, ERR_INVALID, "%s: expected %u bytes, found %zu", path,
                           KEYFILE_KEK_BYTES, secret_n(kek));
        }
    } else if (!generate) {
        return missing(path, e);
    } else {
        kek = secret_random(KEYFILE_KEK_BYTES);
        if (secret_write_file(path, kek, e)) {
            return -1;
        }
    }
    *ret = TAKE_PTR(kek);
    return 0;
}

int service_keys_load(const char *dir, unsigned want, unsigned generate, struct service_keys *ret,
                      struct err *e)
{
    _cleanup_(service_keys_done) struct service_keys k = {0};

    if ((want & KEYFILE_SIGN) && load_jwk(dir, "sign", !!(generate & KEYFILE_SIGN), &k.sign, e)) {
        return -1;
    }
    if ((want & KEYFILE_SEAL) && load_jwk(dir, "seal", !!(generate & KEYFILE_SEAL), &k.seal, e)) {
        return -1;
    }
    if ((want & KEYFILE_KEK) && load_kek(dir, !!(generate & KEYFILE_KEK), &k.kek, e)) {
        return -1;
    }
    *ret = k;
    k = (struct service_keys){0};
    return 0;
}

void service_keys_done(struct service_keys *k)
{
    jkey_free(TAKE_PTR(k->sign));
    jkey_free(TAKE_PTR(k->seal));
    secret_free(TAKE_PTR(k->kek));
}

int service_key_trusted(const struct trust_keys *keys, const char *who, const struct jkey *own,
                        struct err *e)
{
    char clause[64];

    if (trust_find(keys, jkey_thumbprint(own))) {
        return 0;
    }
    snprintf(clause, sizeof(clause), "trust.%s", who);
    return err_refuse(e, ERR_DENIED, clause, "this service's own key in the trust file",
                      "no key %s", jkey_thumbprint(own));
}

/* Flattened JWE to a fixed key (the example key of RFC 7517 appendix A.2). */
#include "common/jose.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct jkey *fixed_key(void)
{
    static const char jwk[] = "{\"kty\":\"EC\",\"crv\":\"P-256\","
                              "\"x\":\"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4\","
                              "\"y\":\"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM\","
                              "\"d\":\"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE\"}";
    _cleanup_json_ json_t *j = NULL;
    struct jkey *k = NULL;
    struct err e;

    if (json_parse("key", BYTES_STR(jwk), sizeof(jwk), &j, &e) || jkey_from_jwk(j, &k, &e)) {
        abort();
    }
    return k;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct jkey *key;
    _cleanup_free_ char *text = xstrndup((const char *)data, size);
    _cleanup_secret_ struct secret *plain = NULL;
    struct err e;

    if (!key) {
        key = fixed_key();
    }
    if (jwe_decrypt(key, text, 65536, &plain, &e) && plain) {
        abort();
    }
    return 0;
}

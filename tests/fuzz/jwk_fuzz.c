/* JWK: an accepted key must survive its own public form, under the same name. */
#include "common/jose.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_json_ json_t *j = NULL, *public = NULL;
    _cleanup_jkey_ struct jkey *k = NULL, *again = NULL;
    struct err e;

    if (json_parse("jwk", BYTES(data, size), 4096, &j, &e) || jkey_from_jwk(j, &k, &e)) {
        return 0;
    }
    public = jkey_public_jwk(k);
    if (jkey_from_jwk(public, &again, &e) || jkey_is_private(again) ||
        !streq(jkey_thumbprint(k), jkey_thumbprint(again))) {
        abort();
    }
    return 0;
}

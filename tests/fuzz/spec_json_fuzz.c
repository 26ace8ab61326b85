/* Spec in normal form: what is accepted must survive its canonical form with the same id. */
#include "common/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_json_ json_t *j = NULL, *k = NULL;
    _cleanup_spec_ struct spec *s = NULL, *back = NULL;
    _cleanup_free_ char *text = NULL;
    struct err e = {0};

    if (json_parse("spec", BYTES(data, size), SPEC_JWS_MAX_BYTES, &j, &e) < 0) {
        return 0;
    }
    if (spec_from_json(j, &s, &e) < 0) {
        if (e.code != ERR_INVALID || strncmp(e.msg, "spec", 4) != 0) {
            abort();
        }
        return 0;
    }
    if (jcs_encode(s->json, &text, &e) < 0 ||
        json_parse("spec", BYTES_STR(text), SPEC_JWS_MAX_BYTES, &k, &e) < 0 ||
        spec_from_json(k, &back, &e) < 0 || !streq(back->job_id, s->job_id)) {
        abort();
    }
    return 0;
}

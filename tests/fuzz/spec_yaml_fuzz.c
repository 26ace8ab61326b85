/* Spec YAML: what is accepted must be the same spec when read back from its normal form. */
#include "common/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct jkey *self;
    _cleanup_spec_ struct spec *s = NULL, *back = NULL;
    struct err e = {0};

    if (!self && jkey_generate(&self, &e) < 0) {
        abort();
    }
    if (spec_from_yaml("job.yaml", BYTES(data, size), self, &s, &e) < 0) {
        if (e.code == ERR_NONE || e.code == ERR_INTERNAL || strncmp(e.msg, "job.yaml:", 9) != 0) {
            abort();
        }
        return 0;
    }
    if (spec_from_json(s->json, &back, &e) < 0 || !streq(back->digest_hex, s->digest_hex) ||
        !job_id_valid(s->job_id)) {
        abort();
    }
    return 0;
}

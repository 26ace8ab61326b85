/* Nitro evidence of any form, up to its refusal: nobody here can sign for AWS. */
#include <stdint.h>

#include "appraise/nitro.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct appraisal_policy policy = {0};
    const struct appraisal_input in = {.evidence = BYTES(data, size), .now_ms = 1767225600000};
    struct appraisal a = {0};
    struct nitro_doc d;
    struct err e = {0};

    if (nitro_parse(in.evidence, &d, &e) == 0 &&
        (!d.n_cabundle || d.n_cabundle > NITRO_CABUNDLE_MAX || !d.module_id.n || !d.has_pcr)) {
        abort();
    }
    e = (struct err){0};
    if (nitro_appraise(&in, &policy, &a, &e) == 0 || !e.code || !*e.clause) {
        abort();
    }
    return 0;
}

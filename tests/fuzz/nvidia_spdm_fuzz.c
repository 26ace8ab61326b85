/* NVIDIA evidence of any form, up to its refusal: nobody here can sign for NVIDIA. */
#include <stdint.h>

#include "appraise/nvidia.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int inside(struct bytes whole, const uint8_t *p, size_t n)
{
    return p >= whole.p && n <= whole.n && p <= whole.p + (whole.n - n);
}

static void check_views(struct bytes raw, const struct nvidia_report *r)
{
    for (size_t i = 0; i < r->n_measurements; i++) {
        if (!inside(raw, r->measurements[i].value.p, r->measurements[i].value.n)) {
            abort();
        }
    }
    for (size_t i = 0; i < r->n_opaque; i++) {
        if (!inside(raw, r->opaque[i].value.p, r->opaque[i].value.n)) {
            abort();
        }
    }
    if (!r->n_measurements || r->signature != raw.p + raw.n - NVIDIA_SIGNATURE_BYTES ||
        r->signed_bytes.n != raw.n - NVIDIA_SIGNATURE_BYTES ||
        !inside(raw, r->request_nonce, NVIDIA_NONCE_BYTES) ||
        !inside(raw, r->response_nonce, NVIDIA_NONCE_BYTES)) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct appraisal_policy policy = {0};
    const struct appraisal_input in = {.evidence = BYTES(data, size), .now_ms = 1767225600000};
    struct appraisal a = {0};
    struct nvidia_report r;
    struct err e = {0};

    if (nvidia_report_parse(in.evidence, &r, &e) == 0) {
        check_views(in.evidence, &r);
    }
    e = (struct err){0};
    if (nvidia_appraise(&in, &policy, &a, &e) == 0 || !e.code || !*e.clause) {
        abort();
    }
    return 0;
}

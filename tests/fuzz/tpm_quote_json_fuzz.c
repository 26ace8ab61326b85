/* TPM evidence of either form. */
#include <stdint.h>

#include "appraise/tpm_attest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct appraisal_policy policy = {0};
    const struct appraisal_input in = {.evidence = BYTES(data, size), .now_ms = 1767225600000};
    struct appraisal a = {0};
    struct err e = {0};

    if (tpm_appraise(&in, &policy, &a, &e) && (!e.code || !*e.msg)) {
        abort();
    }
    appraisal_done(&a);
    return 0;
}

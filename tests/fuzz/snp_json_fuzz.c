/* A whole appraisal of SNP evidence, which nothing but a signature by AMD can pass: no fuzzer has
 * that. */
#include <stdint.h>

#include "appraise/snp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct appraisal_policy policy = {0};
    const struct appraisal_input in = {.evidence = BYTES(data, size), .now_ms = 1767225600000};
    struct appraisal a = {0};
    struct err e = {0};

    if (snp_appraise(&in, &policy, &a, &e) == 0 || !e.code || !*e.msg) {
        abort();
    }
    return 0;
}

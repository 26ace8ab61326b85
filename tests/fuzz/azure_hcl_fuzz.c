/* Azure's HCL blob: what is bound to its report is inside of the input. */
#include <stdint.h>

#include "appraise/azure.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(tpm_ak_done) struct tpm_ak ak = {0};
    struct azure_hcl h;
    json_t *j = NULL;
    struct err e = {0};

    if (azure_hcl_parse(BYTES(data, size), &h, &e)) {
        if (!e.code || !*e.clause) {
            abort();
        }
        /* A digest that fits is beyond a fuzzer: the run-time data by themselves. */
        h = (struct azure_hcl){.kind = AZURE_SNP, .var_data = BYTES(data, size)};
    }
    azure_hcl_ak(&h, &ak, &j, &e);
    json_decref(j);
    return 0;
}

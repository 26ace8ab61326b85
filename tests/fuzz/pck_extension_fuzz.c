/* The extension of a PCK certificate. */
#include <stdint.h>

#include "appraise/dcap_pck.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pck p;
    struct err e = {0};

    if (pck_parse(BYTES(data, size), &p, &e) ? !*e.clause : p.sgx_type > 2) {
        abort();
    }
    return 0;
}

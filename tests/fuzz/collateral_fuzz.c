/* Collateral of any form. */
#include <stdint.h>

#include "appraise/collateral.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(certs_freep) struct certs *certs = certs_new(32);
    _cleanup_(collateral_freep) struct collateral *c = collateral_new(certs);
    struct err e = {0};

    if (collateral_add(c, "fuzz", BYTES(data, size), &e)) {
        if (!e.code || !*e.msg || collateral_n(c)) {
            abort(); /* all of a file or nothing */
        }
    } else if (!collateral_n(c)) {
        abort();
    }
    return 0;
}

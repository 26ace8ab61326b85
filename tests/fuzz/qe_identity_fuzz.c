/* Intel's identity of a quoting enclave, and a report held against it. */
#include <stdint.h>

#include "appraise/dcap_tcb.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t report[SGX_REPORT_BYTES];
    struct qe_identity *q;
    struct err e = {0};

    if (qe_identity_parse(BYTES(data, size), &q, &e)) {
        if (!e.code || !*e.clause) {
            abort();
        }
        return 0;
    }
    if (!q->n_levels || (qe_identity_check(q, report, &e) && !*e.clause)) {
        abort();
    }
    qe_identity_free(q);
    return 0;
}

/* SNP evidence of any form, up to what it says; what would be fetched for it. */
#include <stdint.h>

#include "appraise/snp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(certs_freep) struct certs *store = certs_new(32);
    _cleanup_(snp_evidence_done) struct snp_evidence ev = {0};
    const struct bytes in = BYTES(data, size);
    struct snp_report r;
    struct needs n = {0};
    struct err e = {0};

    if (snp_report_parse(in, &r, &e) == 0 &&
        (size != SNP_REPORT_BYTES || memcmp(r.raw, data, size) != 0 || r.vmpl > 3)) {
        abort();
    }
    if (snp_evidence_take(store, in, &ev, &e)) {
        if (!e.code || !*e.msg) {
            abort();
        }
        return 0;
    }
    if (ev.n_certs > SNP_CERTS_MAX || !ev.has_report) {
        abort();
    }
    snp_needs(in, &n);
    return 0;
}

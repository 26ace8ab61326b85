/* SGX and TDX quotes, up to what is said of them; what would be fetched for them. */
#include <stdint.h>

#include "appraise/dcap.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct bytes in = BYTES(data, size);
    struct dcap_quote q;
    struct needs n = {0};
    struct err e = {0};

    dcap_needs(in, &n);
    if (dcap_quote_parse(in, &q, &e)) {
        if (!e.code || !*e.clause) {
            abort();
        }
        return 0;
    }
    const uint8_t *end = data + size;
    if (q.signed_part.p != data || q.signed_part.n > size || q.ak + 64 > end ||
        q.qe_report + SGX_REPORT_BYTES > end || q.qe_signature + 64 > end ||
        q.cert_data.p + q.cert_data.n > end || dcap_report_data(&q) + 64 > end) {
        abort();
    }
    return 0;
}

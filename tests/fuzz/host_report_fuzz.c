/* HostReports: as they come, and made to come from the host that is known. */
#include "tests/fuzz/sched_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_message(SUBJ_HOST_REPORT, "h9", BYTES(data, size));
    Coffer__V1__HostReport *r = coffer__v1__host_report__unpack(NULL, size, data);
    if (!r) {
        return 0;
    }
    char *host = r->host;
    r->host = "h1";
    size_t n = coffer__v1__host_report__get_packed_size(r);
    _cleanup_free_ uint8_t *p = xmalloc(n + 1);
    coffer__v1__host_report__pack(r, p);
    fuzz_message(SUBJ_HOST_REPORT, "h1", BYTES(p, n));
    r->host = host;
    coffer__v1__host_report__free_unpacked(r, NULL);
    return 0;
}

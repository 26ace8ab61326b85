/* CvmEvents: as they come, and made to be about the job that runs. */
#include "tests/fuzz/sched_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_message(SUBJ_CVM_EVENT, "jaaaaaaaaaaaaaaaaaaaaaaaaaa", BYTES(data, size));
    Coffer__V1__CvmEvent *ev = coffer__v1__cvm_event__unpack(NULL, size, data);
    if (!ev) {
        return 0;
    }
    char *job = ev->job, *host = ev->host;
    ev->job = fuzz_job;
    ev->host = "h1";
    ev->attempt %= 3;
    size_t n = coffer__v1__cvm_event__get_packed_size(ev);
    _cleanup_free_ uint8_t *p = xmalloc(n + 1);
    coffer__v1__cvm_event__pack(ev, p);
    fuzz_message(SUBJ_CVM_EVENT, fuzz_job, BYTES(p, n));
    ev->job = job;
    ev->host = host;
    coffer__v1__cvm_event__free_unpacked(ev, NULL);
    return 0;
}

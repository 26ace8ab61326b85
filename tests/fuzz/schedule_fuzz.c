/* ScheduleJob as anybody may send it: first the message itself, then the bytes as its JWS. */
#include "tests/fuzz/sched_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Coffer__V1__ScheduleJob m = COFFER__V1__SCHEDULE_JOB__INIT;
    _cleanup_free_ char *text = xstrndup((const char *)data, size);

    fuzz_message(SUBJ_JOB_SCHEDULE, "", BYTES(data, size));
    m.spec_jws = text;
    size_t n = coffer__v1__schedule_job__get_packed_size(&m);
    _cleanup_free_ uint8_t *p = xmalloc(n + 1);
    coffer__v1__schedule_job__pack(&m, p);
    fuzz_message(SUBJ_JOB_SCHEDULE, "", BYTES(p, n));
    return 0;
}

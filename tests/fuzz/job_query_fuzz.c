/* JobQuery as anybody may send it. */
#include "tests/fuzz/sched_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_message(SUBJ_JOB_QUERY, "", BYTES(data, size));
    return 0;
}

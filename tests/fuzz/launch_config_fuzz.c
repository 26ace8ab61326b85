/* What a host hands to a worker. */
#include "svc-worker/worker.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct worker_launch *l = NULL;
    struct err e = {0};

    if (worker_launch_parse(BYTES(data, size), 0, &l, &e) == 0) {
        if (l->pb->no_container || !l->attester || !streq(l->spec->job_id, l->pb->job)) {
            abort();
        }
        worker_launch_free(l);
    }
    return 0;
}

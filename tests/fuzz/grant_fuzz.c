/* The payload of a grant: what parses is complete and within bounds. */
#include <stdint.h>

#include "svc-kbs/grant.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct grant g;
    struct err e = {0};

    if (grant_parse(BYTES(data, size), &g, &e)) {
        if (!e.msg[0]) {
            abort();
        }
        return 0;
    }
    size_t n = json_array_size(g.consumers);
    if (!g.id || !g.secret || n < 1 || n > GRANT_LIST_MAX || !json_array_size(g.images) ||
        !json_array_size(g.tee_types) || g.exp <= g.nbf || g.hold_at < 0 || g.hold_at > 101) {
        abort();
    }
    grant_done(&g);
    return 0;
}

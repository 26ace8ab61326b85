/* The trust file. */
#include <stdint.h>

#include "common/trust.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_json_ json_t *j = NULL;
    _cleanup_(trust_freep) struct trust *t = NULL;
    struct err e = {0};

    if (json_parse("trust", BYTES(data, size), 1u << 16, &j, &e)) {
        return 0;
    }
    if (trust_from_json(j, &t, &e)) {
        if (!e.msg[0] || t) {
            abort();
        }
        return 0;
    }
    if (!t->verifier.n || !t->kbs.n || !t->gate.n || !t->kbs_seal || !t->gate_seal ||
        jkey_is_private(t->kbs_seal)) {
        abort();
    }
    return 0;
}

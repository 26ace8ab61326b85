/* The prefix of a sealed stream, as anyone may hand it over. */
#include "common/seal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct seal_header h;
    struct err e;

    if (seal_header_parse(BYTES(data, size), &h, &e) < 0) {
        return 0;
    }
    if (h.prefix_bytes > size || !h.kind || !h.cipher || (h.name != NULL) != (h.owner != NULL)) {
        abort();
    }
    seal_header_done(&h);
    return 0;
}

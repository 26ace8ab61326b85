/* A pack of an image's JSON documents, as a VM's disk brings it. */
#include "svc-worker/blobs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "a", ""};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct bytes got = {0};
        if (blobs_pack_find(BYTES(data, size), names[i], &got, NULL) == 0 &&
            (got.p < data || got.n > size || (size_t)(got.p - data) > size - got.n)) {
            abort();
        }
    }
    return 0;
}

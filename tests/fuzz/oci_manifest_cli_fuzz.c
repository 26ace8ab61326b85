/* OCI manifests as the command reads them: which blobs, wrapped with which keys. */
#include "cli/layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct image_info info = {0};
    struct err e = {0};

    if (image_manifest_parse(BYTES(data, size), &info, &e) == 0 && info.blobs.n == 0) {
        abort(); /* a manifest has a config at least */
    }
    image_info_done(&info);
    return 0;
}

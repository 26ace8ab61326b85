/* Reference values: a payload, and, after a first byte 'f', a file of them that nobody may sign. */
#include <stdint.h>

#include "common/refvals.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct refvals_image image = {0};
    struct trust_keys nobody = {0};
    struct refvals *file = NULL;
    struct err e = {0};

    if (size && data[0] == 'f') {
        if (!refvals_parse(BYTES(data + 1, size - 1), &nobody, &file, &e)) {
            abort();
        }
        return 0;
    }
    if (refvals_image_parse(BYTES(data, size), &image, &e)) {
        if (!e.msg[0] || image.json) {
            abort();
        }
        return 0;
    }
    if (!image.name || (image.has_vtpm && (!image.vtpm.n_pcr0 || image.vtpm.pcrs & 1u))) {
        abort();
    }
    refvals_image_done(&image);
    return 0;
}

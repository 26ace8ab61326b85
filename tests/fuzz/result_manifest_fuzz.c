/* The payload of a result's manifest, and what is in its box. */
#include "common/result.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct result_manifest m;
    struct result_box b;
    struct err e = {0};

    if (size < 1) {
        return 0;
    }
    struct bytes in = BYTES(data + 1, size - 1);
    if (data[0] % 2) {
        if (result_manifest_parse(in, 1u << 20, &m, &e) == 0) {
            if (m.bytes > 1u << 20 || m.ok != (m.bytes > 0) ||
                (m.chunks && !result_chunk_bytes(m.bytes, m.chunks - 1)) ||
                result_chunk_bytes(m.bytes, m.chunks)) {
                abort();
            }
            result_manifest_done(&m);
        }
        return 0;
    }
    if (result_box_parse(in, &b, &e) == 0) {
        if (b.n_files > SPEC_MAX_FILES || b.fp_count > FP_MAX_COUNT || b.fp_total < b.fp_count) {
            abort();
        }
        result_box_done(&b);
    }
    return 0;
}

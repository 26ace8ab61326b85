/* What a keeper sends to a launcher, and back: packets, and the end of a CVM in one. */
#include "svc-launcher/link.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t packed[LINK_END_BYTES];
    struct link_msg m;
    struct link_end end;
    struct err e = {0};

    if (link_parse(BYTES(data, size), &m, &e) < 0) {
        if (!e.msg[0]) {
            abort();
        }
        return 0;
    }
    if (m.data.n + LINK_HEAD_BYTES != size || m.data.n > LINK_DATA_MAX) {
        abort();
    }
    if (m.kind == LINK_END && link_end_parse(m.data, &end, &e) == 0) {
        link_end_pack(&end, packed);
        if (memcmp(packed, m.data.p, sizeof(packed)) != 0) {
            abort();
        }
    }
    return 0;
}

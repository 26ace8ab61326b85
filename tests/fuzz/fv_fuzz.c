/* Firmware of outside bytes: its compressed volumes. The input is taken as it is, and, after the
 * header of a compressed section, as the volumes themselves: compressing is not what is tested. */
#include <lzma.h>

#include "guest/fv.h"

#define PLAIN_MAX 4096u
#define HEADER 24u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void extract(struct bytes firmware)
{
    _cleanup_buf_ struct buf pei = BUF_INIT(FV_MAX_BYTES), dxe = BUF_INIT(FV_MAX_BYTES);
    struct err e;

    if (fv_extract(firmware, &pei, &dxe, &e) == 0) {
        if (pei.n > FV_MAX_BYTES || dxe.n > FV_MAX_BYTES) {
            abort();
        }
        (void)fv_pei_at_runtime(firmware, 256, 1, pei.p, pei.n, &e);
    }
}

static void compressed(struct bytes plain)
{
    static const uint8_t header[HEADER] = {0,    0x40, 0,    0x02, 0x98,   0x58, 0x4e, 0xee,
                                           0x14, 0x39, 0x59, 0x42, 0x9d,   0x6e, 0xdc, 0x7b,
                                           0xd7, 0x94, 0x03, 0xcf, HEADER, 0,    1,    0};
    uint8_t out[HEADER + 2 * PLAIN_MAX];
    lzma_stream s = LZMA_STREAM_INIT;
    lzma_options_lzma opt;

    memcpy(out, header, HEADER);
    if (lzma_lzma_preset(&opt, 0)) {
        abort();
    }
    opt.dict_size = PLAIN_MAX;
    s.next_in = plain.p;
    s.avail_in = plain.n;
    s.next_out = out + HEADER;
    s.avail_out = sizeof(out) - HEADER;
    if (lzma_alone_encoder(&s, &opt) != LZMA_OK || lzma_code(&s, LZMA_FINISH) != LZMA_STREAM_END) {
        abort();
    }
    extract(BYTES(out, sizeof(out) - s.avail_out));
    lzma_end(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    extract(BYTES(data, size));
    if (size > 0 && size <= PLAIN_MAX) {
        compressed(BYTES(data, size));
    }
    return 0;
}

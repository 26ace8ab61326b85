/* The strict decoders: whatever decodes must encode to exactly the same text. */
#include "common/buf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const uint8_t *data, size_t size,
                  int (*decode)(const char *, size_t, struct buf *, struct err *),
                  char *(*encode)(const void *, size_t))
{
    _cleanup_buf_ struct buf b = BUF_INIT(65536);
    struct err e;

    if (decode((const char *)data, size, &b, &e)) {
        if (b.n) {
            abort();
        }
        return;
    }
    _cleanup_free_ char *text = encode(b.p, b.n);
    if (strlen(text) != size || (size && memcmp(text, data, size) != 0)) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_free_ char *s = xstrndup((const char *)data, size);
    uint8_t raw[16];
    struct err e;

    check(data, size, b64url_decode, b64url_encode);
    check(data, size, b64_decode, b64_encode);
    if (hex_decode(s, raw, sizeof(raw), &e) == 0 && strlen(s) != 2 * sizeof(raw)) {
        abort();
    }
    return 0;
}

/* CBOR and COSE_Sign1: views inside of the input, and one item never read past its end. */
#include <stdint.h>

#include "appraise/cose.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void inside(const uint8_t *data, size_t size, struct bytes b)
{
    if (b.n && (b.p < data || b.n > size || b.p + b.n > data + size)) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cbor c = {.p = data, .n = size};
    struct cose_sign1 s;
    struct err e = {0};

    while (cbor_skip(&c) == 0) {
        if (c.n >= size) {
            abort();
        }
    }
    if (cose_sign1_parse("fuzz", BYTES(data, size), &s, &e)) {
        if (!e.code || !*e.clause) {
            abort();
        }
        return 0;
    }
    inside(data, size, s.protected_header);
    inside(data, size, s.payload);
    inside(data, size, BYTES(s.signature, COSE_ES384_BYTES));
    return 0;
}

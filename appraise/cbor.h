/* CBOR (RFC 8949) read from outside bytes, item by item, without a tree and without allocation:
 * every length is compared with what is there before it is believed. Strings in chunks, which no
 * attestation document has, are refused; so is anything nested deeper than CBOR_DEPTH_MAX. */
#ifndef COFFER_CBOR_H
#define COFFER_CBOR_H

#include "common/buf.h"

#define CBOR_DEPTH_MAX 8

enum cbor_kind {
    CBOR_UINT = 0,
    CBOR_NEGATIVE = 1, /* the integer -1 - value */
    CBOR_BYTES = 2,
    CBOR_TEXT = 3, /* UTF-8, checked */
    CBOR_ARRAY = 4,
    CBOR_MAP = 5,
    CBOR_TAG = 6,
    CBOR_SIMPLE = 7, /* false, true, null and floats: `value` is the simple value or the bits */
    CBOR_BREAK,      /* the end of an array or map of unstated length */
};

#define CBOR_FALSE 20u
#define CBOR_TRUE 21u
#define CBOR_NULL 22u

struct cbor_item {
    enum cbor_kind kind;
    uint64_t value;     /* integer; number of elements or pairs; tag */
    int indefinite;     /* an array or map that a break ends; value is 0 */
    struct bytes bytes; /* of strings; borrowed */
};

/* `p` and `n`: what is left. `bad` stays set once something did not fit. */
struct cbor {
    const uint8_t *p;
    size_t n;
    int bad;
};

/* The next item's head, with its contents if it is a string. 0: there is one; -1: there is not, or
 * it is malformed, and c->bad is set. */
int cbor_next(struct cbor *c, struct cbor_item *ret);
/* As cbor_next, of that kind. */
int cbor_expect(struct cbor *c, enum cbor_kind kind, struct cbor_item *ret);
/* Passes over one whole item, at most CBOR_DEPTH_MAX deep. */
int cbor_skip(struct cbor *c);

/* Walks through the elements of an array, or the pairs of a map, whatever way its length is said:
 *   for (uint64_t left = cbor_count(&map); cbor_more(c, &map, &left);) { ... }
 * cbor_more is 0 at the end, and when something is malformed (c->bad). */
static inline uint64_t cbor_count(const struct cbor_item *of)
{
    return of->value;
}
int cbor_more(struct cbor *c, const struct cbor_item *of, uint64_t *left);

#endif

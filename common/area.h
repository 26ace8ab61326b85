/* Locked plaintext: a mapping for datasets' and outputs' bytes that are too many for a struct
 * secret. Kept out of swap where the limit allows, out of core dumps, and wiped before it is
 * unmapped. */
#ifndef COFFER_AREA_H
#define COFFER_AREA_H

#include "common/buf.h"

#define AREA_MAX_BYTES (1u << 30)

struct area {
    uint8_t *p; /* n bytes, zero at first */
    size_t n;
    size_t mapped_bytes;
};

/* n in 0..AREA_MAX_BYTES. A shared area is seen by processes forked later too; wiping it wipes it
 * for all. Pages are taken from memory when they are touched. ERR_TOO_LARGE, ERR_BUSY (out of
 * memory). */
int area_new(size_t n, int shared, struct area **ret, struct err *e);
void area_free(struct area *a); /* NULL is fine */
DEFINE_CLEANUP(struct area *, area_free);
#define _cleanup_area_ _cleanup_(area_freep)

#endif

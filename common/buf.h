/* A growing byte buffer that always has a cap, and a borrowed view of bytes. */
#ifndef COFFER_BUF_H
#define COFFER_BUF_H

#include <stdint.h>

#include "common/err.h"

/* Borrowed bytes: never freed through this. */
struct bytes {
    const uint8_t *p;
    size_t n;
};

#define BYTES(ptr, len) ((struct bytes){.p = (const uint8_t *)(ptr), .n = (len)})
#define BYTES_STR(s) ((struct bytes){.p = (const uint8_t *)(s), .n = strlen(s)})

/* Owned bytes. Initialise with BUF_INIT(cap); `cap` bounds n. p[n] is always a NUL once used. */
struct buf {
    uint8_t *p;
    size_t n;
    size_t size;
    size_t cap;
};

#define BUF_INIT(max) ((struct buf){.cap = (max)})

/* Appends; ERR_TOO_LARGE when the cap would be passed (nothing is then appended). */
int buf_add(struct buf *b, const void *p, size_t n, struct err *e);
int buf_addf(struct buf *b, struct err *e, const char *fmt, ...) _printf_(3, 4);
/* Room for n more bytes at b->p + b->n; the caller adds to b->n itself. */
int buf_reserve(struct buf *b, size_t n, struct err *e);
/* Wipes with explicit_bzero, frees, and leaves an empty buffer with the same cap. */
void buf_done(struct buf *b);
#define _cleanup_buf_ _cleanup_(buf_done)

static inline struct bytes buf_bytes(const struct buf *b)
{
    return (struct bytes){.p = b->p, .n = b->n};
}

/* Encodings. Outputs are NUL-terminated and owned by the caller. */
char *hex_encode(const void *p, size_t n);
/* Exactly `n` bytes from 2n hex digits, lower or upper case. */
int hex_decode(const char *s, void *out, size_t n, struct err *e);
char *b64url_encode(const void *p, size_t n); /* RFC 4648 §5, no padding */
int b64url_decode(const char *s, size_t len, struct buf *ret, struct err *e); /* strict */
char *b64_encode(const void *p, size_t n); /* RFC 4648 §4, padded */
int b64_decode(const char *s, size_t len, struct buf *ret, struct err *e); /* strict, padded */
char *b32_encode_lower(const void *p,
                       size_t n); /* RFC 4648 §6 alphabet in lower case, no padding */

#endif

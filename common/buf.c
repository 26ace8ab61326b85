#include "common/buf.h"

#include <stdarg.h>

/* Grows by copying into fresh zeroed memory and wiping the old: realloc would leave a copy of what
 * may be a key behind. */
static void grow(struct buf *b, size_t want)
{
    size_t size = b->size ? b->size : 64;
    uint8_t *p;

    while (size < want) {
        size = size > SIZE_MAX / 2 ? want : size * 2;
    }
    if (size > b->cap + 1) {
        size = b->cap + 1;
    }
    p = xcalloc(1, size);
    if (b->p) {
        memcpy(p, b->p, b->n);
        explicit_bzero(b->p, b->size);
        free(b->p);
    }
    b->p = p;
    b->size = size;
}

int buf_reserve(struct buf *b, size_t n, struct err *e)
{
    if (b->cap == SIZE_MAX || b->n > b->cap || n > b->cap - b->n) {
        return err_set(e, ERR_TOO_LARGE, "expected at most %zu bytes, found more", b->cap);
    }
    if (!b->p || b->size - b->n < n + 1) {
        grow(b, b->n + n + 1);
    }
    return 0;
}

int buf_add(struct buf *b, const void *p, size_t n, struct err *e)
{
    if (buf_reserve(b, n, e)) {
        return -1;
    }
    if (n) {
        memcpy(b->p + b->n, p, n);
    }
    b->n += n;
    b->p[b->n] = 0;
    return 0;
}

int buf_addf(struct buf *b, struct err *e, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) {
        return err_set(e, ERR_INTERNAL, "cannot format text");
    }
    if (buf_reserve(b, (size_t)n, e)) {
        return -1;
    }
    va_start(ap, fmt);
    vsnprintf((char *)b->p + b->n, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->n += (size_t)n;
    return 0;
}

void buf_done(struct buf *b)
{
    if (b->p) {
        explicit_bzero(b->p, b->size);
        free(b->p);
    }
    *b = BUF_INIT(b->cap);
}

char *hex_encode(const void *p, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *in = p;
    char *out = xmalloc(2 * n + 1);

    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[in[i] >> 4];
        out[2 * i + 1] = digits[in[i] & 15];
    }
    out[2 * n] = 0;
    return out;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    if (c >= 'A' && c <= 'F') {
        return c - 'A' + 10;
    }
    return -1;
}

int hex_decode(const char *s, void *out, size_t n, struct err *e)
{
    uint8_t *o = out;
    size_t len = strnlen(s, 2 * n + 1);

    if (len != 2 * n) {
        return err_set(e, ERR_INVALID, "expected %zu hex digits, found %s", 2 * n,
                       len > 2 * n ? "more" : "fewer");
    }
    for (size_t i = 0; i < 2 * n; i++) {
        if (hex_digit(s[i]) < 0) {
            return err_set(e, ERR_INVALID, "expected a hex digit at position %zu", i + 1);
        }
    }
    for (size_t i = 0; i < n; i++) {
        o[i] = (uint8_t)(hex_digit(s[2 * i]) << 4 | hex_digit(s[2 * i + 1]));
    }
    return 0;
}

static const char b64_std[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char b64_url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static char *b64_any_encode(const char *abc, int pad, const uint8_t *p, size_t n)
{
    char *out = xmalloc(n / 3 * 4 + 5);
    char *o = out;
    size_t i = 0;

    for (; n - i >= 3; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16 | (uint32_t)p[i + 1] << 8 | p[i + 2];
        *o++ = abc[v >> 18];
        *o++ = abc[v >> 12 & 63];
        *o++ = abc[v >> 6 & 63];
        *o++ = abc[v & 63];
    }
    if (n - i) {
        uint32_t v = (uint32_t)p[i] << 16 | (n - i == 2 ? (uint32_t)p[i + 1] << 8 : 0);
        *o++ = abc[v >> 18];
        *o++ = abc[v >> 12 & 63];
        if (n - i == 2) {
            *o++ = abc[v >> 6 & 63];
        } else if (pad) {
            *o++ = '=';
        }
        if (pad) {
            *o++ = '=';
        }
    }
    *o = 0;
    return out;
}

/* The value of a digit, or 64; without a table indexed by what may be key material. */
static uint32_t b64_digit(uint8_t c, uint8_t c62, uint8_t c63)
{
    uint32_t v = 64;

    v = c >= 'A' && c <= 'Z' ? (uint32_t)(c - 'A') : v;
    v = c >= 'a' && c <= 'z' ? (uint32_t)(c - 'a' + 26) : v;
    v = c >= '0' && c <= '9' ? (uint32_t)(c - '0' + 52) : v;
    v = c == c62 ? 62 : v;
    v = c == c63 ? 63 : v;
    return v;
}

/* Digits without padding. The bits after the last whole byte must be zero: one value has one
 * spelling, so that hashes of encoded text mean something. */
static int b64_any_decode(const char *abc, const char *s, size_t len, struct buf *ret,
                          struct err *e)
{
    const uint8_t c62 = (uint8_t)abc[62], c63 = (uint8_t)abc[63];
    size_t n = len / 4 * 3 + (len % 4 ? len % 4 - 1 : 0);
    uint32_t acc = 0;
    int bits = 0;

    if (len % 4 == 1) {
        return err_set(e, ERR_INVALID, "expected whole base64 bytes, found %zu digits", len);
    }
    if (buf_reserve(ret, n, e)) {
        return -1;
    }
    uint8_t *o = ret->p + ret->n;
    for (size_t i = 0; i < len; i++) {
        uint32_t v = b64_digit((uint8_t)s[i], c62, c63);
        if (v > 63) {
            explicit_bzero(ret->p + ret->n, n);
            return err_set(e, ERR_INVALID, "expected a base64%s digit at position %zu",
                           abc == b64_url ? "url" : "", i + 1);
        }
        acc = acc << 6 | v;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            *o++ = (uint8_t)(acc >> bits);
            acc &= (1u << bits) - 1;
        }
    }
    if (acc) {
        explicit_bzero(ret->p + ret->n, n);
        return err_set(e, ERR_INVALID, "expected zero bits after the last base64 byte");
    }
    ret->n += n;
    ret->p[ret->n] = 0;
    return 0;
}

char *b64url_encode(const void *p, size_t n)
{
    return b64_any_encode(b64_url, 0, p, n);
}

int b64url_decode(const char *s, size_t len, struct buf *ret, struct err *e)
{
    return b64_any_decode(b64_url, s, len, ret, e);
}

char *b64_encode(const void *p, size_t n)
{
    return b64_any_encode(b64_std, 1, p, n);
}

int b64_decode(const char *s, size_t len, struct buf *ret, struct err *e)
{
    if (len % 4) {
        return err_set(e, ERR_INVALID, "expected padded base64, found %zu characters", len);
    }
    if (len && s[len - 1] == '=') {
        len -= s[len - 2] == '=' ? 2 : 1;
    }
    return b64_any_decode(b64_std, s, len, ret, e);
}

char *b32_encode_lower(const void *p, size_t n)
{
    static const char abc[] = "abcdefghijklmnopqrstuvwxyz234567";
    const uint8_t *in = p;
    char *out = xmalloc(n / 5 * 8 + 9);
    char *o = out;
    uint32_t acc = 0;
    int bits = 0;

    for (size_t i = 0; i < n; i++) {
        acc = (acc << 8 | in[i]) & 0xffff;
        bits += 8;
        while (bits >= 5) {
            bits -= 5;
            *o++ = abc[acc >> bits & 31];
        }
    }
    if (bits) {
        *o++ = abc[acc << (5 - bits) & 31];
    }
    *o = 0;
    return out;
}

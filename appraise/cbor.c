#include "appraise/cbor.h"

#define BREAK 0xffu
#define INDEFINITE 31u

static int bad(struct cbor *c)
{
    c->bad = 1;
    return -1;
}

static int is_continuation(uint8_t b)
{
    return (b & 0xc0) == 0x80;
}

/* RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
static int is_utf8(struct bytes s)
{
    for (size_t i = 0; i < s.n;) {
        uint8_t b = s.p[i];
        size_t more = b < 0x80 ? 0 : b >= 0xc2 && b < 0xe0 ? 1 : (b & 0xf0) == 0xe0 ? 2 : 3;
        if ((b >= 0x80 && b < 0xc2) || b > 0xf4 || more >= s.n - i) {
            return 0;
        }
        for (size_t k = 1; k <= more; k++) {
            if (!is_continuation(s.p[i + k])) {
                return 0;
            }
        }
        uint8_t second = more ? s.p[i + 1] : 0;
        if ((b == 0xe0 && second < 0xa0) || (b == 0xed && second > 0x9f) ||
            (b == 0xf0 && second < 0x90) || (b == 0xf4 && second > 0x8f)) {
            return 0;
        }
        i += more + 1;
    }
    return 1;
}

/* What the low five bits of a head say, and the bytes behind it. */
static int argument(struct cbor *c, unsigned low, uint64_t *ret)
{
    size_t n = low == 24 ? 1 : low == 25 ? 2 : low == 26 ? 4 : low == 27 ? 8 : 0;
    uint64_t v = 0;

    if (low < 24) {
        *ret = low;
        return 0;
    }
    if (!n || c->n < n) {
        return bad(c);
    }
    for (size_t i = 0; i < n; i++) {
        v = v << 8 | c->p[i];
    }
    c->p += n;
    c->n -= n;
    *ret = v;
    return 0;
}

static int take_string(struct cbor *c, struct cbor_item *item)
{
    if (item->value > c->n) {
        return bad(c);
    }
    item->bytes = BYTES(c->p, (size_t)item->value);
    c->p += item->bytes.n;
    c->n -= item->bytes.n;
    return item->kind == CBOR_TEXT && !is_utf8(item->bytes) ? bad(c) : 0;
}

int cbor_next(struct cbor *c, struct cbor_item *ret)
{
    if (c->bad || !c->n) {
        return bad(c);
    }
    uint8_t head = *c->p++;
    struct cbor_item item = {.kind = (enum cbor_kind)(head >> 5)};
    unsigned low = head & 0x1f;

    c->n--;
    if (head == BREAK) {
        item.kind = CBOR_BREAK;
    } else if (low == INDEFINITE && (item.kind == CBOR_ARRAY || item.kind == CBOR_MAP)) {
        item.indefinite = 1;
    } else if (argument(c, low, &item.value)) {
        return -1;
    } else if (item.kind == CBOR_BYTES || item.kind == CBOR_TEXT) {
        if (take_string(c, &item)) {
            return -1;
        }
    } else if (item.kind == CBOR_ARRAY && item.value > c->n) {
        return bad(c); /* an element has at least one byte */
    } else if (item.kind == CBOR_MAP && item.value > c->n / 2) {
        return bad(c);
    } else if (item.kind == CBOR_SIMPLE && low == 24 && item.value < 32) {
        return bad(c); /* RFC 8949 §3.3 */
    }
    *ret = item;
    return 0;
}

int cbor_expect(struct cbor *c, enum cbor_kind kind, struct cbor_item *ret)
{
    struct cbor_item item;

    if (cbor_next(c, &item)) {
        return -1;
    }
    if (item.kind != kind) {
        return bad(c);
    }
    *ret = item;
    return 0;
}

int cbor_more(struct cbor *c, const struct cbor_item *of, uint64_t *left)
{
    if (c->bad) {
        return 0;
    }
    if (!of->indefinite) {
        return *left ? (int)((*left)--, 1) : 0;
    }
    if (!c->n) {
        return bad(c), 0;
    }
    if (*c->p == BREAK) {
        c->p++;
        c->n--;
        return 0;
    }
    return 1;
}

static int skip(struct cbor *c, int depth)
{
    struct cbor_item item;

    if (depth > CBOR_DEPTH_MAX || cbor_next(c, &item) || item.kind == CBOR_BREAK) {
        return bad(c);
    }
    if (item.kind == CBOR_TAG) {
        return skip(c, depth + 1);
    }
    if (item.kind == CBOR_ARRAY || item.kind == CBOR_MAP) {
        for (uint64_t left = cbor_count(&item); cbor_more(c, &item, &left);) {
            if (skip(c, depth + 1) || (item.kind == CBOR_MAP && skip(c, depth + 1))) {
                return -1;
            }
        }
    }
    return c->bad ? -1 : 0;
}

int cbor_skip(struct cbor *c)
{
    return skip(c, 0);
}

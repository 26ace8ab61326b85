#include "appraise/cose.h"

#define TAG_SIGN1 18u
#define LABEL_ALG 1u
#define LABEL_CRIT 2u
#define LABELS_MAX 16u
#define CLAUSE_MAX 96

static int refuse(struct err *e, enum err_code code, const char *what, const char *part,
                  const char *expected, const char *actual)
{
    char clause[CLAUSE_MAX];

    snprintf(clause, sizeof(clause), "%s.%s", what, part);
    return err_refuse(e, code, clause, expected, "%s", actual);
}

/* ---- the protected header ---- */

/* A label as it stands in the input, to find it a second time; kind and value make it. */
struct labels {
    struct cbor_item v[LABELS_MAX];
    size_t n;
};

static int same_label(const struct cbor_item *a, const struct cbor_item *b)
{
    return a->kind == b->kind && a->value == b->value &&
           (a->kind != CBOR_TEXT || memcmp(a->bytes.p, b->bytes.p, a->bytes.n) == 0);
}

static int add_label(struct labels *l, const struct cbor_item *label)
{
    for (size_t i = 0; i < l->n; i++) {
        if (same_label(&l->v[i], label)) {
            return -1;
        }
    }
    if (l->n == LABELS_MAX) {
        return -1;
    }
    l->v[l->n++] = *label;
    return 0;
}

static int take_alg(const char *what, struct cbor *c, struct err *e)
{
    struct cbor_item v;
    char actual[48];

    if (cbor_next(c, &v)) {
        return refuse(e, ERR_INVALID, what, "cose.protected", "CBOR", "its end");
    }
    if (v.kind == CBOR_NEGATIVE && v.value == (uint64_t)(-1 - COSE_ES384)) {
        return 0;
    }
    snprintf(actual, sizeof(actual), v.kind == CBOR_NEGATIVE ? "-1 - %llu" : "%llu",
             (unsigned long long)v.value);
    return refuse(e, ERR_UNSUPPORTED, what, "cose.alg", "ES384 (-35)",
                  v.kind == CBOR_NEGATIVE || v.kind == CBOR_UINT ? actual : "no integer");
}

static int take_header(const char *what, struct cbor *c, struct labels *seen, int *ret_alg,
                       struct err *e)
{
    struct cbor_item label;

    if (cbor_next(c, &label) ||
        (label.kind != CBOR_UINT && label.kind != CBOR_NEGATIVE && label.kind != CBOR_TEXT)) {
        return refuse(e, ERR_INVALID, what, "cose.protected", "integers and texts as labels",
                      "something else");
    }
    if (add_label(seen, &label)) {
        return refuse(e, ERR_INVALID, what, "cose.protected", "at most 16 labels, each once",
                      "more, or one twice");
    }
    if (label.kind == CBOR_UINT && label.value == LABEL_ALG) {
        *ret_alg = 1;
        return take_alg(what, c, e);
    }
    if (label.kind == CBOR_UINT && label.value == LABEL_CRIT) {
        return refuse(e, ERR_UNSUPPORTED, what, "cose.crit", "no critical headers", "some");
    }
    return cbor_skip(c) ? refuse(e, ERR_INVALID, what, "cose.protected", "CBOR", "something else")
                        : 0;
}

static int check_protected(const char *what, struct bytes in, struct err *e)
{
    struct cbor c = {.p = in.p, .n = in.n};
    struct labels seen = {.n = 0};
    struct cbor_item map;
    int alg = 0;

    if (cbor_expect(&c, CBOR_MAP, &map)) {
        return refuse(e, ERR_INVALID, what, "cose.protected", "a map", "something else");
    }
    for (uint64_t left = cbor_count(&map); cbor_more(&c, &map, &left);) {
        if (take_header(what, &c, &seen, &alg, e)) {
            return -1;
        }
    }
    if (c.bad || c.n) {
        return refuse(e, ERR_INVALID, what, "cose.protected", "one map and nothing else",
                      c.bad ? "its end" : "more bytes");
    }
    return alg ? 0 : refuse(e, ERR_INVALID, what, "cose.alg", "ES384 (-35)", "none");
}

/* ---- the whole ---- */

static int take_empty_map(struct cbor *c)
{
    struct cbor_item map;

    if (cbor_expect(c, CBOR_MAP, &map)) {
        return -1;
    }
    uint64_t left = cbor_count(&map);
    return cbor_more(c, &map, &left) || c->bad ? -1 : 0;
}

static int take_four(const char *what, struct cbor *c, struct cose_sign1 *out,
                     struct bytes *signature, struct err *e)
{
    struct cbor_item head, item;

    if (c->n && *c->p == (CBOR_TAG << 5 | TAG_SIGN1)) {
        cbor_next(c, &item);
    }
    if (cbor_expect(c, CBOR_ARRAY, &head) || (!head.indefinite && head.value != 4) ||
        cbor_expect(c, CBOR_BYTES, &item)) {
        return refuse(e, ERR_INVALID, what, "cose", "COSE_Sign1: an array of four",
                      "something else");
    }
    out->protected_header = item.bytes;
    if (take_empty_map(c)) {
        return refuse(e, ERR_INVALID, what, "cose.unprotected", "an empty map", "something else");
    }
    if (cbor_expect(c, CBOR_BYTES, &item)) {
        return refuse(e, ERR_INVALID, what, "cose.payload", "a byte string",
                      "something else, or its end");
    }
    out->payload = item.bytes;
    if (cbor_expect(c, CBOR_BYTES, &item)) {
        return refuse(e, ERR_INVALID, what, "cose.signature", "a byte string",
                      "something else, or its end");
    }
    *signature = item.bytes;
    if (head.indefinite && cbor_expect(c, CBOR_BREAK, &item)) {
        return refuse(e, ERR_INVALID, what, "cose", "COSE_Sign1: an array of four", "more");
    }
    return 0;
}

int cose_sign1_parse(const char *what, struct bytes in, struct cose_sign1 *ret, struct err *e)
{
    struct cbor c = {.p = in.p, .n = in.n};
    struct cose_sign1 out;
    struct bytes signature;
    char actual[48];

    if (in.n > COSE_MAX_BYTES) {
        snprintf(actual, sizeof(actual), "%zu", in.n);
        return refuse(e, ERR_TOO_LARGE, what, "cose", "at most 65536 bytes", actual);
    }
    if (take_four(what, &c, &out, &signature, e) ||
        check_protected(what, out.protected_header, e)) {
        return -1;
    }
    if (c.n) {
        snprintf(actual, sizeof(actual), "%zu more bytes", c.n);
        return refuse(e, ERR_INVALID, what, "cose", "one COSE_Sign1 and nothing else", actual);
    }
    if (signature.n != COSE_ES384_BYTES) {
        snprintf(actual, sizeof(actual), "%zu bytes", signature.n);
        return refuse(e, ERR_BAD_SIGNATURE, what, "cose.signature", "r || s: 96 bytes", actual);
    }
    out.signature = signature.p;
    *ret = out;
    return 0;
}

/* The shortest head of a byte string, RFC 8949 §4.2.1. */
static size_t bytes_head(size_t n, uint8_t ret[5])
{
    const uint8_t wide[4] = {(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
    unsigned low = n < 24 ? (unsigned)n : n < 0x100 ? 24 : n < 0x10000 ? 25 : 26;
    size_t more = low < 24 ? 0 : (size_t)1 << (low - 24);

    ret[0] = (uint8_t)(CBOR_BYTES << 5 | low);
    memcpy(ret + 1, wide + 4 - more, more);
    return 1 + more;
}

int cose_sign1_verify(const char *what, const struct cose_sign1 *c, const struct ec_key *key,
                      struct err *e)
{
    static const uint8_t start[] = "\x84\x6aSignature1";
    const struct bytes parts[] = {c->protected_header, {0}, c->payload};
    size_t n = sizeof(start) - 1;
    char clause[CLAUSE_MAX];

    _cleanup_free_ uint8_t *m = xmalloc(n + 15 + c->protected_header.n + c->payload.n);
    memcpy(m, start, n);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        n += bytes_head(parts[i].n, m + n);
        if (parts[i].n) {
            memcpy(m + n, parts[i].p, parts[i].n);
        }
        n += parts[i].n;
    }
    snprintf(clause, sizeof(clause), "%s.signature", what);
    return ec_verify(clause, key, BYTES(m, n), c->signature, e);
}

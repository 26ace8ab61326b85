#include "appraise/nitro.h"

#define MEMBERS_MAX 32u

enum member {
    M_MODULE_ID,
    M_DIGEST,
    M_TIMESTAMP,
    M_PCRS,
    M_CERTIFICATE,
    M_CABUNDLE,
    M_PUBLIC_KEY,
    M_USER_DATA,
    M_NONCE,
    M_N
};

static const char *const member_names[M_N] = {"module_id",  "digest",      "timestamp",
                                              "pcrs",       "certificate", "cabundle",
                                              "public_key", "user_data",   "nonce"};
#define OPTIONAL (1u << M_PUBLIC_KEY | 1u << M_USER_DATA | 1u << M_NONCE)

static int refuse(struct err *e, const char *member, const char *expected, const char *actual)
{
    char clause[64];

    snprintf(clause, sizeof(clause), "evidence.%s", member);
    return err_refuse(e, ERR_INVALID, clause, expected, "%s", actual);
}

static int take_text(struct cbor *c, enum member m, struct bytes *ret, struct err *e)
{
    struct cbor_item v;

    if (cbor_expect(c, CBOR_TEXT, &v) || !v.bytes.n || v.bytes.n > NITRO_FIELD_MAX ||
        memchr(v.bytes.p, 0, v.bytes.n)) {
        return refuse(e, member_names[m], "a text of 1 to 1024 bytes", "something else");
    }
    *ret = v.bytes;
    return 0;
}

static int take_digest(struct cbor *c, struct err *e)
{
    struct bytes text;

    if (take_text(c, M_DIGEST, &text, e)) {
        return -1;
    }
    return text.n == 6 && memcmp(text.p, "SHA384", 6) == 0
               ? 0
               : refuse(e, "digest", "SHA384", "another text");
}

static int take_timestamp(struct cbor *c, int64_t *ret, struct err *e)
{
    struct cbor_item v;

    if (cbor_expect(c, CBOR_UINT, &v) || !v.value || v.value > INT64_MAX) {
        return refuse(e, "timestamp", "milliseconds since 1970, more than 0", "something else");
    }
    *ret = (int64_t)v.value;
    return 0;
}

static int take_pcr(struct cbor *c, struct nitro_doc *d, struct err *e)
{
    struct cbor_item key, value;
    char actual[48];

    if (cbor_expect(c, CBOR_UINT, &key) || key.value >= NITRO_PCRS ||
        cbor_expect(c, CBOR_BYTES, &value)) {
        return refuse(e, "pcrs", "numbers 0 to 31 with byte strings", "something else");
    }
    if (d->has_pcr & UINT32_C(1) << key.value) {
        snprintf(actual, sizeof(actual), "number %u twice", (unsigned)key.value);
        return refuse(e, "pcrs", "each number once", actual);
    }
    if (value.bytes.n != NITRO_PCR_BYTES) {
        snprintf(actual, sizeof(actual), "%zu bytes", value.bytes.n);
        return refuse(e, "pcrs", "48 bytes each, as SHA384 has", actual);
    }
    d->has_pcr |= UINT32_C(1) << key.value;
    d->pcr[key.value] = value.bytes.p;
    return 0;
}

static int take_pcrs(struct cbor *c, struct nitro_doc *d, struct err *e)
{
    struct cbor_item map;

    if (cbor_expect(c, CBOR_MAP, &map)) {
        return refuse(e, "pcrs", "a map", "something else");
    }
    for (uint64_t left = cbor_count(&map); cbor_more(c, &map, &left);) {
        if (take_pcr(c, d, e)) {
            return -1;
        }
    }
    return c->bad || !d->has_pcr ? refuse(e, "pcrs", "1 to 32 of them", c->bad ? "an end" : "none")
                                 : 0;
}

static int take_bytes(struct cbor *c, enum member m, size_t min, int may_be_null, struct bytes *ret,
                      struct err *e)
{
    struct cbor_item v = {.kind = CBOR_BREAK};

    if (cbor_next(c, &v) == 0 && may_be_null && v.kind == CBOR_SIMPLE && v.value == CBOR_NULL) {
        *ret = (struct bytes){0};
        return 0;
    }
    if (c->bad || v.kind != CBOR_BYTES || v.bytes.n < min || v.bytes.n > NITRO_FIELD_MAX) {
        return refuse(e, member_names[m],
                      min ? "a byte string of 1 to 1024" : "a byte string of at most 1024",
                      "something else");
    }
    *ret = v.bytes;
    return 0;
}

static int take_cabundle(struct cbor *c, struct nitro_doc *d, struct err *e)
{
    struct cbor_item list;

    if (cbor_expect(c, CBOR_ARRAY, &list)) {
        return refuse(e, "cabundle", "an array", "something else");
    }
    for (uint64_t left = cbor_count(&list); cbor_more(c, &list, &left);) {
        if (d->n_cabundle == NITRO_CABUNDLE_MAX) {
            return refuse(e, "cabundle", "1 to 7 certificates", "more");
        }
        if (take_bytes(c, M_CABUNDLE, 1, 0, &d->cabundle[d->n_cabundle++], e)) {
            return -1;
        }
    }
    return c->bad || !d->n_cabundle ? refuse(e, "cabundle", "1 to 7 certificates", "none") : 0;
}

static int take_member(struct cbor *c, enum member m, struct nitro_doc *d, struct err *e)
{
    switch (m) {
    case M_MODULE_ID:
        return take_text(c, m, &d->module_id, e);
    case M_DIGEST:
        return take_digest(c, e);
    case M_TIMESTAMP:
        return take_timestamp(c, &d->timestamp_ms, e);
    case M_PCRS:
        return take_pcrs(c, d, e);
    case M_CERTIFICATE:
        return take_bytes(c, m, 1, 0, &d->certificate, e);
    case M_CABUNDLE:
        return take_cabundle(c, d, e);
    case M_PUBLIC_KEY:
        return take_bytes(c, m, 1, 1, &d->public_key, e);
    case M_USER_DATA:
        return take_bytes(c, m, 0, 1, &d->user_data, e);
    case M_NONCE:
        return take_bytes(c, m, 0, 1, &d->nonce, e);
    case M_N:
        break;
    }
    return cbor_skip(c) ? refuse(e, "payload", "CBOR", "something else") : 0;
}

static enum member member_of(struct bytes name)
{
    for (int m = 0; m < M_N; m++) {
        if (strlen(member_names[m]) == name.n && memcmp(member_names[m], name.p, name.n) == 0) {
            return (enum member)m;
        }
    }
    return M_N;
}

/* Is it among the names before? */
static int seen_before(const struct bytes *names, size_t n, struct bytes name)
{
    for (size_t i = 0; i < n; i++) {
        if (names[i].n == name.n && memcmp(names[i].p, name.p, name.n) == 0) {
            return 1;
        }
    }
    return 0;
}

static int take_payload(struct cbor *c, struct nitro_doc *d, unsigned *ret_seen, struct err *e)
{
    struct bytes names[MEMBERS_MAX];
    struct cbor_item map, key;
    size_t n = 0;

    if (cbor_expect(c, CBOR_MAP, &map)) {
        return refuse(e, "payload", "a map", "something else");
    }
    for (uint64_t left = cbor_count(&map); cbor_more(c, &map, &left); n++) {
        if (cbor_expect(c, CBOR_TEXT, &key)) {
            return refuse(e, "payload", "texts as names of members", "something else");
        }
        if (n == MEMBERS_MAX || seen_before(names, n, key.bytes)) {
            return refuse(e, "payload", "at most 32 members, each once",
                          n == MEMBERS_MAX ? "more" : "one twice");
        }
        names[n] = key.bytes;
        enum member m = member_of(key.bytes);
        *ret_seen |= 1u << m;
        if (take_member(c, m, d, e)) {
            return -1;
        }
    }
    if (c->bad || c->n) {
        return refuse(e, "payload", "one map and nothing else", c->bad ? "its end" : "more bytes");
    }
    return 0;
}

int nitro_parse(struct bytes in, struct nitro_doc *ret, struct err *e)
{
    struct nitro_doc d = {.n_cabundle = 0};
    unsigned seen = 0;

    if (cose_sign1_parse("evidence", in, &d.cose, e)) {
        return -1;
    }
    struct cbor c = {.p = d.cose.payload.p, .n = d.cose.payload.n};
    if (take_payload(&c, &d, &seen, e)) {
        return -1;
    }
    for (int m = 0; m < M_N; m++) {
        if (!((seen | OPTIONAL) & 1u << m)) {
            return refuse(e, member_names[m], "it to be there", "nothing");
        }
    }
    *ret = d;
    return 0;
}

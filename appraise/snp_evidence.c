#include "appraise/snp_evidence.h"

#include <ctype.h>

#include "common/jcs.h"

#define TABLE_ENTRY_BYTES 24u
#define GUEST_ANSWER_HEAD_BYTES 32u

void snp_evidence_done(struct snp_evidence *ev)
{
    for (size_t i = 0; i < ev->n_certs; i++) {
        cert_unref(ev->certs[i]);
    }
    crl_free(ev->crl);
    ev->n_certs = 0;
    ev->crl = NULL;
}

static uint32_t le32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static int all_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i]) {
            return 0;
        }
    }
    return 1;
}

/* ---- certificates ---- */

/* Parsing costs far more than writing what is to be parsed. */
#define SEEN_MAX (2 * SNP_CERTS_MAX)

static void take_one(struct snp_evidence *ev, struct bytes der)
{
    struct cert *c;

    if (ev->n_seen++ >= SEEN_MAX) {
        return;
    }
    while (der.n && der.p[der.n - 1] == '\0' && der.n > 4 &&
           der.n > 4u + ((size_t)der.p[2] << 8 | der.p[3])) {
        der.n--; /* pages are padded */
    }
    if (certs_add_der(ev->store, "evidence.cert_chain", der, &c, NULL) == 0) {
        for (size_t i = 0; i < ev->n_certs; i++) {
            if (ev->certs[i] == c) {
                return;
            }
        }
        if (ev->n_certs < SNP_CERTS_MAX) {
            ev->certs[ev->n_certs++] = cert_ref(c);
        }
    } else if (ev->crl || crl_parse("evidence.crl", der, &ev->crl, NULL)) {
        ev->n_bad++;
    }
}

static void take_pem(struct snp_evidence *ev, struct bytes in)
{
    static const char begin[] = "-----BEGIN ", dashes[] = "-----";
    const uint8_t *p = in.p, *end = in.p + in.n;

    while (ev->n_seen < SEEN_MAX && (p = memmem(p, (size_t)(end - p), begin, sizeof(begin) - 1))) {
        _cleanup_buf_ struct buf der = BUF_INIT(CERT_MAX_BYTES);
        p += sizeof(begin) - 1;
        const uint8_t *from = memmem(p, (size_t)(end - p), dashes, sizeof(dashes) - 1);
        if (!from) {
            return;
        }
        from += sizeof(dashes) - 1;
        const uint8_t *to = memmem(from, (size_t)(end - from), dashes, sizeof(dashes) - 1);
        if (!to) {
            ev->n_bad++;
            return;
        }
        if (snp_text_decode(BYTES(from, (size_t)(to - from)), &der)) {
            ev->n_bad++;
            ev->n_seen++;
        } else {
            take_one(ev, buf_bytes(&der));
        }
        p = to;
    }
}

static void take_plain(struct snp_evidence *ev, struct bytes in)
{
    if (memmem(in.p, in.n, "-----BEGIN ", 11)) {
        take_pem(ev, in);
    } else if (in.n) {
        take_one(ev, in);
    }
}

/* Printed order, and as little-endian fields, which some tools write. */
static int is_known_guid(const uint8_t *p)
{
    static const uint8_t guids[][16] = {
        {0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac,
         0xcd}, /* VCEK */
        {0xa8, 0x07, 0x4b, 0xc2, 0xa2, 0x5a, 0x48, 0x3e, 0xaa, 0xe6, 0x39, 0xc0, 0x45, 0xa0, 0xb8,
         0xa1}, /* VLEK */
        {0x4a, 0xb7, 0xb3, 0x79, 0xbb, 0xac, 0x4f, 0xe4, 0xa0, 0x2f, 0x05, 0xae, 0xf3, 0x27, 0xc7,
         0x82}, /* ASK */
        {0xc0, 0xb4, 0x06, 0xa4, 0xa8, 0x03, 0x49, 0x52, 0x97, 0x43, 0x3f, 0xb6, 0x01, 0x4c, 0xd0,
         0xae}, /* ARK */
        {0x92, 0xf8, 0x1b, 0xc3, 0x58, 0x11, 0x4d, 0x3d, 0x97, 0xff, 0xd1, 0x9f, 0x88, 0xdc, 0x67,
         0xea}, /* CRL */
    };

    for (size_t i = 0; i < ARRAY_LEN(guids); i++) {
        const uint8_t *g = guids[i];
        const uint8_t swapped[8] = {g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6]};
        if (memcmp(p + 8, g + 8, 8) == 0 && (memcmp(p, g, 8) == 0 || memcmp(p, swapped, 8) == 0)) {
            return 1;
        }
    }
    return 0;
}

int snp_is_cert_table(struct bytes in)
{
    return in.n >= 2 * TABLE_ENTRY_BYTES && is_known_guid(in.p);
}

int snp_cert_table_entry(struct bytes in, size_t i, struct bytes *ret)
{
    size_t at = i * TABLE_ENTRY_BYTES;

    if (i >= SNP_CERTS_MAX || at > in.n || in.n - at < TABLE_ENTRY_BYTES) {
        return -1;
    }
    size_t from = le32(in.p + at + 16), n = le32(in.p + at + 20);
    if (from < TABLE_ENTRY_BYTES || from > in.n || n > in.n - from) {
        return -1; /* among others, the entry of zeros at the end */
    }
    *ret = is_known_guid(in.p + at) ? BYTES(in.p + from, n) : (struct bytes){0};
    return 0;
}

/* {GUID, offset, length}..., an entry of zeros, data. Other GUIDs are a cloud's own. */
static int take_table(struct snp_evidence *ev, struct bytes in, struct err *e)
{
    size_t at = 0;

    for (;; at += TABLE_ENTRY_BYTES) {
        if (in.n - at < TABLE_ENTRY_BYTES) {
            return err_refuse(e, ERR_INVALID, "evidence.cert_table",
                              "a table of certificates, with an entry of zeros at its end",
                              "%zu bytes without one", in.n);
        }
        const uint8_t *p = in.p + at;
        if (all_zero(p, TABLE_ENTRY_BYTES)) {
            return 0;
        }
        size_t from = le32(p + 16), n = le32(p + 20);
        if (from < TABLE_ENTRY_BYTES || from > in.n || n > in.n - from) {
            return err_refuse(e, ERR_INVALID, "evidence.cert_table",
                              "data within the table's bytes", "bytes %zu to %zu of %zu", from,
                              from + n, in.n);
        }
        if (is_known_guid(p) && at / TABLE_ENTRY_BYTES < SNP_CERTS_MAX) {
            take_plain(ev, BYTES(in.p + from, n)); /* no table within a table */
        }
    }
}

void snp_take_certs(struct snp_evidence *ev, struct bytes in)
{
    if (snp_is_cert_table(in)) {
        ev->n_bad += take_table(ev, in, NULL) != 0;
    } else {
        take_plain(ev, in);
    }
}

/* ---- binary forms ---- */

static int take_report(struct snp_evidence *ev, struct bytes in, struct err *e)
{
    if (ev->has_report) {
        return err_refuse(e, ERR_INVALID, "evidence.report", "one report", "more");
    }
    memcpy(ev->report, in.p, SNP_REPORT_BYTES);
    ev->has_report = 1;
    return 0;
}

static int has_version(struct bytes in)
{
    return in.n >= SNP_REPORT_BYTES && in.p[0] >= 2 && in.p[0] <= 5 && all_zero(in.p + 1, 3);
}

static int take_extended(struct snp_evidence *ev, struct bytes in, struct err *e)
{
    struct bytes table = BYTES(in.p + SNP_REPORT_BYTES, in.n - SNP_REPORT_BYTES);

    if (table.n < TABLE_ENTRY_BYTES) {
        return err_refuse(e, ERR_INVALID, "evidence.report",
                          "1184 bytes, or a table of certificates behind them", "%zu bytes", in.n);
    }
    return take_table(ev, table, e) || take_report(ev, in, e) ? -1 : 0;
}

/* struct snp_report_resp of the kernel: status, size, 24 bytes, report. */
static int is_guest_answer(struct bytes in)
{
    return in.n >= GUEST_ANSWER_HEAD_BYTES + SNP_REPORT_BYTES && le32(in.p) == 0 &&
           le32(in.p + 4) == SNP_REPORT_BYTES && all_zero(in.p + 8, 24);
}

/* SCALE's compact integers up to 30 bits. */
static int scale_compact(struct bytes *in, size_t *ret)
{
    size_t bytes = in->n ? (size_t)1 << (in->p[0] & 3) : 9;
    uint32_t v = 0;

    if (bytes > 4 || bytes > in->n) {
        return -1;
    }
    for (size_t i = 0; i < bytes; i++) {
        v |= (uint32_t)in->p[i] << 8 * i;
    }
    in->p += bytes;
    in->n -= bytes;
    *ret = v >> 2;
    return 0;
}

/* dstack's VersionedAttestation, version 0, of its variant 3: report, PEM certificates, and what
 * its own verifier is for. */
static int take_scale(struct snp_evidence *ev, struct bytes in, struct err *e)
{
    size_t n = 0, count = 0;

    in = BYTES(in.p + 2, in.n - 2);
    if (scale_compact(&in, &n) || n != SNP_REPORT_BYTES || in.n < n || take_report(ev, in, e)) {
        return err_refuse(e, ERR_INVALID, "evidence.report", "1184 bytes", "%zu", n);
    }
    in = BYTES(in.p + n, in.n - n);
    if (scale_compact(&in, &count) || count > SNP_CERTS_MAX) {
        return err_refuse(e, ERR_INVALID, "evidence.cert_chain", "at most 16 certificates", "%zu",
                          count);
    }
    for (; count; count--) {
        if (scale_compact(&in, &n) || n > in.n) {
            return err_refuse(e, ERR_INVALID, "evidence.cert_chain", "whole certificates",
                              "a part of one");
        }
        snp_take_certs(ev, BYTES(in.p, n));
        in = BYTES(in.p + n, in.n - n);
    }
    return 0;
}

/* A definite-length CBOR string of major type 2 or 3 (RFC 8949 §3). */
static int cbor_string(struct bytes *in, struct bytes *ret)
{
    unsigned info = in->n ? in->p[0] & 0x1fu : 31, major = in->n ? in->p[0] >> 5 : 0;
    size_t more = info < 24 ? 0 : info <= 26 ? (size_t)1 << (info - 24) : 99;
    size_t n = info;

    if ((major != 2 && major != 3) || more > 4 || in->n < 1 + more) {
        return -1;
    }
    for (size_t i = 0; i < more; i++) {
        n = (i ? n << 8 : 0) | in->p[1 + i];
    }
    if (n > in->n - 1 - more) {
        return -1;
    }
    *ret = BYTES(in->p + 1 + more, n);
    *in = BYTES(ret->p + n, in->n - 1 - more - n);
    return 0;
}

static int bytes_are(struct bytes b, const char *text)
{
    return b.n == strlen(text) && memcmp(b.p, text, b.n) == 0;
}

/* {"auxblob": bytes, "outblob": bytes, "provider": text} */
static int take_cbor(struct snp_evidence *ev, struct bytes in, int depth, struct err *e)
{
    unsigned pairs = in.p[0] & 0x1fu;

    in = BYTES(in.p + 1, in.n - 1);
    for (; pairs; pairs--) {
        struct bytes key, value;
        if (cbor_string(&in, &key) || cbor_string(&in, &value)) {
            return err_refuse(e, ERR_INVALID, "evidence", "a CBOR map of strings",
                              "something else");
        }
        if (bytes_are(key, "outblob")) {
            if (snp_take_form(ev, value, depth + 1, e)) {
                return -1;
            }
        } else if (bytes_are(key, "auxblob")) {
            snp_take_certs(ev, value);
        }
    }
    return in.n
               ? err_refuse(e, ERR_INVALID, "evidence", "one CBOR map", "%zu bytes behind it", in.n)
               : 0;
}

static int is_text(struct bytes in)
{
    for (size_t i = 0; i < in.n; i++) {
        if (!isalnum(in.p[i]) && !isspace(in.p[i]) && !memchr("+/=-_", in.p[i], 5)) {
            return 0;
        }
    }
    return in.n > 0;
}

int snp_text_decode(struct bytes t, struct buf *ret)
{
    _cleanup_buf_ struct buf plain = BUF_INIT(t.n + 1);
    int hex = 1;

    for (size_t i = 0; i < t.n; i++) {
        uint8_t b = t.p[i] == '+' ? '-' : t.p[i] == '/' ? '_' : t.p[i];
        if (isspace(b)) {
            continue;
        }
        hex = hex && isxdigit(b);
        if (buf_add(&plain, &b, 1, NULL)) {
            return -1;
        }
    }
    for (int pad = 0; pad < 2 && plain.n && plain.p[plain.n - 1] == '='; pad++) {
        plain.n--;
    }
    if (!plain.n) {
        return -1;
    }
    if (hex && plain.n % 2 == 0) {
        if (buf_reserve(ret, plain.n / 2, NULL)) {
            return -1;
        }
        plain.p[plain.n] = '\0';
        if (hex_decode((const char *)plain.p, ret->p + ret->n, plain.n / 2, NULL)) {
            return -1;
        }
        ret->n += plain.n / 2;
        return 0;
    }
    return b64url_decode((const char *)plain.p, plain.n, ret, NULL);
}

static int take_text(struct snp_evidence *ev, struct bytes in, int depth, struct err *e)
{
    _cleanup_buf_ struct buf plain = BUF_INIT(SNP_EVIDENCE_MAX_BYTES);
    _cleanup_json_ json_t *j = NULL;

    if (in.p[0] == '{') {
        return json_parse("evidence", in, SNP_EVIDENCE_MAX_BYTES, &j, e) ||
                       snp_take_json(ev, j, depth, e)
                   ? -1
                   : 0;
    }
    if (snp_text_decode(in, &plain)) {
        return err_refuse(e, ERR_INVALID, "evidence", "a report, or JSON, hex or base64 of one",
                          "%zu bytes of something else", in.n);
    }
    return snp_take_form(ev, buf_bytes(&plain), depth + 1, e);
}

int snp_take_form(struct snp_evidence *ev, struct bytes in, int depth, struct err *e)
{
    struct bytes text = in;

    if (depth > SNP_NESTING_MAX) {
        return err_refuse(e, ERR_INVALID, "evidence", "at most 5 forms within each other", "more");
    }
    while (text.n && isspace(text.p[0])) {
        text = BYTES(text.p + 1, text.n - 1);
    }
    if (text.n && (text.p[0] == '{' || is_text(text))) {
        return take_text(ev, text, depth, e);
    }
    if (in.n == SNP_REPORT_BYTES) {
        return take_report(ev, in, e);
    }
    if (has_version(in)) {
        return take_extended(ev, in, e);
    }
    if (is_guest_answer(in)) {
        return take_report(ev, BYTES(in.p + GUEST_ANSWER_HEAD_BYTES, SNP_REPORT_BYTES), e);
    }
    if (in.n > SNP_REPORT_BYTES && in.p[0] == 0 && in.p[1] == 3) {
        return take_scale(ev, in, e);
    }
    if (in.n && in.p[0] > 0xa0 && in.p[0] <= 0xb0) {
        return take_cbor(ev, in, depth, e);
    }
    return err_refuse(e, ERR_INVALID, "evidence.report", "1184 bytes", "%zu", in.n);
}

int snp_evidence_take(struct certs *store, struct bytes in, struct snp_evidence *ret, struct err *e)
{
    _cleanup_(snp_evidence_done) struct snp_evidence ev = {.store = store};

    if (in.n > SNP_EVIDENCE_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "evidence", "at most 262144 bytes", "%zu", in.n);
    }
    if (snp_take_form(&ev, in, 0, e)) {
        return -1;
    }
    if (!ev.has_report) {
        return err_refuse(e, ERR_INVALID, "evidence.report", "a report", "none");
    }
    *ret = ev;
    ev = (struct snp_evidence){0};
    return 0;
}

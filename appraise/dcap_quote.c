#include "appraise/dcap_quote.h"

#define HEADER_BYTES 48u
#define SIGNATURE_BYTES 64u
#define KEY_BYTES 64u
#define QUOTE_MAX_BYTES (1u << 20)
#define KEY_TYPE_P256 2u

static const uint8_t intel_vendor[16] = {0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9,
                                         0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07};

/* What is left to read. */
struct reader {
    struct bytes left;
    struct err *e;
};

static const uint8_t *take(struct reader *r, size_t n)
{
    const uint8_t *p = r->left.p;

    if (r->left.n < n) {
        return NULL;
    }
    r->left.p += n;
    r->left.n -= n;
    return p;
}

static int cut_short(struct reader *r, const char *what, size_t n)
{
    char expected[96];

    snprintf(expected, sizeof(expected), "%zu bytes of %s", n, what);
    return err_refuse(r->e, ERR_INVALID, "evidence.quote", expected, "%zu", r->left.n);
}

static int take_fixed(struct reader *r, const char *what, size_t n, const uint8_t **ret)
{
    *ret = take(r, n);
    return *ret ? 0 : cut_short(r, what, n);
}

static int take_u16(struct reader *r, const char *what, uint16_t *ret)
{
    const uint8_t *p;

    if (take_fixed(r, what, 2, &p)) {
        return -1;
    }
    *ret = dcap_u16(p);
    return 0;
}

static int take_u32(struct reader *r, const char *what, uint32_t *ret)
{
    const uint8_t *p;

    if (take_fixed(r, what, 4, &p)) {
        return -1;
    }
    *ret = dcap_u32(p);
    return 0;
}

static int take_span(struct reader *r, const char *what, size_t n, struct bytes *ret)
{
    ret->n = n;
    return take_fixed(r, what, n, &ret->p);
}

/* ---- header and body ------------------------------------------------------------------------- */

static int read_header(struct reader *r, struct dcap_quote *q)
{
    if (take_span(r, "the header", HEADER_BYTES, &q->header)) {
        return -1;
    }
    q->version = dcap_u16(q->header.p);
    q->key_type = dcap_u16(q->header.p + 2);
    q->tee = dcap_u32(q->header.p + 4);
    q->qe_svn = dcap_u16(q->header.p + 8);
    q->pce_svn = dcap_u16(q->header.p + 10);
    q->vendor_id = q->header.p + 12;
    q->user_data = q->header.p + 28;
    if (q->version < 3 || q->version > 5) {
        return err_refuse(r->e, ERR_UNSUPPORTED, "evidence.quote.version", "3, 4 or 5", "%u",
                          q->version);
    }
    if (q->key_type != KEY_TYPE_P256) {
        return err_refuse(r->e, ERR_UNSUPPORTED, "evidence.quote.key_type", "2 (ECDSA on P-256)",
                          "%u", q->key_type);
    }
    if (q->tee != DCAP_TEE_SGX && (q->tee != DCAP_TEE_TDX || q->version == 3)) {
        return err_refuse(r->e, ERR_INVALID, "evidence.quote.tee_type",
                          q->version == 3 ? "0 (SGX)" : "0 (SGX) or 0x81 (TDX)", "0x%x", q->tee);
    }
    if (memcmp(q->vendor_id, intel_vendor, sizeof(intel_vendor)) != 0) {
        _cleanup_free_ char *actual = hex_encode(q->vendor_id, 16);
        return err_refuse(r->e, ERR_UNSUPPORTED, "evidence.quote.vendor_id",
                          "939a7233f79c4ca9940a0db3957f0607 (Intel)", "%s", actual);
    }
    return 0;
}

static size_t body_bytes(unsigned type)
{
    static const uint16_t sizes[] = {0, SGX_REPORT_BYTES, 584, 648, 885};

    return type < ARRAY_LEN(sizes) ? sizes[type] : 0;
}

static int read_descriptor(struct reader *r, struct dcap_quote *q)
{
    uint16_t type;
    uint32_t bytes;

    if (take_u16(r, "the body's descriptor", &type) ||
        take_u32(r, "the body's descriptor", &bytes)) {
        return -1;
    }
    if (!body_bytes(type) || (type == DCAP_BODY_SGX) != (q->tee == DCAP_TEE_SGX)) {
        return err_refuse(r->e, ERR_UNSUPPORTED, "evidence.quote.body_type",
                          q->tee == DCAP_TEE_SGX ? "1" : "2, 3 or 4", "%u", type);
    }
    if (bytes != body_bytes(type)) {
        char expected[32];
        snprintf(expected, sizeof(expected), "%zu", body_bytes(type));
        return err_refuse(r->e, ERR_INVALID, "evidence.quote.body_size", expected, "%u", bytes);
    }
    q->body_type = (enum dcap_body)type;
    return 0;
}

static int read_body(struct reader *r, struct dcap_quote *q)
{
    q->body_type = q->tee == DCAP_TEE_SGX ? DCAP_BODY_SGX : DCAP_BODY_TD_10;
    if (q->version == 5 && read_descriptor(r, q)) {
        return -1;
    }
    if (take_span(r, "the body", body_bytes(q->body_type), &q->body)) {
        return -1;
    }
    q->signed_part = BYTES(q->header.p, (size_t)(q->body.p + q->body.n - q->header.p));
    return 0;
}

/* ---- authentication data --------------------------------------------------------------------- */

/* The last part of its reader: type, length, and exactly that many bytes. */
static int read_last(struct reader *r, const char *what, uint16_t *ret_type, struct bytes *ret)
{
    uint32_t n;

    if (take_u16(r, what, ret_type) || take_u32(r, what, &n)) {
        return -1;
    }
    if (n != r->left.n) {
        char expected[96];
        snprintf(expected, sizeof(expected), "a length of %s of %zu bytes, all that is left", what,
                 r->left.n);
        return err_refuse(r->e, ERR_INVALID, "evidence.quote.auth_data", expected, "%u", n);
    }
    return take_span(r, what, n, ret);
}

static int read_qe(struct reader *r, struct dcap_quote *q)
{
    uint16_t n, type;

    if (take_fixed(r, "the QE report", SGX_REPORT_BYTES, &q->qe_report) ||
        take_fixed(r, "the QE report's signature", SIGNATURE_BYTES, &q->qe_signature) ||
        take_u16(r, "the QE's authentication data", &n) ||
        take_span(r, "the QE's authentication data", n, &q->qe_auth) ||
        read_last(r, "the certification data", &type, &q->cert_data)) {
        return -1;
    }
    if (type < DCAP_CERT_PPID || type > DCAP_CERT_PCK_CHAIN) {
        return err_refuse(r->e, ERR_UNSUPPORTED, "evidence.quote.certification_data",
                          "a type from 1 to 5", "%u", type);
    }
    q->cert_type = (enum dcap_cert_type)type;
    return 0;
}

static int read_auth(struct reader *r, struct dcap_quote *q)
{
    struct bytes inner;
    uint16_t type;

    if (take_fixed(r, "the signature", SIGNATURE_BYTES, &q->signature) ||
        take_fixed(r, "the attestation key", KEY_BYTES, &q->ak)) {
        return -1;
    }
    if (q->version == 3) {
        return read_qe(r, q);
    }
    if (read_last(r, "the certification data", &type, &inner)) {
        return -1;
    }
    if (type != DCAP_CERT_QE_REPORT) {
        return err_refuse(r->e, ERR_INVALID, "evidence.quote.certification_data",
                          "type 6 (QE report)", "%u", type);
    }
    struct reader within = {.left = inner, .e = r->e};
    return read_qe(&within, q);
}

int dcap_quote_parse(struct bytes in, struct dcap_quote *ret, struct err *e)
{
    struct reader r = {.left = in, .e = e};
    struct dcap_quote q = {0};
    uint32_t n;

    if (in.n > QUOTE_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "evidence.quote", "at most 1 MiB", "%zu bytes", in.n);
    }
    if (read_header(&r, &q) || read_body(&r, &q) ||
        take_u32(&r, "the length of the authentication data", &n)) {
        return -1;
    }
    struct reader auth = {.e = e};
    if (take_span(&r, "the authentication data", n, &auth.left) || read_auth(&auth, &q)) {
        return -1;
    }
    *ret = q;
    return 0;
}

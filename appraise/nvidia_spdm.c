#include "appraise/nvidia_spdm.h"

#define REQUEST_BYTES 37u
#define HEADER_BYTES 8u /* of the response, up to the measurement record */
#define BLOCK_HEADER_BYTES 4u
#define DMTF_HEADER_BYTES 3u

#define SPDM_VERSION 0x11
#define CODE_GET_MEASUREMENTS 0xe0
#define CODE_MEASUREMENTS 0x60
#define WITH_SIGNATURE 0x01
#define ALL_MEASUREMENTS 0xff
#define SPEC_DMTF 1

static uint16_t u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static size_t u24(const uint8_t *p)
{
    return (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16;
}

static int refuse_length(const char *clause, const char *expected, size_t have, struct err *e)
{
    return err_refuse(e, ERR_INVALID, clause, expected, "%zu bytes", have);
}

static int check_byte(const char *clause, enum err_code code, uint8_t want, uint8_t have,
                      struct err *e)
{
    char expected[8];

    if (want == have) {
        return 0;
    }
    snprintf(expected, sizeof(expected), "0x%02x", want);
    return err_refuse(e, code, clause, expected, "0x%02x", have);
}

/* The next n bytes of *b. */
static int take(struct bytes *b, size_t n, const char *clause, struct bytes *ret, struct err *e)
{
    if (b->n < n) {
        char expected[48];
        snprintf(expected, sizeof(expected), "%zu bytes more", n);
        return refuse_length(clause, expected, b->n, e);
    }
    *ret = BYTES(b->p, n);
    b->p += n;
    b->n -= n;
    return 0;
}

static int parse_request(struct bytes *b, struct nvidia_report *r, struct err *e)
{
    struct bytes q;

    if (take(b, REQUEST_BYTES, "evidence.request.length", &q, e) ||
        check_byte("evidence.request.version", ERR_UNSUPPORTED, SPDM_VERSION, q.p[0], e) ||
        check_byte("evidence.request.code", ERR_INVALID, CODE_GET_MEASUREMENTS, q.p[1], e) ||
        check_byte("evidence.request.param1", ERR_INVALID, WITH_SIGNATURE, q.p[2], e) ||
        check_byte("evidence.request.param2", ERR_INVALID, ALL_MEASUREMENTS, q.p[3], e)) {
        return -1;
    }
    r->request_nonce = q.p + 4;
    r->slot = q.p[4 + NVIDIA_NONCE_BYTES];
    if (r->slot > 7) {
        return err_refuse(e, ERR_INVALID, "evidence.request.slot", "0 to 7", "%u", r->slot);
    }
    return 0;
}

static int parse_block(struct bytes *record, struct nvidia_report *r, struct err *e)
{
    struct nvidia_measurement *m = &r->measurements[r->n_measurements];
    uint8_t before = r->n_measurements ? m[-1].index : 0;
    struct bytes head, body;

    if (take(record, BLOCK_HEADER_BYTES, "evidence.measurements.block", &head, e) ||
        check_byte("evidence.measurements.specification", ERR_UNSUPPORTED, SPEC_DMTF, head.p[1],
                   e) ||
        take(record, u16(head.p + 2), "evidence.measurements.size", &body, e)) {
        return -1;
    }
    if (head.p[0] <= before) {
        return err_refuse(e, ERR_INVALID, "evidence.measurements.index",
                          "indices from 1, each above the one before", "%u behind %u", head.p[0],
                          before);
    }
    if (body.n < DMTF_HEADER_BYTES || body.n - DMTF_HEADER_BYTES != u16(body.p + 1)) {
        return refuse_length("evidence.measurements.value_size",
                             "a DMTF measurement that fills its block", body.n, e);
    }
    *m = (struct nvidia_measurement){
        .index = head.p[0],
        .type = body.p[0],
        .value = BYTES(body.p + DMTF_HEADER_BYTES, body.n - DMTF_HEADER_BYTES)};
    if (!m->value.n || m->value.n > NVIDIA_MEASUREMENT_MAX_BYTES) {
        return refuse_length("evidence.measurements.value_size", "1 to 64 bytes", m->value.n, e);
    }
    r->n_measurements++;
    return 0;
}

static int parse_measurements(struct bytes record, size_t blocks, struct nvidia_report *r,
                              struct err *e)
{
    if (!blocks) {
        return err_refuse(e, ERR_INVALID, "evidence.measurements", "at least one", "none");
    }
    for (size_t i = 0; i < blocks; i++) {
        if (parse_block(&record, r, e)) {
            return -1;
        }
    }
    return record.n ? refuse_length("evidence.measurements.length", "nothing behind the last block",
                                    record.n, e)
                    : 0;
}

static int parse_field(struct bytes *opaque, struct nvidia_report *r, struct err *e)
{
    struct nvidia_opaque *o = &r->opaque[r->n_opaque];
    struct bytes head;

    if (r->n_opaque == NVIDIA_OPAQUE_MAX) {
        return err_refuse(e, ERR_TOO_LARGE, "evidence.opaque", "at most 64 fields", "more");
    }
    if (take(opaque, 4, "evidence.opaque.field", &head, e) ||
        take(opaque, u16(head.p + 2), "evidence.opaque.size", &o->value, e)) {
        return -1;
    }
    o->type = u16(head.p);
    for (size_t i = 0; i < r->n_opaque; i++) {
        if (r->opaque[i].type == o->type) {
            return err_refuse(e, ERR_INVALID, "evidence.opaque.type", "each type once",
                              "type %u twice", o->type);
        }
    }
    r->n_opaque++;
    return 0;
}

static int parse_response(struct bytes *b, struct nvidia_report *r, struct err *e)
{
    struct bytes head, record, nonce, size, opaque, signature;

    if (take(b, HEADER_BYTES, "evidence.response.length", &head, e) ||
        check_byte("evidence.response.version", ERR_UNSUPPORTED, SPDM_VERSION, head.p[0], e) ||
        check_byte("evidence.response.code", ERR_INVALID, CODE_MEASUREMENTS, head.p[1], e) ||
        check_byte("evidence.response.slot", ERR_INVALID, r->slot, head.p[3] & 0x0f, e) ||
        take(b, u24(head.p + 5), "evidence.measurements.length", &record, e) ||
        parse_measurements(record, head.p[4], r, e) ||
        take(b, NVIDIA_NONCE_BYTES, "evidence.response.nonce", &nonce, e) ||
        take(b, 2, "evidence.opaque.length", &size, e) ||
        take(b, u16(size.p), "evidence.opaque.length", &opaque, e)) {
        return -1;
    }
    while (opaque.n) {
        if (parse_field(&opaque, r, e)) {
            return -1;
        }
    }
    if (take(b, NVIDIA_SIGNATURE_BYTES, "evidence.response.signature", &signature, e)) {
        return -1;
    }
    r->response_nonce = nonce.p;
    r->signature = signature.p;
    return b->n ? refuse_length("evidence.response.length", "nothing behind the signature", b->n, e)
                : 0;
}

int nvidia_report_parse(struct bytes raw, struct nvidia_report *ret, struct err *e)
{
    struct nvidia_report r = {0};
    struct bytes b = raw;

    if (parse_request(&b, &r, e) || parse_response(&b, &r, e)) {
        return -1;
    }
    r.signed_bytes = BYTES(raw.p, raw.n - NVIDIA_SIGNATURE_BYTES);
    *ret = r;
    return 0;
}

struct bytes nvidia_field(const struct nvidia_report *r, enum nvidia_field type)
{
    for (size_t i = 0; i < r->n_opaque; i++) {
        if (r->opaque[i].type == (uint16_t)type) {
            return r->opaque[i].value;
        }
    }
    return (struct bytes){0};
}

/* The forms of TPM evidence. */
#include <ctype.h>

#include "appraise/evidence.h"
#include "appraise/tpm_attest.h"

#define AK_MAX_BYTES 2048u

void tpm_evidence_done(struct tpm_evidence *ev)
{
    tpm_ak_done(&ev->ak);
    tpm_quote_json_done(&ev->json);
    buf_done(&ev->scratch);
    buf_done(&ev->log);
    buf_done(&ev->ak_der);
}

/* ---- JSON ---- */

static int take_json(const json_t *j, struct tpm_evidence *ev, struct err *e)
{
    const json_t *inner = json_object_get(j, "evidence"), *log;

    j = json_is_object(inner) ? inner : j;
    if (tpm_json_bytes("evidence.ak_public", json_object_get(j, "ak_public"), AK_MAX_BYTES,
                       &ev->ak_der, e) ||
        tpm_ak_from_spki("evidence.ak_public", buf_bytes(&ev->ak_der), &ev->ak, e) ||
        tpm_quote_json_take(json_object_get(j, "tpm_quote"), &ev->json, e)) {
        return -1;
    }
    ev->quotes[0] = (struct tpm_signed){.message = buf_bytes(&ev->json.message),
                                        .signature = buf_bytes(&ev->json.signature),
                                        .bank = ev->json.bank};
    ev->n_quotes = 1;
    log = json_object_get(j, "event_log");
    if (log && !json_is_null(log)) {
        if (tpm_json_bytes("evidence.event_log", log, EVENTLOG_MAX_BYTES, &ev->log, e)) {
            return -1;
        }
        ev->event_log = buf_bytes(&ev->log);
    }
    return 0;
}

/* ---- protobuf ---- */

struct pb {
    const uint8_t *p;
    size_t n;
    int bad;
};
struct pb_field {
    uint64_t number, value; /* value: of a varint */
    int is_bytes;
    struct bytes bytes;
};

static uint64_t pb_varint(struct pb *in)
{
    uint64_t v = 0;

    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (!in->n) {
            break;
        }
        uint8_t b = *in->p++;
        in->n--;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80)) {
            return v;
        }
    }
    in->bad = 1;
    return 0;
}

/* 1: a field; 0: the end, or something malformed (in->bad). Only the wire types that the messages
 * have, and fixed ones to pass over. */
static int pb_next(struct pb *in, struct pb_field *ret)
{
    if (!in->n || in->bad) {
        return 0;
    }
    uint64_t key = pb_varint(in), n = 0;
    unsigned type = key & 7;

    *ret = (struct pb_field){.number = key >> 3, .is_bytes = type == 2};
    if (type == 0) {
        ret->value = pb_varint(in);
        return !in->bad;
    }
    n = type == 2 ? pb_varint(in) : type == 1 ? 8 : type == 5 ? 4 : UINT64_MAX;
    if (in->bad || n > in->n || !ret->number) {
        in->bad = 1;
        return 0;
    }
    ret->bytes = BYTES(in->p, (size_t)n);
    in->p += n;
    in->n -= n;
    return 1;
}

static struct pb pb_of(struct bytes b)
{
    return (struct pb){.p = b.p, .n = b.n};
}

static int malformed(struct err *e, const char *what)
{
    return err_refuse(e, ERR_INVALID, what, "a protobuf message of go-tpm-tools' attest.proto",
                      "something else");
}

/* map<uint32, bytes> */
static int take_pcr(struct bytes entry, uint32_t *ret_index, struct bytes *ret)
{
    struct pb in = pb_of(entry);
    struct pb_field f;

    *ret_index = 0;
    *ret = (struct bytes){0};
    while (pb_next(&in, &f)) {
        if (f.number == 1 && !f.is_bytes && f.value < TPM_PCRS) {
            *ret_index = (uint32_t)f.value;
        } else if (f.number == 2 && f.is_bytes) {
            *ret = f.bytes;
        } else {
            return -1;
        }
    }
    return in.bad ? -1 : 0;
}

static int take_pcrs(struct bytes message, struct tpm_bank *bank, struct err *e)
{
    struct pb in = pb_of(message);
    struct bytes value[TPM_PCRS] = {{0}}, v;
    struct pb_field f;
    uint32_t i;

    while (pb_next(&in, &f)) {
        if (f.number == 1 && !f.is_bytes) {
            bank->hash = (uint16_t)(f.value < 0x100 ? f.value : 0);
        } else if (f.number == 2 && f.is_bytes && take_pcr(f.bytes, &i, &v) == 0 &&
                   !(bank->pcrs & 1u << i)) {
            value[i] = v;
            bank->pcrs |= 1u << i;
        } else {
            return malformed(e, "evidence.quotes.pcrs");
        }
    }
    size_t each = tpm_digest_bytes(bank->hash);
    for (i = 0; i < TPM_PCRS; i++) {
        if (!(bank->pcrs & 1u << i)) {
            continue;
        }
        if (!each || value[i].n != each) {
            return err_refuse(e, ERR_INVALID, "evidence.quotes.pcrs",
                              "values as long as their bank's hash gives", "%zu bytes of 0x%04x",
                              value[i].n, bank->hash);
        }
        memcpy(bank->v[i], value[i].p, each);
    }
    return in.bad ? malformed(e, "evidence.quotes.pcrs") : 0;
}

static int take_quote(struct bytes message, struct tpm_evidence *ev, struct err *e)
{
    struct pb in = pb_of(message);
    struct tpm_signed s = {.bank = {.hash = 0}};
    struct pb_field f;

    while (pb_next(&in, &f)) {
        if (!f.is_bytes) {
            return malformed(e, "evidence.quotes");
        }
        if (f.number == 1) {
            s.message = f.bytes;
        } else if (f.number == 2) {
            s.signature = f.bytes;
        } else if (f.number == 3 && (s.bank.pcrs || take_pcrs(f.bytes, &s.bank, e))) {
            return s.bank.pcrs ? malformed(e, "evidence.quotes.pcrs") : -1;
        }
    }
    for (size_t i = 0; i < ev->n_quotes; i++) {
        if (ev->quotes[i].bank.hash == s.bank.hash) {
            return err_refuse(e, ERR_INVALID, "evidence.quotes", "one quote of each bank",
                              "two of 0x%04x", s.bank.hash);
        }
    }
    if (in.bad || ev->n_quotes == TPM_QUOTES_MAX) {
        return malformed(e, "evidence.quotes");
    }
    ev->quotes[ev->n_quotes++] = s;
    return 0;
}

/* Attestation: 1 ak_pub, 2 quotes, 3 event_log, 6 ak_cert, 7 intermediate_certs. */
static int take_protobuf(struct bytes in, struct tpm_evidence *ev, struct err *e)
{
    struct pb pb = pb_of(in);
    struct bytes ak = {0}, cert = {0};
    struct pb_field f;

    while (pb_next(&pb, &f)) {
        if (f.number == 1 && f.is_bytes && !ak.p) {
            ak = f.bytes;
        } else if (f.number == 2 && f.is_bytes) {
            if (take_quote(f.bytes, ev, e)) {
                return -1;
            }
        } else if (f.number == 3 && f.is_bytes) {
            ev->event_log = f.bytes;
        } else if (f.number == 6 && f.is_bytes) {
            cert = f.bytes;
        } else if (f.number == 7 && f.is_bytes && ev->n_certs + 2 < CERT_CHAIN_MAX) {
            ev->certs[1 + ev->n_certs++] = f.bytes;
        } else if (f.number <= 2) {
            return malformed(e, "evidence");
        }
    }
    if (pb.bad || !ak.n || !ev->n_quotes) {
        return malformed(e, "evidence");
    }
    ev->certs[0] = cert;
    ev->n_certs = cert.n ? ev->n_certs + 1 : 0;
    return tpm_ak_from_public("evidence.ak_pub", ak, &ev->ak, e);
}

static int is_protobuf(struct bytes b)
{
    return b.n > 2 && b.p[0] == 0x0a && !isspace(b.p[1]) &&
           !(b.p[1] >= '0' && b.p[1] <= 'z' && b.n > 3 && isalnum(b.p[2]) && isalnum(b.p[3]));
}

int tpm_evidence_take(struct bytes in, struct tpm_evidence *ret, struct err *e)
{
    _cleanup_json_ json_t *j = NULL;
    struct tpm_evidence ev = {.scratch = BUF_INIT(TPM_EVIDENCE_MAX_BYTES)};
    int rc = 0;

    if (in.n > TPM_EVIDENCE_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "evidence", "at most 2 MiB", "%zu bytes", in.n);
    }
    if (!is_protobuf(in)) {
        rc = evidence_json(in, &j, e);
        if (!rc && !j) {
            rc = evidence_text("evidence", in, &ev.scratch, e);
            in = buf_bytes(&ev.scratch);
        }
    }
    if (!rc) {
        rc = j ? take_json(j, &ev, e) : take_protobuf(in, &ev, e);
    }
    if (rc) {
        tpm_evidence_done(&ev);
        return -1;
    }
    *ret = ev;
    return 0;
}

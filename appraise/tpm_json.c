#include "appraise/evidence.h"
#include "appraise/tpm_quote.h"

#define MESSAGE_MAX_BYTES 1024u
#define SIGNATURE_MAX_BYTES 1100u

static int take_numbers(const json_t *list, struct buf *ret)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *n = json_array_get(list, i);
        json_int_t v = json_integer_value(n);
        uint8_t b = (uint8_t)v;
        if (!json_is_integer(n) || v < 0 || v > 255 || buf_add(ret, &b, 1, NULL)) {
            return -1;
        }
    }
    return 0;
}

int tpm_json_bytes(const char *what, const json_t *v, size_t max, struct buf *ret, struct err *e)
{
    _cleanup_buf_ struct buf b = BUF_INIT(EVIDENCE_JSON_MAX_BYTES);

    if (json_is_array(v) ? take_numbers(v, &b) || !b.n
                         : !json_is_string(v) ||
                               evidence_text(what, BYTES_STR(json_string_value(v)), &b, NULL)) {
        return err_refuse(e, ERR_INVALID, what, "base64, hex or an array of bytes",
                          v ? "something else" : "nothing");
    }
    if (b.n > max) {
        return err_refuse(e, ERR_TOO_LARGE, what, "fewer bytes", "%zu, of at most %zu", b.n, max);
    }
    buf_done(ret);
    *ret = b;
    b = (struct buf){0};
    return 0;
}

void tpm_quote_json_done(struct tpm_quote_json *q)
{
    buf_done(&q->message);
    buf_done(&q->signature);
}

static int take_pcrs(const json_t *list, struct tpm_bank *ret, struct err *e)
{
    size_t each = tpm_digest_bytes(TPM_ALG_SHA256);

    if (json_array_size(list) != TPM_PCRS) {
        return err_refuse(e, ERR_INVALID, "evidence.tpm_quote.pcrs", "24 of them", "%zu",
                          json_array_size(list));
    }
    *ret = (struct tpm_bank){.hash = TPM_ALG_SHA256};
    for (size_t i = 0; i < TPM_PCRS; i++) {
        _cleanup_buf_ struct buf b = {0};
        if (tpm_json_bytes("evidence.tpm_quote.pcrs", json_array_get(list, i), TPM_MAX_DIGEST, &b,
                           e)) {
            return -1;
        }
        if (b.n != each) {
            return err_refuse(e, ERR_INVALID, "evidence.tpm_quote.pcrs", "32 bytes each", "%zu",
                              b.n);
        }
        memcpy(ret->v[i], b.p, each);
    }
    ret->pcrs = 0xffffff;
    return 0;
}

int tpm_quote_json_take(const json_t *j, struct tpm_quote_json *ret, struct err *e)
{
    struct tpm_quote_json q = {.bank = {.hash = 0}};

    if (!json_is_object(j)) {
        return err_refuse(e, ERR_INVALID, "evidence.tpm_quote", "an object", "something else");
    }
    if (tpm_json_bytes("evidence.tpm_quote.message", json_object_get(j, "message"),
                       MESSAGE_MAX_BYTES, &q.message, e) ||
        tpm_json_bytes("evidence.tpm_quote.signature", json_object_get(j, "signature"),
                       SIGNATURE_MAX_BYTES, &q.signature, e) ||
        take_pcrs(json_object_get(j, "pcrs"), &q.bank, e)) {
        tpm_quote_json_done(&q);
        return -1;
    }
    *ret = q;
    return 0;
}

#include "appraise/eventlog.h"

#include <openssl/evp.h>

#define SPEC_ID "Spec ID Event03"
#define LOCALITY "StartupLocality"
#define MAX_ALGS 8
#define SHA1_BYTES 20

/* Little-endian, unlike what a TPM itself says. */
struct log_reader {
    struct tpm_reader r;
    struct {
        uint16_t alg, bytes;
    } algs[MAX_ALGS];
    size_t n_algs;
};

static uint32_t le32(struct log_reader *l)
{
    return __builtin_bswap32(tpm_u32(&l->r));
}

static uint16_t le16(struct log_reader *l)
{
    return __builtin_bswap16(tpm_u16(&l->r));
}

int eventlog_bank_of(uint16_t alg)
{
    return alg == TPM_ALG_SHA256   ? BANK_SHA256
           : alg == TPM_ALG_SHA384 ? BANK_SHA384
           : alg == TPM_ALG_SHA1   ? BANK_SHA1
                                   : -1;
}

static const EVP_MD *bank_md(enum eventlog_bank bank)
{
    switch (bank) {
    case BANK_SHA256:
        return EVP_sha256();
    case BANK_SHA384:
        return EVP_sha384();
    case BANK_SHA1:
        return EVP_sha1();
    case BANK_N:
        break;
    }
    return NULL;
}

static int cut(struct err *e, const char *where)
{
    return err_set(e, ERR_INVALID, "event log: expected the whole of %s, found the end", where);
}

/* ---- the first record ---- */

static int read_algs(struct log_reader *l, struct tpm_reader *spec, struct eventlog *out,
                     struct err *e)
{
    uint32_t n = __builtin_bswap32(tpm_u32(spec));

    if (spec->bad || n < 1 || n > MAX_ALGS) {
        return err_set(e, ERR_INVALID, "event log: expected 1 to %d kinds of digest, found %u",
                       MAX_ALGS, n);
    }
    for (l->n_algs = 0; l->n_algs < n; l->n_algs++) {
        uint16_t alg = __builtin_bswap16(tpm_u16(spec));
        uint16_t bytes = __builtin_bswap16(tpm_u16(spec));
        int bank = eventlog_bank_of(alg);
        if (spec->bad || bytes < 1 || bytes > TPM_MAX_DIGEST ||
            (bank >= 0 && bytes != tpm_digest_bytes(alg))) {
            return err_set(e, ERR_INVALID, "event log: found digests 0x%04x of %u bytes", alg,
                           bytes);
        }
        for (size_t i = 0; i < l->n_algs; i++) {
            if (l->algs[i].alg == alg) {
                return err_set(e, ERR_INVALID, "event log: found digests 0x%04x twice", alg);
            }
        }
        l->algs[l->n_algs].alg = alg;
        l->algs[l->n_algs].bytes = bytes;
        if (bank >= 0) {
            out->has[bank] = 1;
        }
    }
    return 0;
}

static int read_header(struct log_reader *l, struct eventlog *out, struct err *e)
{
    uint32_t pcr = le32(l), type = le32(l);

    tpm_take(&l->r, SHA1_BYTES);
    struct bytes data = tpm_take(&l->r, le32(l));
    if (l->r.bad) {
        return cut(e, "its first record");
    }
    struct tpm_reader spec = {.p = data.p, .n = data.n};
    struct bytes name = tpm_take(&spec, sizeof(SPEC_ID));
    if (pcr > 1 || type != EV_NO_ACTION || spec.bad ||
        memcmp(name.p, SPEC_ID, sizeof(SPEC_ID)) != 0) {
        return err_set(e, ERR_INVALID,
                       "event log: expected " SPEC_ID " first, found something else");
    }
    tpm_take(&spec, 8); /* class, version, errata, uintn size */
    if (read_algs(l, &spec, out, e)) {
        return -1;
    }
    /* 0 in a TPM's log; 1 in a CCEL, whose only digest is SHA-384 */
    if (pcr && (l->n_algs != 1 || !out->has[BANK_SHA384])) {
        return err_set(e, ERR_INVALID,
                       "event log: expected " SPEC_ID " first, found something else");
    }
    struct bytes vendor = tpm_take(&spec, tpm_u8(&spec));
    (void)vendor;
    return spec.bad || spec.n ? err_set(e, ERR_INVALID, "event log: " SPEC_ID " has another length")
                              : 0;
}

/* ---- the others ---- */

static int read_digests(struct log_reader *l, struct eventlog_event *ev, struct err *e)
{
    uint32_t n = le32(l), seen = 0;

    if (l->r.bad || n != l->n_algs) {
        return l->r.bad
                   ? cut(e, "an event")
                   : err_set(e, ERR_INVALID,
                             "event log: expected %zu digests of an event, found %u", l->n_algs, n);
    }
    for (uint32_t i = 0; i < n; i++) {
        uint16_t alg = le16(l);
        size_t k = 0;
        while (k < l->n_algs && l->algs[k].alg != alg) {
            k++;
        }
        if (l->r.bad) {
            return cut(e, "an event's digests");
        }
        if (k == l->n_algs || seen & 1u << k) {
            return err_set(e, ERR_INVALID, "event log: found an event with digest 0x%04x%s", alg,
                           k == l->n_algs ? ", which its head does not name" : " twice");
        }
        seen |= 1u << k;
        struct bytes d = tpm_take(&l->r, l->algs[k].bytes);
        if (eventlog_bank_of(alg) >= 0) {
            ev->digest[eventlog_bank_of(alg)] = d.p;
        }
    }
    return 0;
}

static int extend(struct eventlog *out, const struct eventlog_event *ev, struct err *e)
{
    for (int b = 0; b < BANK_N; b++) {
        const EVP_MD *md = bank_md((enum eventlog_bank)b);
        size_t n = (size_t)EVP_MD_get_size(md);
        uint8_t both[2 * EVENTLOG_MAX_DIGEST];
        if (!out->has[b]) {
            continue;
        }
        memcpy(both, out->pcr[b][ev->pcr], n);
        memcpy(both + n, ev->digest[b], n);
        if (EVP_Digest(both, 2 * n, out->pcr[b][ev->pcr], NULL, md, NULL) != 1) {
            return err_set(e, ERR_INTERNAL, "cannot hash");
        }
    }
    return 0;
}

/* Where PCR 0 starts, when the TPM was started from another locality. It counts only before
 * anything was extended. */
static int no_action(struct eventlog *out, const struct eventlog_event *ev, struct err *e)
{
    if (ev->pcr || ev->data.n < sizeof(LOCALITY) ||
        memcmp(ev->data.p, LOCALITY, sizeof(LOCALITY)) != 0) {
        return 0;
    }
    if (ev->data.n != sizeof(LOCALITY) + 1) {
        return err_set(e, ERR_INVALID, "event log: " LOCALITY " has another length");
    }
    for (size_t i = 0; i < out->n; i++) {
        if (!out->v[i].pcr) {
            return err_set(e, ERR_INVALID, "event log: " LOCALITY " after an event of PCR 0");
        }
    }
    out->pcr[BANK_SHA256][0][31] = ev->data.p[sizeof(LOCALITY)];
    out->pcr[BANK_SHA384][0][47] = ev->data.p[sizeof(LOCALITY)];
    out->pcr[BANK_SHA1][0][SHA1_BYTES - 1] = ev->data.p[sizeof(LOCALITY)];
    return 0;
}

static int read_event(struct log_reader *l, struct eventlog *out, struct err *e)
{
    struct eventlog_event ev = {.pcr = le32(l)};

    ev.type = le32(l);
    if (read_digests(l, &ev, e)) {
        return -1;
    }
    ev.data = tpm_take(&l->r, le32(l));
    if (l->r.bad) {
        return cut(e, "an event");
    }
    if (ev.type == EV_NO_ACTION) {
        return no_action(out, &ev, e);
    }
    if (ev.pcr >= TPM_PCRS) {
        return err_set(e, ERR_INVALID, "event log: expected PCR 0 to %d, found %u", TPM_PCRS - 1,
                       ev.pcr);
    }
    if (out->n == EVENTLOG_MAX_EVENTS) {
        return err_set(e, ERR_TOO_LARGE, "event log: expected at most %u events",
                       EVENTLOG_MAX_EVENTS);
    }
    out->v[out->n++] = ev;
    return extend(out, &ev, e);
}

/* The unused end of a table of fixed size. */
static int is_padding(const struct tpm_reader *r)
{
    for (size_t i = 0; i < r->n; i++) {
        if (r->p[i] != 0xff) {
            return 0;
        }
    }
    return 1;
}

int eventlog_parse(struct bytes in, struct eventlog *ret, struct err *e)
{
    struct log_reader l = {.r = {.p = in.p, .n = in.n}};
    _cleanup_(eventlog_done) struct eventlog out = {0};

    if (in.n > EVENTLOG_MAX_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "event log: expected at most %u bytes, found %zu",
                       EVENTLOG_MAX_BYTES, in.n);
    }
    if (read_header(&l, &out, e)) {
        return -1;
    }
    /* The smallest event: PCR, type, count, one digest, size. */
    size_t most = l.r.n / (16 + 2 + l.algs[0].bytes) + 1;
    out.v = xcalloc(most < EVENTLOG_MAX_EVENTS ? most : EVENTLOG_MAX_EVENTS, sizeof(*out.v));
    while (l.r.n && !is_padding(&l.r)) {
        if (read_event(&l, &out, e)) {
            return -1;
        }
    }
    *ret = out;
    out.v = NULL;
    return 0;
}

void eventlog_done(struct eventlog *l)
{
    free(l->v);
    l->v = NULL;
    l->n = 0;
}

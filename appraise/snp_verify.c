#include <openssl/crypto.h>

#include "appraise/sigs.h"
#include "appraise/snp.h"

#define TRIES_MAX 8 /* VEKs that fit and yet do not verify; more than one is rare */

/* What is known of one attempt to verify with one VEK. */
struct attempt {
    struct certs *store;
    const struct snp_report *report;
    const struct snp_aids *aids;
    const struct snp_roots *roots;
    int64_t at_ms;
};

static const char *key_name(enum snp_key k)
{
    return k == SNP_KEY_VCEK ? "VCEK" : "VLEK";
}

static const char *tcb_clause(enum snp_key k)
{
    return k == SNP_KEY_VCEK ? "evidence.vcek.tcb" : "evidence.vlek.tcb";
}

/* ---- does the certificate belong to the report? ---- */

static int check_kind(const struct snp_report *r, const struct snp_vek *v, struct err *e)
{
    if (v->kind != r->key) {
        return err_refuse(e, ERR_DENIED, "evidence.report.signing_key", key_name(r->key),
                          "a certificate of a %s", key_name(v->kind));
    }
    if (r->product != SNP_UNKNOWN && r->product != v->product) {
        return err_refuse(e, ERR_DENIED,
                          v->kind == SNP_KEY_VCEK ? "evidence.vcek.product"
                                                  : "evidence.vlek.product",
                          snp_product_name(r->product), "%s", snp_product_name(v->product));
    }
    return 0;
}

static int check_cert_tcb(const struct snp_report *r, const struct snp_vek *v, struct err *e)
{
    const struct snp_tcb reported = snp_tcb_of(v->product, r->reported_tcb);
    char expected[96], actual[96];

    if (snp_tcb_equal(&v->tcb, &reported)) {
        return 0;
    }
    snp_tcb_text(v->product, &reported, expected);
    snp_tcb_text(v->product, &v->tcb, actual);
    return err_refuse(e, ERR_DENIED, tcb_clause(v->kind), expected, "%s", actual);
}

static int is_masked(const struct snp_report *r)
{
    static const uint8_t zero[SNP_CHIP_ID_BYTES];

    return memcmp(r->chip_id, zero, sizeof(zero)) == 0;
}

static int check_hwid(const struct snp_report *r, const struct snp_vek *v, struct err *e)
{
    uint8_t padded[SNP_CHIP_ID_BYTES] = {0};

    if (v->kind == SNP_KEY_VLEK || is_masked(r)) {
        return 0;
    }
    memcpy(padded, v->hwid, v->hwid_bytes);
    if (memcmp(padded, r->chip_id, sizeof(padded)) == 0) {
        return 0;
    }
    _cleanup_free_ char *expected = hex_encode(r->chip_id, SNP_CHIP_ID_BYTES);
    _cleanup_free_ char *actual = hex_encode(padded, sizeof(padded));
    return err_refuse(e, ERR_DENIED, "evidence.vcek.hwid", expected, "%s", actual);
}

/* ---- the report's own TCB versions ---- */

static int check_order(enum snp_product p, const struct snp_tcb *low, const struct snp_tcb *high,
                       const char *clause, struct err *e)
{
    char expected[128], limit[96], actual[96];

    if (snp_tcb_le(low, high)) {
        return 0;
    }
    snp_tcb_text(p, high, limit);
    snp_tcb_text(p, low, actual);
    snprintf(expected, sizeof(expected), "at most the current %s", limit);
    return err_refuse(e, ERR_DENIED, clause, expected, "%s", actual);
}

static uint32_t firmware_number(const struct snp_firmware *f)
{
    return (uint32_t)f->major << 16 | (uint32_t)f->minor << 8 | f->build;
}

static int check_tcbs(struct snp_verified *v, struct err *e)
{
    const struct snp_report *r = &v->report;
    uint32_t current = firmware_number(&r->current), committed = firmware_number(&r->committed);

    v->current = snp_tcb_of(v->product, r->current_tcb);
    v->reported = snp_tcb_of(v->product, r->reported_tcb);
    v->committed = snp_tcb_of(v->product, r->committed_tcb);
    v->launch = snp_tcb_of(v->product, r->launch_tcb);
    if (check_order(v->product, &v->reported, &v->current, "evidence.report.reported_tcb", e) ||
        check_order(v->product, &v->committed, &v->current, "evidence.report.committed_tcb", e)) {
        return -1;
    }
    if (committed > current) {
        char expected[48];
        snprintf(expected, sizeof(expected), "at most the current %u.%u.%u", r->current.major,
                 r->current.minor, r->current.build);
        return err_refuse(e, ERR_DENIED, "evidence.report.committed_version", expected, "%u.%u.%u",
                          r->committed.major, r->committed.minor, r->committed.build);
    }
    v->provisional = committed != current || !snp_tcb_equal(&v->committed, &v->current);
    v->tcb_status = v->provisional || !snp_tcb_equal(&v->reported, &v->current) ? TCB_OUT_OF_DATE
                                                                                : TCB_UP_TO_DATE;
    return 0;
}

/* ---- with one VEK ---- */

static int check_signature(const struct snp_report *r, const struct snp_vek *vek, struct err *e)
{
    _cleanup_(ec_key_freep) struct ec_key *key = NULL;

    return ec_key_from_pkey(EC_P384,
                            vek->kind == SNP_KEY_VCEK ? "evidence.vcek.public_key"
                                                      : "evidence.vlek.public_key",
                            vek->cert->key, &key, e) ||
                   ec_verify("evidence.report.signature", key, BYTES(r->raw, SNP_SIGNED_BYTES),
                             r->r_s, e)
               ? -1
               : 0;
}

static int try_vek(const struct attempt *a, const struct snp_vek *vek, struct snp_verified *ret,
                   struct err *e)
{
    struct snp_verified v = {.report = *a->report, .product = vek->product, .vek = *vek};

    if (check_kind(a->report, vek, e) ||
        snp_vek_verify(a->store, vek, a->aids, a->roots, a->at_ms, &v.crl, e) ||
        check_signature(a->report, vek, e) || check_cert_tcb(a->report, vek, e) ||
        check_hwid(a->report, vek, e) || check_tcbs(&v, e)) {
        return -1;
    }
    v.chip_id_masked = vek->kind == SNP_KEY_VCEK && is_masked(a->report);
    *ret = v;
    return 0;
}

static int fits(const struct snp_report *r, const struct snp_vek *v)
{
    return check_kind(r, v, NULL) == 0 && check_cert_tcb(r, v, NULL) == 0 &&
           check_hwid(r, v, NULL) == 0;
}

static int refuse_without_vek(const struct snp_report *r, const struct err *why, struct err *e)
{
    if (why->code) {
        if (e) {
            *e = *why;
        }
        return -1;
    }
    return err_refuse(e, ERR_NOT_FOUND, r->key == SNP_KEY_VCEK ? "evidence.vcek" : "evidence.vlek",
                      r->key == SNP_KEY_VCEK
                          ? "the chip's VCEK certificate, needed for the report's signature, in "
                            "the evidence or the collateral"
                          : "the cloud's VLEK certificate, needed for the report's signature, in "
                            "the evidence or the collateral",
                      "none");
}

/* The best that is there, for what it fails to be named: of the right kind before others, those of
 * the evidence, which come first, before collateral. */
static void remember(const struct snp_report *r, const struct snp_vek *v, struct snp_vek *best)
{
    if (!best->cert || (check_kind(r, best, NULL) && check_kind(r, v, NULL) == 0)) {
        *best = *v;
    }
}

int snp_verify(struct certs *store, struct bytes report, const struct snp_aids *aids,
               const struct snp_roots *roots, int64_t at_ms, struct snp_verified *ret,
               struct err *e)
{
    struct snp_report r;
    struct attempt a = {.store = store, .report = &r, .aids = aids, .roots = roots, .at_ms = at_ms};
    struct snp_vek best = {0};
    struct err malformed = {0}, *why;
    int tries = 0;

    if (snp_report_parse(report, &r, e)) {
        return -1;
    }
    for (size_t i = 0; i < aids->n_certs && tries < TRIES_MAX; i++) {
        struct snp_vek v;
        enum snp_key kind;
        if (!snp_is_vek(aids->certs[i], &kind)) {
            continue;
        }
        why = malformed.code ? NULL : &malformed;
        if (snp_vek_parse(aids->certs[i], &v, why)) {
            continue;
        }
        if (fits(&r, &v)) {
            tries++;
            if (try_vek(&a, &v, ret, e) == 0) {
                return 0;
            }
        } else {
            remember(&r, &v, &best);
        }
    }
    if (tries) {
        return -1; /* with what the last one failed at */
    }
    return best.cert ? try_vek(&a, &best, ret, e) : refuse_without_vek(&r, &malformed, e);
}

/* OCSP answers out of the bag, by the rules of RFC 6960 §3.2 but with neither the network nor the
 * clock: the appraisal's time decides. */
#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/x509v3.h>

#include "appraise/certs_int.h"
#include "appraise/nvidia_certs.h"

#define ANSWERS_MAX 64   /* in one response; NVIDIA's have one */
#define ITEMS_MAX 256u   /* responses looked at */
#define SKEW_MS 300000LL /* between NVIDIA's clock and ours */

struct question {
    struct certs *store;
    const struct nvidia_chain *chain;
    const struct nvidia_anchors *anchors;
    size_t at; /* which certificate of the chain */
    int64_t at_ms;
};

static void basic_free(void *p)
{
    OCSP_BASICRESP_free(p);
}

/* Parsed once for the bag; NULL: of no use. */
static OCSP_BASICRESP *basic_of(struct item *x)
{
    if (!x->parsed) {
        const uint8_t *p = x->raw.p;
        OCSP_RESPONSE *r = d2i_OCSP_RESPONSE(NULL, &p, (long)x->raw.n);
        if (r && p == x->raw.p + x->raw.n &&
            OCSP_response_status(r) == OCSP_RESPONSE_STATUS_SUCCESSFUL) {
            x->parsed = OCSP_response_get1_basic(r);
            x->parsed_free = basic_free;
        }
        OCSP_RESPONSE_free(r);
        ERR_clear_error();
    }
    return x->parsed;
}

/* Is that answer about that certificate? */
static int is_about(const OCSP_CERTID *id, const struct cert *c, const struct cert *issuer)
{
    ASN1_OBJECT *hash;
    ASN1_INTEGER *serial;
    const EVP_MD *md;

    if (!OCSP_id_get0_info(NULL, &hash, NULL, &serial, (OCSP_CERTID *)(uintptr_t)id) ||
        ASN1_INTEGER_cmp(serial, X509_get0_serialNumber(c->x)) != 0 ||
        !(md = EVP_get_digestbyobj(hash))) {
        return 0;
    }
    OCSP_CERTID *mine = OCSP_cert_to_id(md, c->x, issuer->x);
    int same = mine && OCSP_id_cmp(mine, id) == 0;
    OCSP_CERTID_free(mine);
    ERR_clear_error();
    return same;
}

static OCSP_SINGLERESP *answer_for(OCSP_BASICRESP *b, const struct cert *c,
                                   const struct cert *issuer)
{
    int n = OCSP_resp_count(b);

    for (int i = 0; i < n && i < ANSWERS_MAX; i++) {
        OCSP_SINGLERESP *s = OCSP_resp_get0(b, i);
        if (is_about(OCSP_SINGLERESP_get0_id(s), c, issuer)) {
            return s;
        }
    }
    return NULL;
}

/* ---- the responder ---- */

/* Who signed it says it did: the issuer itself, or a certificate in the response. */
static X509 *signer_of(OCSP_BASICRESP *b, const struct cert *issuer)
{
    STACK_OF(X509) *extra = sk_X509_new_null();
    X509 *signer = NULL;

    if (extra && sk_X509_push(extra, issuer->x)) {
        OCSP_resp_get0_signer(b, &signer, extra);
    }
    sk_X509_free(extra);
    ERR_clear_error();
    return signer;
}

/* A responder that the issuer has certified for this (RFC 6960 §4.2.2.2). */
static int check_delegate(const struct question *q, struct cert *delegate, struct err *e)
{
    static const char *const critical[] = {NULL};
    const struct chain_rules rules = {.what = "collateral.ocsp.responder",
                                      .at_ms = q->at_ms,
                                      .anchors = q->anchors->v,
                                      .n_anchors = q->anchors->n,
                                      .critical = critical};
    struct cert *chain[CERT_CHAIN_MAX];
    size_t n = 0;

    chain[n++] = delegate;
    for (size_t i = q->at + 1; i < q->chain->n; i++) {
        chain[n++] = q->chain->v[i];
    }
    if (chain_verify(q->store, &rules, chain, n, e)) {
        return -1;
    }
    if (!(X509_get_extension_flags(delegate->x) & EXFLAG_XKUSAGE) ||
        !(X509_get_extended_key_usage(delegate->x) & XKU_OCSP_SIGN) ||
        !(X509_get_key_usage(delegate->x) & KU_DIGITAL_SIGNATURE)) {
        return err_refuse(e, ERR_DENIED, "collateral.ocsp.responder", "a certificate to sign OCSP",
                          "one for something else");
    }
    return 0;
}

static int find_responder(const struct question *q, OCSP_BASICRESP *b, struct cert **ret,
                          struct err *e)
{
    struct cert *issuer = q->chain->v[q->at + 1];
    X509 *signer = signer_of(b, issuer);
    uint8_t *der = NULL;

    if (!signer) {
        return err_refuse(e, ERR_BAD_SIGNATURE, "collateral.ocsp.responder",
                          "the issuer, or a certificate in the answer", "neither");
    }
    if (signer == issuer->x) {
        *ret = issuer;
        return 0;
    }
    int n = i2d_X509(signer, &der);
    int rc = n <= 0 ? err_refuse(e, ERR_INVALID, "collateral.ocsp.responder", "a certificate",
                                 "something else")
                    : certs_add_der(q->store, "collateral.ocsp.responder", BYTES(der, (size_t)n),
                                    ret, e);
    OPENSSL_free(der);
    return rc || check_delegate(q, *ret, e) ? -1 : 0;
}

static int check_signature(OCSP_BASICRESP *b, const struct cert *by, struct err *e)
{
    const X509_ALGOR *alg = OCSP_resp_get0_tbs_sigalg(b);
    const ASN1_OCTET_STRING *sig = OCSP_resp_get0_signature(b);
    int ok = sigalg_strong(alg) && ASN1_item_verify(ASN1_ITEM_rptr(OCSP_RESPDATA), alg, sig,
                                                    OCSP_resp_get0_respdata(b), by->key) == 1;

    ERR_clear_error();
    return ok ? 0
              : err_refuse(e, ERR_BAD_SIGNATURE, "collateral.ocsp.signature",
                           "one by the responder, with SHA-256 or more", "another");
}

/* ---- the answer ---- */

static int check_dates(const ASN1_TIME *from, const ASN1_TIME *until, int64_t at_ms, struct err *e)
{
    static const char what[] = "collateral.ocsp";
    int64_t from_ms, until_ms;

    if (!until) {
        return err_refuse(e, ERR_INVALID, "collateral.ocsp.next_update", "a date", "none");
    }
    return asn1_time_ms(what, "this_update", from, &from_ms, e) ||
                   asn1_time_ms(what, "next_update", until, &until_ms, e) ||
                   check_not_before(what, "this_update", from_ms, at_ms + SKEW_MS, e) ||
                   check_not_after(what, "next_update", until_ms, at_ms - SKEW_MS, e)
               ? -1
               : 0;
}

static int check_answer(const struct question *q, OCSP_BASICRESP *b, OCSP_SINGLERESP *s,
                        struct err *e)
{
    ASN1_GENERALIZEDTIME *revoked, *from, *until;
    struct cert *responder;
    char cn[128];
    int reason = -1;
    int status = OCSP_single_get0_status(s, &reason, &revoked, &from, &until);

    if (find_responder(q, b, &responder, e) || check_signature(b, responder, e)) {
        return -1;
    }
    cert_subject_cn(q->chain->v[q->at], cn);
    if (status != V_OCSP_CERTSTATUS_GOOD) {
        return err_refuse(e, ERR_DENIED, "collateral.ocsp.status", "good", "%s%s%s of %s",
                          OCSP_cert_status_str(status), reason >= 0 ? ", " : "",
                          reason >= 0 ? OCSP_crl_reason_str(reason) : "", cn);
    }
    return check_dates(from, until, q->at_ms, e);
}

/* 1: good; 0: nobody says; -1: refused. An answer that does not hold counts for nothing beside one
 * that does, but a revocation that holds is final, however old it is. */
static int ask(const struct question *q, const struct collateral *bag, struct err *e)
{
    const struct cert *c = q->chain->v[q->at], *issuer = q->chain->v[q->at + 1];
    struct err first = {0};
    int good = 0;
    unsigned seen = 0;

    for (size_t i = 0; i < collateral_n(bag) && seen < ITEMS_MAX; i++) {
        struct item *x = collateral_at(bag, i);
        OCSP_BASICRESP *b = x->kind == ITEM_OCSP ? basic_of(x) : NULL;
        OCSP_SINGLERESP *s = b ? answer_for(b, c, issuer) : NULL;
        struct err why = {0};
        seen += x->kind == ITEM_OCSP;
        if (!s) {
            continue;
        }
        if (check_answer(q, b, s, &why) == 0) {
            good = 1;
        } else if (!first.code || streq(why.clause, "collateral.ocsp.status")) {
            first = why;
        }
    }
    if (good && !streq(first.clause, "collateral.ocsp.status")) {
        return 1;
    }
    if (first.code && e) {
        *e = first;
    }
    return first.code ? -1 : 0;
}

static size_t count_items(const struct collateral *bag)
{
    size_t n = 0;

    for (size_t i = 0; i < collateral_n(bag); i++) {
        n += collateral_at(bag, i)->kind == ITEM_OCSP;
    }
    return n;
}

int nvidia_ocsp_check(struct certs *store, const struct collateral *bag,
                      const struct nvidia_chain *c, const struct nvidia_anchors *anchors,
                      int64_t at_ms, int *ret_all, struct err *e)
{
    size_t items = count_items(bag), good = 0, asked = 0;

    for (size_t i = 1; items && i + 1 < c->n; i++, asked++) {
        const struct question q = {
            .store = store, .chain = c, .anchors = anchors, .at = i, .at_ms = at_ms};
        int rc = ask(&q, bag, e);
        if (rc < 0) {
            return -1;
        }
        good += (size_t)rc;
    }
    if (items && !good) {
        return err_refuse(e, ERR_DENIED, "collateral.ocsp",
                          "answers about certificates of this device's chain", "%zu about others",
                          items);
    }
    *ret_all = items && good == asked;
    return 0;
}

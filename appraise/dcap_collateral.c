/* Which collateral an appraisal uses. What stands in one set (a file of all that a verifier needs)
 * is used whole or refused; loose items are chosen from: those that fit the quote and the time, the
 * highest evaluation number first. Where a class of collateral is absent the check is not made and
 * said to be so; where it is there and nothing of it fits, that is a refusal.
 */
#include "appraise/dcap_int.h"

#include <strings.h>

#include "appraise/certs_int.h"
#include "appraise/dcap_roots.h"

/* A signed object with what was made of it, kept with the item. */
struct parsed {
    void *object;
    void (*object_free)(void *object);
    uint8_t signer[32]; /* SHA-256 of the certificate whose key was found to have signed it */
    int is_signed;
};

static void parsed_free(void *p)
{
    struct parsed *x = p;

    x->object_free(x->object);
    free(x);
}

/* ---- signed objects -------------------------------------------------------------------------- */

static int parse_item(struct item *i, struct err *e)
{
    struct parsed *p;
    void *object;
    int rc;

    if (i->parsed) {
        return 0;
    }
    if (i->kind == ITEM_TCB_INFO) {
        struct tcb_info *t;
        rc = tcb_info_parse(buf_bytes(&i->raw), &t, e);
        object = rc ? NULL : t;
    } else {
        struct qe_identity *q;
        rc = qe_identity_parse(buf_bytes(&i->raw), &q, e);
        object = rc ? NULL : q;
    }
    if (rc) {
        return -1;
    }
    p = xcalloc(1, sizeof(*p));
    p->object = object;
    p->object_free = i->kind == ITEM_TCB_INFO ? tcb_info_free : qe_identity_free;
    i->parsed = p;
    i->parsed_free = parsed_free;
    return 0;
}

static const struct tcb_info *tcb_info_of(const struct item *i)
{
    return ((const struct parsed *)i->parsed)->object;
}

static const struct qe_identity *qe_identity_of(const struct item *i)
{
    return ((const struct parsed *)i->parsed)->object;
}

static void use_dates(struct dcap_run *run, int64_t issued_ms, int64_t expires_ms)
{
    struct dcap_result *r = &run->r;

    r->earliest_issue_ms = issued_ms < r->earliest_issue_ms ? issued_ms : r->earliest_issue_ms;
    r->latest_issue_ms = issued_ms > r->latest_issue_ms ? issued_ms : r->latest_issue_ms;
    if (expires_ms < r->earliest_expiration_ms) {
        r->earliest_expiration_ms = expires_ms;
    }
}

static int check_signer(struct dcap_run *run, const char *what, struct cert *const *chain, size_t n)
{
    char clause[64], cn[128];

    snprintf(clause, sizeof(clause), "%s.chain", what);
    if (n != 2) {
        return clause_refuse(run->e, ERR_INVALID, clause, "", "signing certificate and root",
                             n < 2 ? "fewer certificates" : "more certificates");
    }
    cert_subject_cn(chain[0], cn);
    if (!strstr(cn, "SGX TCB Signing")) {
        return clause_refuse(run->e, ERR_DENIED, clause, "subject", "Intel SGX TCB Signing", cn);
    }
    if (dcap_check_chain(run, clause, chain, n)) {
        return -1;
    }
    if (run->r.root_crl && crl_has(run->r.root_crl, chain[0])) {
        return clause_refuse(run->e, ERR_DENIED, clause, "revocation",
                             "a signing certificate that is not revoked", "revoked");
    }
    return 0;
}

static int check_signature(struct dcap_run *run, const char *what, struct item *i,
                           struct cert *signer)
{
    struct parsed *p = i->parsed;
    const struct ec_key *key;
    char clause[64];

    if (p->is_signed && memcmp(p->signer, signer->sha256, 32) == 0) {
        return 0;
    }
    snprintf(clause, sizeof(clause), "%s.signature", what);
    if (cert_ec_key(signer, EC_P256, clause, &key, run->e) ||
        ec_verify(clause, key, buf_bytes(&i->raw), i->signature, run->e)) {
        return -1;
    }
    memcpy(p->signer, signer->sha256, 32);
    p->is_signed = 1;
    return 0;
}

static struct cert *root_of(struct dcap_run *run, struct cert *c)
{
    struct err ignored;

    for (size_t i = 0; i < run->n_anchors; i++) {
        struct cert *root = (struct cert *)(uintptr_t)run->anchors[i];
        if (cert_signed_by(run->certs, "root", c, root, &ignored) == 0) {
            return root;
        }
    }
    return NULL;
}

/* By a signing certificate of the bag, or one that everybody has. */
static int verify_by(struct dcap_run *run, const char *what, struct item *i, struct cert *signer)
{
    struct cert *chain[2] = {signer, root_of(run, signer)};

    return check_signer(run, what, chain, chain[1] ? 2 : 1) || check_signature(run, what, i, signer)
               ? -1
               : 0;
}

static int is_signer(const struct cert *c)
{
    char cn[128];

    cert_subject_cn(c, cn);
    return strstr(cn, "SGX TCB Signing") != NULL;
}

static int verify_by_any(struct dcap_run *run, const char *what, struct item *i)
{
    struct err *e = run->e, why = {0}, first = {0};
    int rc = -1;

    run->e = &why;
    for (size_t k = 0; rc && k < collateral_n(run->collateral) + dcap_n_known(); k++) {
        struct cert *c = NULL;
        if (k < collateral_n(run->collateral)) {
            c = collateral_at(run->collateral, k)->cert;
        } else if (dcap_known(run->certs, k - collateral_n(run->collateral), &c, &why)) {
            continue;
        }
        if (!c || !is_signer(c)) {
            continue;
        }
        rc = verify_by(run, what, i, c);
        if (rc && !first.code) {
            first = why;
        }
    }
    run->e = e;
    if (rc) {
        *e = first;
    }
    return rc;
}

static int verify_signed(struct dcap_run *run, const char *what, struct item *i)
{
    if (i->n_chain) {
        return check_signer(run, what, i->chain, i->n_chain) ||
                       check_signature(run, what, i, i->chain[0])
                   ? -1
                   : 0;
    }
    return verify_by_any(run, what, i);
}

static int check_dates(struct dcap_run *run, const char *what, int64_t issue_ms, int64_t next_ms)
{
    return check_not_before(what, "issue_date", issue_ms, run->now_ms, run->e) ||
                   check_not_after(what, "next_update", next_ms, run->now_ms, run->e)
               ? -1
               : 0;
}

/* ---- does it fit? ---------------------------------------------------------------------------- */

static int fits_tcb_info(struct dcap_run *run, const struct item *i)
{
    static const char what[] = "collateral.tcb_info";
    const struct tcb_info *t = tcb_info_of(i);
    int is_tdx = run->q->tee == DCAP_TEE_TDX;

    if (t->is_tdx != is_tdx) {
        return clause_refuse(run->e, ERR_DENIED, what, "id", is_tdx ? "TDX" : "SGX",
                             t->is_tdx ? "TDX" : "SGX");
    }
    if (memcmp(t->fmspc, run->r.pck.fmspc, 6) != 0) {
        _cleanup_free_ char *expected = hex_encode(run->r.pck.fmspc, 6);
        _cleanup_free_ char *actual = hex_encode(t->fmspc, 6);
        return clause_refuse(run->e, ERR_DENIED, what, "fmspc", expected, actual);
    }
    if (memcmp(t->pce_id, run->r.pck.pce_id, 2) != 0) {
        _cleanup_free_ char *expected = hex_encode(run->r.pck.pce_id, 2);
        _cleanup_free_ char *actual = hex_encode(t->pce_id, 2);
        return clause_refuse(run->e, ERR_DENIED, what, "pce_id", expected, actual);
    }
    return check_dates(run, what, t->issue_ms, t->next_ms);
}

static int fits_qe_identity(struct dcap_run *run, const struct item *i)
{
    const struct qe_identity *q = qe_identity_of(i);
    const char *expected = run->q->tee == DCAP_TEE_TDX ? "TD_QE" : "QE";

    if (!streq(q->id, expected)) {
        return clause_refuse(run->e, ERR_DENIED, "collateral.qe_identity", "id", expected, q->id);
    }
    return check_dates(run, "collateral.qe_identity", q->issue_ms, q->next_ms);
}

static int64_t evaluation_of(const struct item *i)
{
    return i->kind == ITEM_TCB_INFO ? tcb_info_of(i)->evaluation : qe_identity_of(i)->evaluation;
}

static int64_t issued_of(const struct item *i)
{
    return i->kind == ITEM_TCB_INFO ? tcb_info_of(i)->issue_ms : qe_identity_of(i)->issue_ms;
}

static int good_signed(struct dcap_run *run, const char *what, struct item *i)
{
    return parse_item(i, run->e) ||
                   (i->kind == ITEM_TCB_INFO ? fits_tcb_info(run, i) : fits_qe_identity(run, i)) ||
                   verify_signed(run, what, i)
               ? -1
               : 0;
}

/* The best item of that kind and set that fits and holds: 1 and the item; 0 there is none of that
 * kind; -1 there is, and none will do. */
static int choose_signed(struct dcap_run *run, uint32_t set, enum item_kind kind, const char *what,
                         const struct item **ret)
{
    struct err *e = run->e, why = {0}, first = {0};
    const struct item *best = NULL;
    size_t seen = 0;

    run->e = &why;
    for (size_t k = 0; k < collateral_n(run->collateral); k++) {
        struct item *i = collateral_at(run->collateral, k);
        if (i->kind != kind || i->set != set) {
            continue;
        }
        seen++;
        if (good_signed(run, what, i)) {
            /* a misfit says less than something that fits and does not hold */
            if (!first.code || strstr(first.clause, ".fmspc") || strstr(first.clause, ".id")) {
                first = why;
            }
        } else if (!best || evaluation_of(i) > evaluation_of(best) ||
                   (evaluation_of(i) == evaluation_of(best) && issued_of(i) > issued_of(best))) {
            best = i;
        }
    }
    run->e = e;
    *ret = best;
    if (!best && seen) {
        *e = first;
        return -1;
    }
    return best != NULL;
}

/* ---- CRLs ------------------------------------------------------------------------------------ */

/* Whether a loose CRL is one of those that this CA's would be among. */
static int same_class(const struct crl *c, const struct cert *ca, int of_root)
{
    return crl_is_of(c, ca) || (!of_root && crl_issuer_has(c, "SGX PCK"));
}

/* As choose_signed, of the CRLs of `ca`. */
static int choose_crl(struct dcap_run *run, uint32_t set, const char *role, struct cert *ca,
                      int of_root, const char *what, const struct crl **ret)
{
    struct err *e = run->e, why = {0}, first = {0};
    const struct crl *best = NULL;
    size_t seen = 0;

    run->e = &why;
    for (size_t k = 0; k < collateral_n(run->collateral); k++) {
        struct item *i = collateral_at(run->collateral, k);
        if (i->kind != ITEM_CRL || i->set != set ||
            (set ? !streq(i->role, role) : !same_class(i->crl, ca, of_root))) {
            continue;
        }
        seen++;
        if (crl_verify(run->certs, what, i->crl, ca, run->now_ms, &why)) {
            first = first.code && !strstr(first.clause, ".issuer") ? first : why;
        } else if (!best || crl_this_update_ms(i->crl) > crl_this_update_ms(best)) {
            best = i->crl;
        }
    }
    run->e = e;
    *ret = best;
    if (!best && seen) {
        *e = first;
        return -1;
    }
    if (best) {
        use_dates(run, crl_this_update_ms(best), crl_next_update_ms(best));
    }
    return best != NULL;
}

static int check_revocation(struct dcap_run *run, uint32_t set)
{
    struct dcap_result *r = &run->r;
    struct cert *root = r->chain[2], *ca = r->chain[1];
    int of_root = choose_crl(run, set, "root_ca_crl", root, 1, "collateral.root_crl", &r->root_crl);
    int of_ca = of_root < 0
                    ? -1
                    : choose_crl(run, set, "pck_crl", ca, 0, "collateral.pck_crl", &r->pck_crl);

    if (of_root < 0 || of_ca < 0) {
        return -1;
    }
    r->unchecked |= (of_root ? 0u : DCAP_NO_ROOT_CRL) | (of_ca ? 0u : DCAP_NO_PCK_CRL);
    if (r->root_crl && crl_has(r->root_crl, ca)) {
        return err_refuse(run->e, ERR_DENIED, "evidence.pck_chain[1].revocation",
                          "a CA that is not revoked", "revoked");
    }
    if (r->pck_crl && crl_has(r->pck_crl, r->chain[0])) {
        return err_refuse(run->e, ERR_DENIED, "evidence.pck_chain[0].revocation",
                          "a PCK certificate that is not revoked", "revoked");
    }
    return 0;
}

/* ---- one view of the collateral -------------------------------------------------------------- */

static int check_floor(struct dcap_run *run)
{
    const struct appraisal_policy *p = run->policy;
    char key[64];

    if (!p->floor || !run->r.tcb_info) {
        return 0;
    }
    _cleanup_free_ char *fmspc = hex_encode(run->r.tcb_info->fmspc, 6);
    snprintf(key, sizeof(key), "tcb/%s/%s", run->r.tcb_info->is_tdx ? "tdx" : "sgx", fmspc);
    return p->floor(p->floor_arg, key, run->r.tcb_info->evaluation, run->e);
}

static int use_signed(struct dcap_run *run, uint32_t set)
{
    struct dcap_result *r = &run->r;
    const struct item *info, *identity;
    int has_info = choose_signed(run, set, ITEM_TCB_INFO, "collateral.tcb_info", &info);
    int has_identity = has_info < 0 ? -1
                                    : choose_signed(run, set, ITEM_QE_IDENTITY,
                                                    "collateral.qe_identity", &identity);

    if (has_info < 0 || has_identity < 0) {
        return -1;
    }
    r->tcb_info = has_info ? tcb_info_of(info) : NULL;
    r->qe_identity = has_identity ? qe_identity_of(identity) : NULL;
    r->unchecked |= (has_info ? 0u : DCAP_NO_TCB_INFO) | (has_identity ? 0u : DCAP_NO_QE_IDENTITY);
    r->tcb.status = TCB_UNVERIFIED;
    if (r->qe_identity) {
        use_dates(run, r->qe_identity->issue_ms, r->qe_identity->next_ms);
        if (qe_identity_check(r->qe_identity, run->q->qe_report, run->e)) {
            return -1;
        }
    }
    if (r->tcb_info) {
        use_dates(run, r->tcb_info->issue_ms, r->tcb_info->next_ms);
    }
    return r->tcb_info ? tcb_evaluate(r->tcb_info, r->qe_identity, &r->pck, run->q, &r->tcb, run->e)
                       : 0;
}

static int use_view(struct dcap_run *run, uint32_t set)
{
    return check_revocation(run, set) || use_signed(run, set) || check_floor(run) ? -1 : 0;
}

static uint32_t highest_set(const struct collateral *c)
{
    uint32_t n = 0;

    for (size_t i = 0; i < collateral_n(c); i++) {
        uint32_t set = collateral_at(c, i)->set;
        n = set > n ? set : n;
    }
    return n;
}

static int has_loose(const struct collateral *c)
{
    for (size_t i = 0; i < collateral_n(c); i++) {
        const struct item *x = collateral_at(c, i);
        if (!x->set && (x->kind == ITEM_TCB_INFO || x->kind == ITEM_QE_IDENTITY)) {
            return 1;
        }
    }
    return 0;
}

static int64_t evaluation_used(const struct dcap_result *r)
{
    return r->tcb_info ? r->tcb_info->evaluation : -1;
}

int dcap_use_collateral(struct dcap_run *run)
{
    uint32_t sets = highest_set(run->collateral);
    struct dcap_result before = run->r, best = run->r;
    struct err *e = run->e, first = {0};
    int found = 0;

    for (uint32_t set = 0; set <= sets; set++) {
        struct err why = {0};
        if (!set && sets && !has_loose(run->collateral)) {
            continue; /* loose certificates only: they belong to the sets */
        }
        run->r = before;
        run->e = &why;
        if (use_view(run, set)) {
            first = first.code && !strstr(first.clause, ".fmspc") ? first : why;
        } else if (!found || evaluation_used(&run->r) > evaluation_used(&best)) {
            best = run->r;
            found = 1;
        }
    }
    run->e = e;
    run->r = best;
    if (!found) {
        *e = first;
    }
    return found ? 0 : -1;
}

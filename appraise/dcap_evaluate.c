/* Which TCB level a platform is on, as Intel's QVL decides it. */
#include "appraise/dcap_tcb.h"

#include <strings.h>

/* ---- matching -------------------------------------------------------------------------------- */

static int all_at_least(const uint8_t *have, const uint16_t *want, size_t from)
{
    for (size_t i = from; i < 16; i++) {
        if (have[i] < want[i]) {
            return 0;
        }
    }
    return 1;
}

/* The highest level that the platform reaches; NULL: none. With a TDX module of its own identity
 * (TEE_TCB_SVN[1] > 0) the first two components are the module's business. */
static const struct tcb_level *match_level(const struct tcb_info *t, const struct pck *p,
                                           const uint8_t *tee_svn)
{
    for (size_t i = 0; i < t->n_levels; i++) {
        const struct tcb_level *l = &t->levels[i];
        if (all_at_least(p->sgx_svn, l->sgx, 0) && p->pce_svn >= l->pce_svn &&
            (!tee_svn || all_at_least(tee_svn, l->tdx, tee_svn[1] ? 2 : 0))) {
            return l;
        }
    }
    return NULL;
}

static const struct isv_level *match_isv(const struct isv_level *v, size_t n, unsigned svn)
{
    for (size_t i = 0; i < n; i++) {
        if (v[i].isv_svn <= svn) {
            return &v[i];
        }
    }
    return NULL;
}

/* ---- TDX modules ----------------------------------------------------------------------------- */

static const struct tdx_module *find_module(const struct tcb_info *t, unsigned major)
{
    char id[16];

    snprintf(id, sizeof(id), "TDX_%02X", major);
    for (size_t i = 0; i < t->n_modules; i++) {
        if (strcasecmp(t->modules[i].id, id) == 0) {
            return &t->modules[i];
        }
    }
    return NULL;
}

static int check_module(const struct tcb_info *t, const struct dcap_quote *q, struct err *e)
{
    const uint8_t *svn = q->body.p + TD_TCB_SVN, *attributes = q->body.p + TD_SEAMATTRIBUTES;
    const struct tdx_module *m = t->is_tdx ? &t->module : NULL;
    uint8_t any = 0;

    if (svn[1]) {
        m = find_module(t, svn[1]);
    }
    if (!m) {
        return err_refuse(e, ERR_DENIED, "evidence.tdx_module",
                          "a TDX module that the TCB info knows", "TDX_%02X", svn[1]);
    }
    if (memcmp(q->body.p + TD_MRSIGNERSEAM, m->mrsigner, 48) != 0) {
        _cleanup_free_ char *expected = hex_encode(m->mrsigner, 48);
        _cleanup_free_ char *actual = hex_encode(q->body.p + TD_MRSIGNERSEAM, 48);
        return err_refuse(e, ERR_DENIED, "evidence.tdx_module.mrsignerseam", expected, "%s",
                          actual);
    }
    for (size_t i = 0; i < 8; i++) {
        any |=
            attributes[i] | (uint8_t)((attributes[i] & m->attributes_mask[i]) ^ m->attributes[i]);
    }
    if (any) {
        _cleanup_free_ char *actual = hex_encode(attributes, 8);
        return err_refuse(e, ERR_DENIED, "evidence.tdx_module.seamattributes", "0000000000000000",
                          "%s", actual);
    }
    return 0;
}

/* ---- putting parts together ------------------------------------------------------------------ */

static enum tcb_status converge(enum tcb_status platform, enum tcb_status part)
{
    if (platform == TCB_REVOKED || part == TCB_REVOKED) {
        return TCB_REVOKED;
    }
    if (part != TCB_OUT_OF_DATE) {
        return platform;
    }
    switch (platform) {
    case TCB_UP_TO_DATE:
    case TCB_SW_HARDENING_NEEDED:
        return TCB_OUT_OF_DATE;
    case TCB_CONFIGURATION_NEEDED:
    case TCB_CONFIGURATION_AND_SW_HARDENING_NEEDED:
        return TCB_OUT_OF_DATE_CONFIGURATION_NEEDED;
    case TCB_NONE:
    case TCB_UNVERIFIED:
    case TCB_OUT_OF_DATE:
    case TCB_OUT_OF_DATE_CONFIGURATION_NEEDED:
    case TCB_TD_RELAUNCH_ADVISED:
    case TCB_TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED:
    case TCB_REVOKED:
    case TCB_NOT_SUPPORTED:
    case TCB_STATUS_N:
        break;
    }
    return platform;
}

static void take_word(struct tcb_verdict *v, const struct tcb_word *w)
{
    v->status = converge(v->status, w->status);
    v->date_ms = w->date_ms < v->date_ms ? w->date_ms : v->date_ms;
    if (w->advisories && v->n_advisories < ARRAY_LEN(v->advisories)) {
        v->advisories[v->n_advisories++] = w->advisories;
    }
}

/* Platform, module and QE at the SVN given (NULL for SGX). */
static struct tcb_verdict evaluate(const struct tcb_info *t, const struct qe_identity *qe,
                                   const struct pck *pck, const struct dcap_quote *q,
                                   const uint8_t *tee_svn)
{
    static const struct tcb_verdict none = {.status = TCB_NOT_SUPPORTED};
    const struct tcb_level *level = match_level(t, pck, tee_svn);
    const struct isv_level *of_qe =
        qe ? match_isv(qe->levels, qe->n_levels, dcap_u16(q->qe_report + SGX_ISVSVN)) : NULL;
    struct tcb_verdict v = {.date_ms = INT64_MAX};

    if (!level || (qe && !of_qe)) {
        return none;
    }
    v.status = level->word.status;
    take_word(&v, &level->word);
    if (tee_svn && tee_svn[1]) {
        const struct tdx_module *m = find_module(t, tee_svn[1]);
        const struct isv_level *of_module =
            m ? match_isv(m->levels, m->n_levels, tee_svn[0]) : NULL;
        if (!of_module) {
            return none;
        }
        take_word(&v, &of_module->word);
    }
    if (of_qe) {
        take_word(&v, &of_qe->word);
    }
    return v;
}

static int needs_configuration(enum tcb_status s)
{
    return s == TCB_CONFIGURATION_NEEDED || s == TCB_CONFIGURATION_AND_SW_HARDENING_NEEDED ||
           s == TCB_OUT_OF_DATE_CONFIGURATION_NEEDED;
}

/* The TD was launched on what is out of date now, and its platform has been updated under it. */
static enum tcb_status relaunch(enum tcb_status launch, enum tcb_status current)
{
    int old = launch == TCB_OUT_OF_DATE || launch == TCB_OUT_OF_DATE_CONFIGURATION_NEEDED;
    int good = current == TCB_UP_TO_DATE || current == TCB_SW_HARDENING_NEEDED ||
               current == TCB_CONFIGURATION_NEEDED ||
               current == TCB_CONFIGURATION_AND_SW_HARDENING_NEEDED;

    if (!old || !good) {
        return launch;
    }
    return needs_configuration(launch) || needs_configuration(current)
               ? TCB_TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
               : TCB_TD_RELAUNCH_ADVISED;
}

int tcb_evaluate(const struct tcb_info *t, const struct qe_identity *qe, const struct pck *pck,
                 const struct dcap_quote *q, struct tcb_verdict *ret, struct err *e)
{
    const uint8_t *svn = q->tee == DCAP_TEE_TDX ? q->body.p + TD_TCB_SVN : NULL;

    if (svn && check_module(t, q, e)) {
        return -1;
    }
    struct tcb_verdict v = evaluate(t, qe, pck, q, svn);
    if (q->body_type == DCAP_BODY_TD_15 || q->body_type == DCAP_BODY_TD_15EX) {
        struct tcb_verdict now = evaluate(t, qe, pck, q, q->body.p + TD_TCB_SVN_2);
        enum tcb_status launch = v.status;
        v.status = relaunch(launch, now.status);
        if (now.status == TCB_NOT_SUPPORTED) {
            v = now; /* nobody can say what it runs on: as if it had been launched on that */
        }
        v.launch = launch;
        v.current = now.status;
    }
    *ret = v;
    return 0;
}

/* ---- the quoting enclave --------------------------------------------------------------------- */

static int masked_equal(const uint8_t *have, const uint8_t *mask, const uint8_t *want, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if ((have[i] & mask[i]) != want[i]) {
            return 0;
        }
    }
    return 1;
}

static int differs(struct err *e, const char *field, const uint8_t *want, const uint8_t *have,
                   size_t n)
{
    _cleanup_free_ char *expected = hex_encode(want, n), *actual = hex_encode(have, n);
    char clause[64];

    snprintf(clause, sizeof(clause), "evidence.qe_report.%s", field);
    return err_refuse(e, ERR_DENIED, clause, expected, "%s", actual);
}

int qe_identity_check(const struct qe_identity *qe, const uint8_t report[SGX_REPORT_BYTES],
                      struct err *e)
{
    if (!masked_equal(report + SGX_MISCSELECT, qe->miscselect_mask, qe->miscselect, 4)) {
        return differs(e, "miscselect", qe->miscselect, report + SGX_MISCSELECT, 4);
    }
    if (!masked_equal(report + SGX_ATTRIBUTES, qe->attributes_mask, qe->attributes, 16)) {
        return differs(e, "attributes", qe->attributes, report + SGX_ATTRIBUTES, 16);
    }
    if (memcmp(report + SGX_MRSIGNER, qe->mrsigner, 32) != 0) {
        return differs(e, "mrsigner", qe->mrsigner, report + SGX_MRSIGNER, 32);
    }
    if (dcap_u16(report + SGX_ISVPRODID) != qe->isv_prod_id) {
        char expected[16];
        snprintf(expected, sizeof(expected), "%u", qe->isv_prod_id);
        return err_refuse(e, ERR_DENIED, "evidence.qe_report.isvprodid", expected, "%u",
                          dcap_u16(report + SGX_ISVPRODID));
    }
    return 0;
}

#include "appraise/dcap.h"

#include "appraise/ccel.h"
#include "appraise/evidence.h"

#define QUOTE_MIN_BYTES 1000u

static int is_quote(struct bytes b)
{
    return b.n >= QUOTE_MIN_BYTES && b.p[0] >= 1 && b.p[0] <= 8 && !b.p[1];
}

/* ---- what follows ---------------------------------------------------------------------------- */

static int is_debug(const struct dcap_quote *q)
{
    return q->tee == DCAP_TEE_TDX ? q->body.p[TD_ATTRIBUTES] & 0x01
                                  : q->body.p[SGX_ATTRIBUTES] & 0x02;
}

static int hardware_of(enum tcb_status s)
{
    switch (s) {
    case TCB_UP_TO_DATE:
        return 2;
    case TCB_REVOKED:
    case TCB_NOT_SUPPORTED:
        return 96;
    case TCB_NONE:
    case TCB_UNVERIFIED:
    case TCB_SW_HARDENING_NEEDED:
    case TCB_CONFIGURATION_NEEDED:
    case TCB_CONFIGURATION_AND_SW_HARDENING_NEEDED:
    case TCB_OUT_OF_DATE:
    case TCB_OUT_OF_DATE_CONFIGURATION_NEEDED:
    case TCB_TD_RELAUNCH_ADVISED:
    case TCB_TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED:
    case TCB_STATUS_N:
        break;
    }
    return 32;
}

static json_t *unchecked_json(unsigned unchecked)
{
    static const struct {
        unsigned bit;
        const char *name;
    } names[] = {{DCAP_NO_ROOT_CRL, "root_crl"},
                 {DCAP_NO_PCK_CRL, "pck_crl"},
                 {DCAP_NO_TCB_INFO, "tcb_info"},
                 {DCAP_NO_QE_IDENTITY, "qe_identity"}};
    json_t *list = unchecked ? json_array() : NULL;

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (unchecked & names[i].bit) {
            json_array_append_new(list, json_string(names[i].name));
        }
    }
    return list;
}

void dcap_conclude(const struct dcap_quote *q, const struct dcap_result *r, int64_t now_ms,
                   json_t *claims, struct appraisal *ret)
{
    *ret = (struct appraisal){.claims = claims,
                              .policy_id = "coffer/dcap/v1",
                              .tcb_status = r->tcb.status,
                              .advisories = json_incref(json_object_get(claims, "advisory_ids")),
                              .tier = TIER_HARDWARE,
                              .unchecked = unchecked_json(r->unchecked)};
    ret->vector[EAR_HARDWARE] = hardware_of(r->tcb.status);
    if ((r->unchecked || now_ms > r->earliest_expiration_ms) && ret->vector[EAR_HARDWARE] < 32) {
        ret->vector[EAR_HARDWARE] = 32; /* nobody knows whether it is revoked by now */
    }
    ret->vector[EAR_CONFIGURATION] = is_debug(q) ? 96 : 2;
    ret->vector[EAR_INSTANCE_IDENTITY] = 2;
    ret->vector[EAR_RUNTIME_OPAQUE] = is_debug(q) ? 96 : 2;
}

/* ---- the appraisers -------------------------------------------------------------------------- */

/* A TD's event log beside the quote, which it must lead to. */
static int use_eventlog(const json_t *wrap, const struct dcap_quote *q, json_t *claims,
                        struct err *e)
{
    const char *text = json_string_value(json_object_get(wrap, "cc_eventlog"));
    _cleanup_(eventlog_done) struct eventlog l = {0};
    _cleanup_buf_ struct buf log = BUF_INIT(EVENTLOG_MAX_BYTES);

    if (!text || !*text || q->tee != DCAP_TEE_TDX) {
        return 0;
    }
    if (evidence_text("evidence.cc_eventlog", BYTES_STR(text), &log, e) ||
        ccel_check(buf_bytes(&log), q->body.p + TD_RTMR0, &l, e)) {
        return -1;
    }
    json_object_set_new(claims, "uefi_event_logs", ccel_claims(&l));
    return 0;
}

static int appraise(uint32_t tee, const struct appraisal_input *in,
                    const struct appraisal_policy *policy, struct appraisal *ret, struct err *e)
{
    _cleanup_buf_ struct buf scratch = BUF_INIT(EVIDENCE_JSON_MAX_BYTES);
    _cleanup_json_ json_t *wrap = NULL;
    struct dcap_quote q;
    struct dcap_result r;
    struct bytes raw;

    if (evidence_open(in->evidence, is_quote, "quote", &scratch, &raw, &wrap, e) ||
        dcap_quote_parse(raw, &q, e)) {
        return -1;
    }
    if (q.tee != tee) {
        return err_refuse(e, ERR_INVALID, "evidence.quote.tee_type",
                          tee == DCAP_TEE_TDX ? "0x81 (TDX)" : "0 (SGX)", "0x%x", q.tee);
    }
    if (dcap_verify(&q, in->collateral, policy, in->now_ms, &r, e) ||
        evidence_report_data(in->report_data, dcap_report_data(&q), e)) {
        return -1;
    }
    _cleanup_json_ json_t *claims = dcap_claims(&q, &r, in->now_ms);
    if (use_eventlog(wrap, &q, claims, e)) {
        return -1;
    }
    dcap_conclude(&q, &r, in->now_ms, json_incref(claims), ret);
    return 0;
}

int tdx_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                 struct appraisal *ret, struct err *e)
{
    return appraise(DCAP_TEE_TDX, in, policy, ret, e);
}

int sgx_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                 struct appraisal *ret, struct err *e)
{
    return appraise(DCAP_TEE_SGX, in, policy, ret, e);
}

/* ---- what it needs --------------------------------------------------------------------------- */

void dcap_needs(struct bytes evidence, struct needs *ret)
{
    _cleanup_buf_ struct buf scratch = BUF_INIT(EVIDENCE_JSON_MAX_BYTES);
    _cleanup_(certs_freep) struct certs *certs = certs_new(CERT_CHAIN_MAX);
    _cleanup_json_ json_t *wrap = NULL;
    struct cert *chain[3];
    struct dcap_quote q;
    struct bytes raw;
    struct pck pck;
    struct err e;
    char ca[128];
    size_t n;

    if (evidence_open(evidence, is_quote, "quote", &scratch, &raw, &wrap, &e) ||
        dcap_quote_parse(raw, &q, &e) || q.cert_type != DCAP_CERT_PCK_CHAIN ||
        certs_add_pem(certs, "pck", q.cert_data, chain, 3, &n, &e) || pck_of(chain[0], &pck, &e)) {
        return;
    }
    const char *tee = q.tee == DCAP_TEE_TDX ? "tdx" : "sgx";
    _cleanup_free_ char *fmspc = hex_encode(pck.fmspc, 6);
    cert_issuer_cn(chain[0], ca);
    needs_add(ret, NEED_PCS, "%s/certification/v4/tcb?fmspc=%s", tee, fmspc);
    needs_add(ret, NEED_PCS, "%s/certification/v4/qe/identity", tee);
    needs_add(ret, NEED_PCS, "sgx/certification/v4/pckcrl?ca=%s&encoding=der",
              strstr(ca, "Platform") ? "platform" : "processor");
    needs_add(ret, NEED_ROOT_CRL, "IntelSGXRootCA.der");
}

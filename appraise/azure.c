#include "appraise/azure.h"

#include <openssl/crypto.h>

#include "appraise/dcap.h"
#include "appraise/evidence.h"
#include "appraise/snp.h"

#define OWN_CERTS_MAX 64u
#define TD_QUOTE_MAX_BYTES (64u * 1024)
#define VCEK_MAX_BYTES (64u * 1024)
#define PCR_INIT_DATA 8u

/* What the JSON held, and what was found to be true of it. */
struct run {
    json_t *json;     /* the evidence */
    const json_t *of; /* the object in it that has the members; borrowed */
    struct buf report;
    struct azure_hcl hcl;
    json_t *var_data;
    struct tpm_quote_json quote;
    struct tpm_quote q;
};

static void run_done(struct run *r)
{
    json_decref(r->json);
    json_decref(r->var_data);
    buf_done(&r->report);
    tpm_quote_json_done(&r->quote);
}

/* Either of two names: those of version 0 are others. */
static const json_t *member(const json_t *j, const char *name, const char *old)
{
    const json_t *v = json_object_get(j, name);

    return v ? v : json_object_get(j, old);
}

static int take_json(struct bytes evidence, struct run *r, struct err *e)
{
    if (evidence_json(evidence, &r->json, e)) {
        return -1;
    }
    if (!r->json) {
        return err_refuse(e, ERR_INVALID, "evidence", "a JSON object", "something else");
    }
    const json_t *inner = json_object_get(r->json, "evidence");
    r->of = json_is_object(inner) ? inner : r->json;
    const json_t *version = json_object_get(r->of, "version");
    if (version && (!json_is_integer(version) || json_integer_value(version) < 0 ||
                    json_integer_value(version) > 2)) {
        return err_refuse(e, ERR_UNSUPPORTED, "evidence.version", "0, 1 or 2", "another");
    }
    return tpm_json_bytes("evidence.hcl_report", member(r->of, "hcl_report", "report"),
                          AZURE_HCL_MAX_BYTES, &r->report, e) ||
                   azure_hcl_parse(buf_bytes(&r->report), &r->hcl, e) ||
                   tpm_quote_json_take(member(r->of, "tpm_quote", "quote"), &r->quote, e)
               ? -1
               : 0;
}

/* The quote, by the key in the run-time data, whose digest is in the report's report data. */
static int check_quote(const struct appraisal_input *in, struct run *r, struct err *e)
{
    _cleanup_(tpm_ak_done) struct tpm_ak ak = {0};
    const struct tpm_signature signature = {
        .scheme = TPM_ALG_RSASSA, .hash = TPM_ALG_SHA256, .rsa = buf_bytes(&r->quote.signature)};

    return azure_hcl_ak(&r->hcl, &ak, &r->var_data, e) ||
                   tpm_quote_verify(&ak, buf_bytes(&r->quote.message), &signature, &r->quote.bank,
                                    &r->q, e) ||
                   tpm_quote_bound(&r->q, in->nonce, in->report_data, e)
               ? -1
               : 0;
}

static int take(const struct appraisal_input *in, enum azure_kind kind, struct run *r,
                struct err *e)
{
    if (take_json(in->evidence, r, e)) {
        return -1;
    }
    if (r->hcl.kind != kind) {
        return err_refuse(e, ERR_INVALID, "evidence.hcl_report.runtime_data",
                          kind == AZURE_SNP ? "report type 2 (SNP)" : "report type 4 (TDX)", "%d",
                          (int)r->hcl.kind);
    }
    return check_quote(in, r, e);
}

/* ---- claims ---- */

static void put_hex(json_t *o, const char *name, struct bytes b)
{
    _cleanup_free_ char *hex = hex_encode(b.p, b.n);

    json_object_set_new(o, name, json_string(hex));
}

static void put_tpm(json_t *claims, const struct run *r)
{
    json_t *tpm = json_object();
    json_t *user_data = json_object_get(r->var_data, "user-data");

    tpm_put_pcrs(tpm, &r->quote.bank);
    json_object_set_new(claims, "tpm", tpm);
    put_hex(claims, "report_data", r->q.extra);
    put_hex(claims, "init_data", BYTES(r->quote.bank.v[PCR_INIT_DATA], 32));
    json_object_set(claims, "user_data", user_data ? user_data : json_null());
    json_object_set(claims, "vm_configuration",
                    json_object_get(r->var_data, "vm-configuration")
                        ? json_object_get(r->var_data, "vm-configuration")
                        : json_null());
}

/* Trustee has all of these as texts. */
static void put_text(json_t *to, const char *name, const json_t *v)
{
    if (json_is_integer(v)) {
        char text[24];
        snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(v));
        json_object_set_new(to, name, json_string(text));
    } else {
        json_object_set_new(to, name, json_string(json_is_true(v) ? "true" : "false"));
    }
}

static json_t *snp_texts(const struct snp_verified *v)
{
    static const char *const names[] = {"policy_abi_major",
                                        "policy_abi_minor",
                                        "policy_smt_allowed",
                                        "policy_migrate_ma",
                                        "policy_debug_allowed",
                                        "policy_single_socket",
                                        "reported_tcb_bootloader",
                                        "reported_tcb_tee",
                                        "reported_tcb_snp",
                                        "reported_tcb_microcode",
                                        "platform_tsme_enabled",
                                        "platform_smt_enabled",
                                        "vmpl"};
    json_t *o = json_object(), *typed = snp_claims(v);
    _cleanup_free_ char *measurement =
        b64_encode(v->report.measurement, sizeof(v->report.measurement));

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        put_text(o, names[i], json_object_get(typed, names[i]));
    }
    json_object_set_new(o, "measurement", json_string(measurement));
    json_object_set_new(o, "snp", typed);
    return o;
}

/* ---- SNP ---- */

static int take_vcek(const struct run *r, struct snp_evidence *ev, struct err *e)
{
    const json_t *v = json_object_get(r->of, "vcek");
    const char *text = json_string_value(v);
    _cleanup_buf_ struct buf der = {0};

    if (!v || json_is_null(v)) {
        return 0; /* the collateral may have it */
    }
    if (text && strstr(text, "-----BEGIN")) {
        snp_take_certs(ev, BYTES_STR(text));
        return 0;
    }
    if (tpm_json_bytes("evidence.vcek", v, VCEK_MAX_BYTES, &der, e)) {
        return -1;
    }
    snp_take_certs(ev, buf_bytes(&der));
    return 0;
}

static int verify_snp(const struct appraisal_input *in, struct certs *store, const struct run *r,
                      const struct snp_roots *roots, struct snp_verified *ret, json_t **ret_claims,
                      struct err *e)
{
    _cleanup_(snp_evidence_done) struct snp_evidence ev = {.store = store, .has_report = 1};
    _cleanup_(snp_gathered_done) struct snp_gathered g = {0};

    memcpy(ev.report, r->hcl.report.p, SNP_REPORT_BYTES);
    if (take_vcek(r, &ev, e)) {
        return -1;
    }
    snp_gather(&ev, in->collateral, &g);
    if (snp_verify(store, r->hcl.report, &g.aids, roots, in->now_ms, ret, e)) {
        return -1;
    }
    if (ret->report.vmpl) {
        return err_refuse(e, ERR_DENIED, "evidence.report.vmpl", "0, where the paravisor is", "%u",
                          ret->report.vmpl);
    }
    *ret_claims = snp_texts(ret);
    return 0;
}

static int appraise_snp(const struct appraisal_input *in, struct certs *store,
                        const struct snp_roots *roots, struct appraisal *ret, struct err *e)
{
    _cleanup_(run_done) struct run r = {0};
    struct snp_verified v;
    json_t *claims;

    if (take(in, AZURE_SNP, &r, e) || verify_snp(in, store, &r, roots, &v, &claims, e)) {
        return -1;
    }
    put_tpm(claims, &r);
    *ret = (struct appraisal){.claims = claims,
                              .policy_id = "coffer/az-snp-vtpm/v1",
                              .tcb_status = v.tcb_status,
                              .tier = TIER_HARDWARE,
                              .unchecked = v.crl ? NULL : json_pack("[s]", "crl")};
    snp_vector(&v, ret->vector);
    ret->vector[EAR_INSTANCE_IDENTITY] = 2;
    return 0;
}

int az_snp_appraise_by(const struct appraisal_input *in, const struct snp_roots *roots,
                       struct appraisal *ret, struct err *e)
{
    _cleanup_(certs_freep) struct certs *own = in->collateral ? NULL : certs_new(OWN_CERTS_MAX);

    return appraise_snp(in, own ? own : collateral_certs(in->collateral), roots, ret, e);
}

int az_snp_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                    struct appraisal *ret, struct err *e)
{
    (void)policy;
    return az_snp_appraise_by(in, &snp_amd_roots, ret, e);
}

/* ---- TDX ---- */

static int same_report_data(const struct run *r, const struct dcap_quote *q, struct err *e)
{
    if (CRYPTO_memcmp(r->hcl.report_data, dcap_report_data(q), 64) == 0) {
        return 0;
    }
    _cleanup_free_ char *expected = hex_encode(r->hcl.report_data, 64);
    _cleanup_free_ char *actual = hex_encode(dcap_report_data(q), 64);
    return err_refuse(e, ERR_DENIED, "evidence.td_quote.report_data", expected, "%s", actual);
}

int az_tdx_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                    struct appraisal *ret, struct err *e)
{
    _cleanup_(run_done) struct run r = {0};
    _cleanup_buf_ struct buf quote = {0};
    struct dcap_result verified;
    struct dcap_quote q;

    if (take(in, AZURE_TDX, &r, e) ||
        tpm_json_bytes("evidence.td_quote", json_object_get(r.of, "td_quote"), TD_QUOTE_MAX_BYTES,
                       &quote, e) ||
        dcap_quote_parse(buf_bytes(&quote), &q, e)) {
        return -1;
    }
    if (q.tee != DCAP_TEE_TDX) {
        return err_refuse(e, ERR_INVALID, "evidence.quote.tee_type", "0x81 (TDX)", "0x%x", q.tee);
    }
    if (dcap_verify(&q, in->collateral, policy, in->now_ms, &verified, e) ||
        same_report_data(&r, &q, e)) {
        return -1;
    }
    json_t *claims = dcap_claims(&q, &verified, in->now_ms);
    put_tpm(claims, &r);
    dcap_conclude(&q, &verified, in->now_ms, claims, ret);
    ret->policy_id = "coffer/az-tdx-vtpm/v1";
    return 0;
}

/* ---- what is missing ---- */

void az_snp_needs(struct bytes evidence, struct needs *ret)
{
    _cleanup_(run_done) struct run r = {0};

    if (take_json(evidence, &r, NULL) == 0 && r.hcl.kind == AZURE_SNP) {
        snp_needs(r.hcl.report, ret);
    }
}

void az_tdx_needs(struct bytes evidence, struct needs *ret)
{
    _cleanup_(run_done) struct run r = {0};
    _cleanup_buf_ struct buf quote = {0};

    if (take_json(evidence, &r, NULL) == 0 &&
        tpm_json_bytes("evidence.td_quote", json_object_get(r.of, "td_quote"), TD_QUOTE_MAX_BYTES,
                       &quote, NULL) == 0) {
        dcap_needs(buf_bytes(&quote), ret);
    }
}

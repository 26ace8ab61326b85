/* The claims of a quote, under the names that Trustee's verifier has for them. */
#include "appraise/dcap.h"

#include "appraise/when.h"

#define TD_DEBUG 0x01u

static json_t *hex(const uint8_t *p, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    char text[2 * 64 + 1];

    for (size_t i = 0; i < n && i < 64; i++) {
        text[2 * i] = digits[p[i] >> 4];
        text[2 * i + 1] = digits[p[i] & 15];
    }
    return json_stringn_nocheck(text, 2 * n);
}

static void put(json_t *o, const char *name, json_t *take)
{
    json_object_set_new_nocheck(o, name, take);
}

static void put_time(json_t *o, const char *name, int64_t ms)
{
    char text[32];

    rfc3339_utc(ms, text);
    put(o, name, json_string_nocheck(text));
}

struct field {
    const char *name;
    unsigned at, n;
};

static json_t *fields(const uint8_t *p, const struct field *f, size_t n)
{
    json_t *o = json_object();

    for (size_t i = 0; i < n; i++) {
        put(o, f[i].name, hex(p + f[i].at, f[i].n));
    }
    return o;
}

/* ---- TDX ------------------------------------------------------------------------------------- */

static const struct field tdx_header[] = {
    {"version", 0, 2},  {"att_key_type", 2, 2}, {"tee_type", 4, 4},
    {"reserved", 8, 4}, {"vendor_id", 12, 16},  {"user_data", 28, 20},
};

static const struct field td_body[] = {
    {"tcb_svn", TD_TCB_SVN, 16},
    {"mr_seam", TD_MRSEAM, 48},
    {"mrsigner_seam", TD_MRSIGNERSEAM, 48},
    {"seam_attributes", TD_SEAMATTRIBUTES, 8},
    {"td_attributes", TD_ATTRIBUTES, 8},
    {"xfam", TD_XFAM, 8},
    {"mr_td", TD_MRTD, 48},
    {"mr_config_id", TD_MRCONFIGID, 48},
    {"mr_owner", TD_MROWNER, 48},
    {"mr_owner_config", TD_MROWNERCONFIG, 48},
    {"rtmr_0", TD_RTMR0, 48},
    {"rtmr_1", TD_RTMR0 + 48, 48},
    {"rtmr_2", TD_RTMR0 + 96, 48},
    {"rtmr_3", TD_RTMR0 + 144, 48},
    {"report_data", TD_REPORTDATA, 64},
    {"tee_tcb_svn2", TD_TCB_SVN_2, 16},
    {"mr_servicetd", TD_MRSERVICETD, 48},
};
#define TD_BODY_10_FIELDS 15u

static json_t *td_attributes(const uint8_t *a)
{
    json_t *o = json_object();

    put(o, "debug", json_boolean(a[0] & TD_DEBUG));
    put(o, "septve_disable", json_boolean(a[3] & 0x10));
    put(o, "protection_keys", json_boolean(a[3] & 0x40));
    put(o, "key_locker", json_boolean(a[3] & 0x80));
    put(o, "perfmon", json_boolean(a[7] & 0x80));
    return o;
}

static void add_tdx(json_t *o, const struct dcap_quote *q)
{
    json_t *quote = json_object();
    size_t n = q->body_type == DCAP_BODY_TD_10 ? TD_BODY_10_FIELDS : ARRAY_LEN(td_body);

    put(quote, "header", fields(q->header.p, tdx_header, ARRAY_LEN(tdx_header)));
    put(quote, "body", fields(q->body.p, td_body, n));
    if (q->version == 5) {
        put(quote, "type", hex(q->header.p + 48, 2));
        put(quote, "size", hex(q->header.p + 50, 4));
    }
    put(o, "quote", quote);
    put(o, "td_attributes", td_attributes(q->body.p + TD_ATTRIBUTES));
    put(o, "init_data", hex(q->body.p + TD_MRCONFIGID, 48));
}

/* ---- SGX ------------------------------------------------------------------------------------- */

static const struct field sgx_header[] = {
    {"version", 0, 2},  {"att_key_type", 2, 2}, {"att_key_data_0", 4, 4}, {"qe_svn", 8, 2},
    {"pce_svn", 10, 2}, {"vendor_id", 12, 16},  {"user_data", 28, 20},
};

static const struct field sgx_body[] = {
    {"cpu_svn", SGX_CPUSVN, 16},
    {"misc_select", SGX_MISCSELECT, 4},
    {"reserved1", 20, 12},
    {"isv_ext_prod_id", SGX_EXT_PRODID, 16},
    {"attributes.flags", SGX_ATTRIBUTES, 8},
    {"attributes.xfrm", SGX_ATTRIBUTES + 8, 8},
    {"mr_enclave", SGX_MRENCLAVE, 32},
    {"reserved2", 96, 32},
    {"mr_signer", SGX_MRSIGNER, 32},
    {"reserved3", 160, 32},
    {"config_id", SGX_CONFIGID, 64},
    {"isv_prod_id", SGX_ISVPRODID, 2},
    {"isv_svn", SGX_ISVSVN, 2},
    {"config_svn", SGX_CONFIGSVN, 2},
    {"reserved4", 262, 42},
    {"isv_family_id", SGX_FAMILYID, 16},
    {"report_data", SGX_REPORTDATA, 64},
};

static void add_sgx(json_t *o, const struct dcap_quote *q)
{
    put(o, "header", fields(q->header.p, sgx_header, ARRAY_LEN(sgx_header)));
    put(o, "body", fields(q->body.p, sgx_body, ARRAY_LEN(sgx_body)));
    put(o, "debug", json_boolean(q->body.p[SGX_ATTRIBUTES] & 0x02));
}

/* ---- the platform ---------------------------------------------------------------------------- */

static void put_flag(json_t *o, const char *name, enum pck_bool b)
{
    if (b != PCK_UNSAID) {
        put(o, name, json_boolean(b == PCK_TRUE));
    }
}

static json_t *advisories(const struct tcb_verdict *v)
{
    json_t *list = json_array();

    for (size_t i = 0; i < v->n_advisories; i++) {
        for (size_t k = 0; k < json_array_size(v->advisories[i]); k++) {
            const json_t *id = json_array_get(v->advisories[i], k);
            size_t at = 0;
            int order = 1;
            while (at < json_array_size(list) &&
                   (order = strcmp(json_string_value(id),
                                   json_string_value(json_array_get(list, at)))) > 0) {
                at++;
            }
            if (at == json_array_size(list) || order) {
                json_array_insert_new(list, at, json_string(json_string_value(id)));
            }
        }
    }
    return list;
}

static void add_platform(json_t *o, const struct pck *p)
{
    static const char *const types[] = {"Standard", "Scalable", "ScalableWithIntegrity"};

    put(o, "fmspc", hex(p->fmspc, 6));
    put(o, "sgx_type", json_string_nocheck(types[p->sgx_type]));
    if (p->has_platform_instance_id) {
        put(o, "platform_instance_id", hex(p->platform_instance_id, 16));
    }
    put_flag(o, "is_dynamic_platform", p->dynamic_platform);
    put_flag(o, "is_cached_keys", p->cached_keys);
    put_flag(o, "is_smt_enabled", p->smt_enabled);
}

static void add_collateral(json_t *o, const struct dcap_result *r, int64_t now_ms)
{
    put(o, "tcb_status", json_string_nocheck(tcb_status_name(r->tcb.status)));
    put(o, "advisory_ids", advisories(&r->tcb));
    if (r->tcb.launch != TCB_NONE) {
        put(o, "tcb_status_launch", json_string_nocheck(tcb_status_name(r->tcb.launch)));
        put(o, "tcb_status_current", json_string_nocheck(tcb_status_name(r->tcb.current)));
    }
    if (r->tcb_info) {
        put(o, "tcb_eval_num", json_integer(r->tcb_info->evaluation));
        put(o, "collateral_expiration_status",
            json_string_nocheck(now_ms > r->earliest_expiration_ms ? "1" : "0"));
    }
    if (r->tcb.date_ms && r->tcb.date_ms != INT64_MAX) {
        put_time(o, "tcb_date", r->tcb.date_ms);
    }
    if (r->earliest_issue_ms != INT64_MAX) {
        put_time(o, "earliest_issue_date", r->earliest_issue_ms);
        put_time(o, "latest_issue_date", r->latest_issue_ms);
        put_time(o, "earliest_expiration_date", r->earliest_expiration_ms);
    }
    if (r->pck_crl) {
        put(o, "pck_crl_num", json_integer(crl_number(r->pck_crl)));
        put_time(o, "pck_crl_date", crl_this_update_ms(r->pck_crl));
    }
    if (r->root_crl) {
        put(o, "root_ca_crl_num", json_integer(crl_number(r->root_crl)));
        put_time(o, "root_ca_crl_date", crl_this_update_ms(r->root_crl));
    }
    put(o, "root_key_id", hex(r->chain[2]->sha256, 32));
}

json_t *dcap_claims(const struct dcap_quote *q, const struct dcap_result *r, int64_t now_ms)
{
    json_t *o = json_object();

    if (q->tee == DCAP_TEE_TDX) {
        add_tdx(o, q);
    } else {
        add_sgx(o, q);
    }
    put(o, "report_data", hex(dcap_report_data(q), 64));
    add_platform(o, &r->pck);
    add_collateral(o, r, now_ms);
    return o;
}

#include "appraise/snp.h"

#include <openssl/crypto.h>

#include "appraise/when.h"
#include "common/jcs.h"

#define OWN_CERTS_MAX 64u

/* AR4SI */
#define AFFIRMING 2
#define WARNING 32
#define CONTRAINDICATED 96

/* ---- claims ---- */

static void put_hex(json_t *o, const char *name, const uint8_t *p, size_t n)
{
    _cleanup_free_ char *hex = hex_encode(p, n);

    json_object_set_new(o, name, json_string(hex));
}

static void put_hex64(json_t *o, const char *name, uint64_t v)
{
    char text[24];

    snprintf(text, sizeof(text), "%016llx", (unsigned long long)v);
    json_object_set_new(o, name, json_string(text));
}

static void put_tcb(json_t *o, const char *prefix, enum snp_product p, const struct snp_tcb *t)
{
    const struct {
        const char *name;
        uint8_t v;
    } parts[] = {{"bootloader", t->bootloader},
                 {"tee", t->tee},
                 {"snp", t->snp},
                 {"microcode", t->microcode},
                 {"fmc", t->fmc}};

    for (size_t i = 0; i < (p == SNP_TURIN ? 5 : 4); i++) {
        char name[48];
        snprintf(name, sizeof(name), "%s_tcb_%s", prefix, parts[i].name);
        json_object_set_new(o, name, json_integer(parts[i].v));
    }
}

static void put_bits(json_t *o, const struct snp_report *r)
{
    const struct {
        const char *name;
        uint64_t of, bit;
    } bits[] = {
        {"policy_smt_allowed", r->policy, SNP_POLICY_SMT},
        {"policy_migrate_ma", r->policy, SNP_POLICY_MIGRATE_MA},
        {"policy_debug_allowed", r->policy, SNP_POLICY_DEBUG},
        {"policy_single_socket", r->policy, SNP_POLICY_SINGLE_SOCKET},
        {"policy_cxl_allowed", r->policy, SNP_POLICY_CXL},
        {"policy_mem_aes_256_xts", r->policy, SNP_POLICY_XTS},
        {"policy_rapl_disabled", r->policy, SNP_POLICY_RAPL_DIS},
        {"policy_ciphertext_hiding", r->policy, SNP_POLICY_CIPHERTEXT_HIDING},
        {"policy_page_swap_disabled", r->policy, SNP_POLICY_PAGE_SWAP_DISABLE},
        {"platform_smt_enabled", r->platform_info, SNP_PLATFORM_SMT},
        {"platform_tsme_enabled", r->platform_info, SNP_PLATFORM_TSME},
        {"platform_ecc_enabled", r->platform_info, SNP_PLATFORM_ECC},
        {"platform_rapl_disabled", r->platform_info, SNP_PLATFORM_RAPL_DIS},
        {"platform_ciphertext_hiding", r->platform_info, SNP_PLATFORM_CIPHERTEXT_HIDING},
        {"platform_alias_check_complete", r->platform_info, SNP_PLATFORM_ALIAS_CHECK},
        {"platform_tio_enabled", r->platform_info, SNP_PLATFORM_TIO},
    };

    for (size_t i = 0; i < ARRAY_LEN(bits); i++) {
        json_object_set_new(o, bits[i].name, json_boolean((bits[i].of & bits[i].bit) != 0));
    }
    json_object_set_new(o, "policy_abi_major", json_integer((json_int_t)(r->policy >> 8 & 0xff)));
    json_object_set_new(o, "policy_abi_minor", json_integer((json_int_t)(r->policy & 0xff)));
    put_hex64(o, "policy", r->policy);
    put_hex64(o, "platform_info", r->platform_info);
    json_object_set_new(o, "author_key_enabled", json_boolean(r->author_key_enabled));
}

static void put_digests(json_t *o, const struct snp_report *r)
{
    put_hex(o, "measurement", r->measurement, sizeof(r->measurement));
    put_hex(o, "report_data", r->report_data, sizeof(r->report_data));
    put_hex(o, "init_data", r->host_data, sizeof(r->host_data));
    put_hex(o, "chip_id", r->chip_id, sizeof(r->chip_id));
    put_hex(o, "family_id", r->family_id, sizeof(r->family_id));
    put_hex(o, "image_id", r->image_id, sizeof(r->image_id));
    put_hex(o, "id_key_digest", r->id_key_digest, sizeof(r->id_key_digest));
    put_hex(o, "author_key_digest", r->author_key_digest, sizeof(r->author_key_digest));
    put_hex(o, "report_id", r->report_id, sizeof(r->report_id));
    put_hex(o, "report_id_ma", r->report_id_ma, sizeof(r->report_id_ma));
}

static void put_firmware(json_t *o, const char *name, const struct snp_firmware *f)
{
    char text[16];

    snprintf(text, sizeof(text), "%u.%u.%u", f->major, f->minor, f->build);
    json_object_set_new(o, name, json_string(text));
}

static void put_time(json_t *o, const char *name, int64_t ms)
{
    char text[32];

    rfc3339_utc(ms, text);
    json_object_set_new(o, name, json_string(text));
}

static void put_platform(json_t *o, const struct snp_verified *v)
{
    const struct snp_report *r = &v->report;

    json_object_set_new(o, "version", json_integer(r->version));
    json_object_set_new(o, "guest_svn", json_integer(r->guest_svn));
    json_object_set_new(o, "vmpl", json_integer(r->vmpl));
    json_object_set_new(o, "product", json_string(snp_product_name(v->product)));
    json_object_set_new(o, "signing_key",
                        json_string(v->vek.kind == SNP_KEY_VCEK ? "VCEK" : "VLEK"));
    if (*v->vek.csp) {
        json_object_set_new(o, "csp_id", json_string(v->vek.csp));
    }
    if (r->version >= 3) {
        json_object_set_new(o, "cpuid_family", json_integer(r->cpuid_family));
        json_object_set_new(o, "cpuid_model", json_integer(r->cpuid_model));
        json_object_set_new(o, "cpuid_stepping", json_integer(r->cpuid_stepping));
    }
    if (r->version >= 5) {
        put_hex64(o, "launch_mit_vector", r->launch_mit_vector);
        put_hex64(o, "current_mit_vector", r->current_mit_vector);
    }
    put_firmware(o, "current_version", &r->current);
    put_firmware(o, "committed_version", &r->committed);
    json_object_set_new(o, "provisional_firmware", json_boolean(v->provisional));
    json_object_set_new(o, "chip_id_masked", json_boolean(v->chip_id_masked));
    put_time(o, "vek_not_before", v->vek.cert->not_before_ms);
    put_time(o, "vek_not_after", v->vek.cert->not_after_ms);
    if (v->crl) {
        put_time(o, "crl_this_update", crl_this_update_ms(v->crl));
        json_object_set_new(o, "crl_number", json_integer(crl_number(v->crl)));
    }
}

json_t *snp_claims(const struct snp_verified *v)
{
    json_t *o = json_object();

    put_platform(o, v);
    put_bits(o, &v->report);
    put_digests(o, &v->report);
    put_tcb(o, "reported", v->product, &v->reported);
    put_tcb(o, "current", v->product, &v->current);
    put_tcb(o, "committed", v->product, &v->committed);
    put_tcb(o, "launch", v->product, &v->launch);
    return o;
}

void snp_vector(const struct snp_verified *v, int vector[EAR_VECTOR_N])
{
    int debug = (v->report.policy & SNP_POLICY_DEBUG) != 0;
    int shared = v->report.vmpl != 0 || (v->report.policy & SNP_POLICY_MIGRATE_MA);

    vector[EAR_HARDWARE] = v->tcb_status == TCB_UP_TO_DATE ? AFFIRMING : WARNING;
    vector[EAR_CONFIGURATION] = debug ? CONTRAINDICATED : shared ? WARNING : AFFIRMING;
    vector[EAR_RUNTIME_OPAQUE] = debug ? CONTRAINDICATED : AFFIRMING;
}

/* ---- what there is to verify with ---- */

void snp_gathered_done(struct snp_gathered *g)
{
    free(g->certs);
    free(g->crls);
    *g = (struct snp_gathered){0};
}

void snp_gather(const struct snp_evidence *ev, const struct collateral *c, struct snp_gathered *ret)
{
    size_t items = collateral_n(c);
    struct snp_gathered g = {.certs = xcalloc(ev->n_certs + items + 1, sizeof(*g.certs)),
                             .crls = xcalloc(items + 1, sizeof(*g.crls))};

    for (size_t i = 0; i < ev->n_certs; i++) {
        g.certs[g.aids.n_certs++] = ev->certs[i];
    }
    if (ev->crl) {
        g.crls[g.aids.n_crls++] = ev->crl;
    }
    for (size_t i = 0; i < items; i++) {
        const struct item *x = collateral_at(c, i);
        if (x->kind == ITEM_CERT) {
            g.certs[g.aids.n_certs++] = x->cert;
        } else if (x->kind == ITEM_CRL) {
            g.crls[g.aids.n_crls++] = x->crl;
        }
    }
    g.aids.certs = g.certs;
    g.aids.crls = g.crls;
    *ret = g;
}

/* ---- the appraiser ---- */

static int check_report_data(const struct snp_report *r, const uint8_t *wanted, struct err *e)
{
    if (!wanted || CRYPTO_memcmp(r->report_data, wanted, sizeof(r->report_data)) == 0) {
        return 0;
    }
    _cleanup_free_ char *expected = hex_encode(wanted, sizeof(r->report_data));
    _cleanup_free_ char *actual = hex_encode(r->report_data, sizeof(r->report_data));
    return err_refuse(e, ERR_DENIED, "evidence.report_data", expected, "%s", actual);
}

static json_t *unchecked(const struct snp_verified *v)
{
    json_t *list = json_array();

    if (!v->crl) {
        json_array_append_new(list, json_string("crl"));
    }
    if (v->chip_id_masked) {
        json_array_append_new(list, json_string("chip_id"));
    }
    if (json_array_size(list)) {
        return list;
    }
    json_decref(list);
    return NULL;
}

static int appraise(const struct appraisal_input *in, struct certs *store,
                    const struct snp_roots *roots, struct appraisal *ret, struct err *e)
{
    _cleanup_(snp_evidence_done) struct snp_evidence ev = {0};
    _cleanup_(snp_gathered_done) struct snp_gathered g = {0};
    struct snp_verified v;

    if (snp_evidence_take(store, in->evidence, &ev, e)) {
        return -1;
    }
    snp_gather(&ev, in->collateral, &g);
    if (snp_verify(store, BYTES(ev.report, sizeof(ev.report)), &g.aids, roots, in->now_ms, &v, e) ||
        check_report_data(&v.report, in->report_data, e)) {
        return -1;
    }
    *ret = (struct appraisal){.claims = snp_claims(&v),
                              .policy_id = "coffer/snp/v1",
                              .tcb_status = v.tcb_status,
                              .tier = TIER_HARDWARE,
                              .unchecked = unchecked(&v)};
    snp_vector(&v, ret->vector);
    return 0;
}

int snp_appraise_by(const struct appraisal_input *in, const struct snp_roots *roots,
                    struct appraisal *ret, struct err *e)
{
    _cleanup_(certs_freep) struct certs *own = NULL;

    if (!in->collateral) {
        own = certs_new(OWN_CERTS_MAX);
    }
    return appraise(in, own ? own : collateral_certs(in->collateral), roots, ret, e);
}

int snp_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                 struct appraisal *ret, struct err *e)
{
    (void)policy;
    return snp_appraise_by(in, &snp_amd_roots, ret, e);
}

/* ---- what is missing ---- */

static void need_vcek(const struct snp_report *r, enum snp_product p, struct needs *ret)
{
    const struct snp_tcb t = snp_tcb_of(p, r->reported_tcb);
    _cleanup_free_ char *hwid = hex_encode(r->chip_id, p == SNP_TURIN ? 8 : SNP_CHIP_ID_BYTES);
    char fmc[16] = "";

    if (p == SNP_TURIN) {
        snprintf(fmc, sizeof(fmc), "fmcSPL=%02u&", t.fmc);
    }
    needs_add(ret, NEED_KDS, "vcek/v1/%s/%s?%sblSPL=%02u&teeSPL=%02u&snpSPL=%02u&ucodeSPL=%02u",
              snp_product_name(p), hwid, fmc, t.bootloader, t.tee, t.snp, t.microcode);
}

/* Which line a version 2 report is of, its certificate tells; without one it is Milan or Genoa,
 * which were there before version 3. */
static enum snp_product product_of(const struct snp_evidence *ev, const struct snp_report *r,
                                   int *ret_has_vek)
{
    enum snp_product p = r->product;

    for (size_t i = 0; i < ev->n_certs; i++) {
        struct snp_vek v;
        enum snp_key kind;
        if (snp_is_vek(ev->certs[i], &kind) && snp_vek_parse(ev->certs[i], &v, NULL) == 0 &&
            v.kind == r->key && (p == SNP_UNKNOWN || v.product == p)) {
            p = v.product;
            *ret_has_vek = 1;
        }
    }
    return p;
}

void snp_needs(struct bytes evidence, struct needs *ret)
{
    _cleanup_(certs_freep) struct certs *store = certs_new(OWN_CERTS_MAX);
    _cleanup_(snp_evidence_done) struct snp_evidence ev = {0};
    struct snp_report r;
    int has_vek = 0;

    if (snp_evidence_take(store, evidence, &ev, NULL) ||
        snp_report_parse(BYTES(ev.report, sizeof(ev.report)), &r, NULL)) {
        return;
    }
    enum snp_product known = product_of(&ev, &r, &has_vek);
    for (int i = SNP_MILAN; i <= SNP_TURIN; i++) {
        enum snp_product p = (enum snp_product)i;
        const char *kind = r.key == SNP_KEY_VCEK ? "vcek" : "vlek";
        if (known == SNP_UNKNOWN ? p == SNP_TURIN : p != known) {
            continue;
        }
        needs_add(ret, NEED_KDS, "%s/v1/%s/cert_chain", kind, snp_product_name(p));
        needs_add(ret, NEED_KDS, "%s/v1/%s/crl", kind, snp_product_name(p));
        if (!has_vek && r.key == SNP_KEY_VCEK) {
            need_vcek(&r, p, ret);
        }
    }
}

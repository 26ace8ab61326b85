/* Hardware evidence through the service: challenge, collateral on the shelf, appraisal, policy,
 * EAR; with a platform of our own up to a verdict, and with real quotes, which are of other
 * challenges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "appraise/dcap_testing.h"
#include "svc-verifier/verifier_testing.h"

#define VECTORS "../shared/vectors/"

static const struct dcap_level levels[] = {{7, 5, 13, "UpToDate", ""},
                                           {6, 5, 12, "OutOfDate", "INTEL-SA-9"}};

struct fixture {
    struct vworld w;
    struct dcap_platform p;
    struct dcap_quote_opts quote;
    struct dcap_info_opts info;
};

static json_t *refvals_of(uint8_t mrtd)
{
    char d[97] = "", zeros[97] = "";
    static const char image[] = "{\"name\":\"n\",\"version\":\"1\",\"uki_sha256\":\"%064d\","
                                "\"kernel_sha256\":\"%064d\",\"initrd_sha256\":\"%064d\","
                                "\"cmdline\":\"\"}";
    _cleanup_free_ char *text = xasprintf(image, 0, 0, 0);

    for (int i = 0; i < 48; i++) {
        snprintf(d + 2 * i, 3, "%02x", mrtd);
        snprintf(zeros + 2 * i, 3, "00");
    }
    return json_pack("{s:i,s:o,s:{s:s,s:s,s:s}}", "v", 1, "image", json_loads(text, 0, NULL), "tdx",
                     "mrtd", d, "rtmr1", zeros, "rtmr2", zeros);
}

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));
    _cleanup_json_ json_t *refvals = refvals_of(0xd1);

    dcap_platform_make(&f->p);
    f->quote = (struct dcap_quote_opts){
        .version = 4, .body = DCAP_BODY_TD_10, .qe_svn = 8, .tee_tcb_svn = {5, 0}};
    f->info = (struct dcap_info_opts){.is_tdx = 1, .levels = levels, .n_levels = 2};
    vworld_make_rooted(&f->w, "false", refvals, NULL, f->p.root.pem);
    f->w.now_ms = PKI_NOW_MS;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    vworld_done(&f->w);
    dcap_platform_done(&f->p);
    free(f);
    return 0;
}

static struct verifier *verifier_of(struct fixture *f)
{
    return engine_svc(f->w.g)->priv;
}

static void shelve(struct fixture *f, enum need_source source, const char *path, struct buf take)
{
    struct need n = {.source = source};
    struct err e = {0};

    snprintf(n.path, sizeof(n.path), "%s", path);
    if (shelf_put(verifier_of(f)->shelf, engine_svc(f->w.g)->db, &n, buf_bytes(&take), "",
                  f->w.now_ms, &e)) {
        fail_msg("%s: %s", path, e.msg);
    }
    buf_done(&take);
}

static void shelve_all(struct fixture *f)
{
    shelve(f, NEED_PCS, "tdx/certification/v4/tcb?fmspc=90c06f000000",
           dcap_signed(&f->p, &f->p.tcb_signing, "tcbInfo", dcap_info_text(&f->info)));
    shelve(f, NEED_PCS, "tdx/certification/v4/qe/identity",
           dcap_signed(&f->p, &f->p.tcb_signing, "enclaveIdentity", dcap_identity_text(1, 0, 0)));
    shelve(f, NEED_PCS, "sgx/certification/v4/pckcrl?ca=platform&encoding=der",
           pki_crl(&f->p.ca, 0, 0, 1, NULL, 0, 0));
    shelve(f, NEED_ROOT_CRL, "IntelSGXRootCA.der", pki_crl(&f->p.root, 0, 0, 1, NULL, 0, 0));
}

static struct submit challenged(struct fixture *f, const char *tee, uint8_t report_data[64])
{
    struct submit s = {.attempt = 1, .tee = xstrdup(tee), .spec = xstrdup("the spec")};
    Coffer__V1__Reply *r = vworld_challenge(&f->w, V_JOB, 1, tee);

    assert_int_equal(r->body_case, COFFER__V1__REPLY__BODY_CHALLENGE);
    snprintf(s.job, sizeof(s.job), "%s", V_JOB);
    memcpy(s.nonce, r->challenge->nonce.data, sizeof(s.nonce));
    coffer__v1__reply__free_unpacked(r, NULL);
    VMUST(
        runtime_data_make(V_JOB, 1, BYTES(s.nonce, 32), f->w.tee, &s.runtime_data, report_data, e));
    return s;
}

/* A TDX quote for a fresh challenge. */
static struct submit tdx_evidence(struct fixture *f)
{
    uint8_t report_data[64];
    struct submit s = challenged(f, "tdx", report_data);

    f->quote.bound = report_data;
    struct buf q = dcap_quote_make(&f->p, &f->quote);
    _cleanup_free_ char *text = b64_encode(q.p, q.n);
    s.evidence = xasprintf("{\"cc_eventlog\":null,\"quote\":\"%s\"}", text);
    f->quote.bound = NULL;
    buf_done(&q);
    return s;
}

static void test_verdict(void **state)
{
    struct fixture *f = *state;
    _cleanup_(submit_done) struct submit s = tdx_evidence(f);
    _cleanup_(ear_freep) struct ear *r = NULL;
    struct needs due;
    struct err why;
    int64_t at;

    /* Nothing is known of the platform: no verdict yet, and four things are on their way. */
    assert_null(vworld_submit(&f->w, &s, NULL));
    assert_int_equal(shelf_next_due(engine_svc(f->w.g)->db, &at, &why), 0);
    assert_int_equal(shelf_due(engine_svc(f->w.g)->db, at, &due, &why), 0);
    assert_int_equal(due.n, 4);
    shelve_all(f);
    Coffer__V1__Verdict *v = vworld_submit(&f->w, &s, NULL);
    assert_non_null(v);
    if (v->refusal) {
        fail_msg("%s", v->refusal->message);
    }
    VMUST(ear_verify(f->w.trust, v->ear, &r, e));
    assert_string_equal(r->tee, "tdx");
    assert_string_equal(r->status, "affirming");
    const json_t *cpu0 = json_object_get(json_object_get(r->claims, "submods"), "cpu0");
    assert_string_equal(json_string_value(json_object_get(cpu0, "ear.appraisal-policy-id")),
                        "coffer-default/1");
    const json_t *claims =
        json_object_get(json_object_get(cpu0, "ear.veraison.annotated-evidence"), "tdx");
    assert_string_equal(json_string_value(json_object_get(claims, "tcb_status")), "UpToDate");
    coffer__v1__verdict__free_unpacked(v, NULL);
}

static void refused(struct fixture *f, const char *clause)
{
    _cleanup_(submit_done) struct submit s = tdx_evidence(f);
    Coffer__V1__Verdict *v = vworld_submit(&f->w, &s, NULL);

    assert_non_null(v);
    assert_non_null(v->refusal);
    assert_string_equal(v->refusal->clause, clause);
    coffer__v1__verdict__free_unpacked(v, NULL);
}

static void warned(struct fixture *f)
{
    _cleanup_(submit_done) struct submit s = tdx_evidence(f);
    Coffer__V1__Verdict *v = vworld_submit(&f->w, &s, NULL);
    _cleanup_(ear_freep) struct ear *r = NULL;

    assert_non_null(v);
    VMUST(ear_verify(f->w.trust, v->ear, &r, e));
    assert_string_equal(r->status, "warning");
    coffer__v1__verdict__free_unpacked(v, NULL);
}

static void test_policy(void **state)
{
    struct fixture *f = *state;

    shelve_all(f);
    f->quote.td_debug = 1;
    refused(f, "policy.no debug (TDX)");
    f->quote.td_debug = 0;
    memset(f->p.sgx_svn, 6, 16); /* OutOfDate */
    f->p.pce_svn = 12;
    pki_done(&f->p.pck);
    f->p.pck = dcap_pck(&f->p, 31, 0, 0);
    warned(f);
    memset(f->p.sgx_svn, 1, 16);
    pki_done(&f->p.pck);
    f->p.pck = dcap_pck(&f->p, 31, 0, 0);
    refused(f, "policy.not revoked");
}

/* The services it is fetched from are away: what is there counts for as long as it is valid. */
static void test_outage(void **state)
{
    struct fixture *f = *state;
    struct db *db = engine_svc(f->w.g)->db;
    struct err e;

    shelve_all(f);
    f->w.now_ms += 15 * PKI_DAY_MS;
    for (int i = 0; i < 5; i++) {
        struct need n = {.source = NEED_ROOT_CRL, .path = "IntelSGXRootCA.der"};
        assert_int_equal(shelf_failed(db, &n, f->w.now_ms, 1000, &e), 0);
    }
    _cleanup_(submit_done) struct submit s = tdx_evidence(f);
    Coffer__V1__Verdict *v = vworld_submit(&f->w, &s, NULL);
    assert_non_null(v);
    assert_null(v->refusal);
    coffer__v1__verdict__free_unpacked(v, NULL);
}

/* ---- real evidence, which was made for another challenge ------------------------------------- */

/* What its maker's services have for it, nobody reaches. */
static void give_up(struct fixture *f, const char *tee, struct bytes evidence)
{
    struct needs needs = {0}, wanted;
    struct db *db = engine_svc(f->w.g)->db;
    struct err why = {0};

    appraiser_find(tee)->needs(evidence, &needs);
    assert_true(needs.n >= 2);
    assert_int_equal(shelf_ready(db, &needs, f->w.now_ms, &wanted, &why), 0);
    for (size_t i = 0; i < 2 * needs.n; i++) {
        assert_int_equal(shelf_failed(db, &needs.v[i / 2], f->w.now_ms, 60000, &why), 0);
    }
}

static void real(struct fixture *f, const char *tee, const char *path)
{
    _cleanup_buf_ struct buf q = BUF_INIT(1u << 16);
    _cleanup_free_ char *name = xasprintf(VECTORS "%s", path);
    uint8_t report_data[64];
    _cleanup_(submit_done) struct submit s = challenged(f, tee, report_data);

    VMUST(file_read(name, 1u << 16, 0, &q, e));
    give_up(f, tee, buf_bytes(&q));
    _cleanup_free_ char *expected = hex_encode(report_data, 64);
    s.evidence = b64_encode(q.p, q.n);
    Coffer__V1__Verdict *v = vworld_submit(&f->w, &s, NULL);
    assert_non_null(v);
    assert_non_null(v->refusal);
    if (!streq(v->refusal->clause, "evidence.report_data")) {
        fail_msg("%s: %s", path, v->refusal->message);
    }
    assert_string_equal(v->refusal->expected, expected);
    assert_string_not_equal(v->refusal->actual, "");
    coffer__v1__verdict__free_unpacked(v, NULL);
}

/* All of it holds, up to what it is bound to. */
static void test_real(void **state)
{
    struct fixture *f = *state;
    struct collateral *c = shelf_collateral(verifier_of(f)->shelf);
    size_t unknown;

    if (access(VECTORS "MANIFEST.md", R_OK)) {
        print_message("SKIPPED: no real vectors beside the source tree\n");
        skip();
    }
    f->w.now_ms = 1751328000000; /* 2025-07-01 */
    VMUST(collateral_add_path(c, VECTORS "tdx/phala-dcap-qvl/tdx_quote_collateral.json", &unknown,
                              e));
    real(f, "tdx", "tdx/phala-dcap-qvl/tdx_quote");
    f->w.now_ms = 1775001600000; /* 2026-04-01 */
    VMUST(collateral_add_path(c, VECTORS "snp/attestation-rs/live-vcek-genoa.der", &unknown, e));
    real(f, "snp", "snp/attestation-rs/live-report-v5-genoa.bin");
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_verdict), T(test_policy), T(test_outage),
                                       T(test_real)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Real SNP reports, from ../shared/vectors beside the source tree; without it there is nothing to
 * test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "appraise/snp.h"
#include "appraise/when.h"
#include "common/fileio.h"

#define VECTORS "../shared/vectors/"

struct row {
    const char *evidence, *collateral[4], *at;
    const char *clause; /* NULL: genuine */
    enum tcb_status status;
    const char *product, *key;
    int vmpl, configuration;
};

static const struct row rows[] = {
    {"snp/coco-trustee/test-report.bin",
     {"snp/coco-trustee/test-vcek.der"},
     "2026-03-01T00:00:00Z",
     NULL,
     TCB_OUT_OF_DATE,
     "Milan",
     "VCEK",
     0,
     2},
    {"snp/coco-trustee/test-vlek-report.bin",
     {"snp/coco-trustee/test-vlek.der"},
     "2025-03-01T00:00:00Z",
     NULL,
     TCB_OUT_OF_DATE,
     "Milan",
     "VLEK",
     1,
     32},
    {"snp/google-go-sev-guest/attestation.bin",
     {"snp/google-go-sev-guest/vcek.testcer", "snp/google-go-sev-guest/milan.testcer"},
     "2024-01-01T00:00:00Z",
     NULL,
     TCB_UP_TO_DATE,
     "Milan",
     "VCEK",
     0,
     96},
    {"snp/virtee-sev/report_milan.bin",
     {"snp/virtee-sev/vcek_milan.der", "snp/virtee-sev/cert_chain_milan"},
     "2024-01-01T00:00:00Z",
     NULL,
     TCB_UP_TO_DATE,
     "Milan",
     "VCEK",
     0,
     2},
    {"snp/microsoft-confidential-sidecar/snp_report.bin",
     {"snp/microsoft-confidential-sidecar/uvm_host_amd_certificate.json"},
     "2024-01-01T00:00:00Z",
     NULL,
     TCB_UP_TO_DATE,
     "Milan",
     "VCEK",
     0,
     2},
    {"snp/microsoft-confidential-sidecar/snp_report.bin",
     {"snp/microsoft-confidential-sidecar/uvm_host_amd_certificate.pem"},
     "2024-01-01T00:00:00Z",
     NULL,
     TCB_UP_TO_DATE,
     "Milan",
     "VCEK",
     0,
     2},
    {"snp/microsoft-tav/milan_attestation_report.bin",
     {"snp/microsoft-tav/milan_vcek.pem", "snp/microsoft-tav/milan_ask.pem",
      "roots/tav_milan_ark.pem"},
     "2026-03-01T00:00:00Z",
     NULL,
     TCB_UP_TO_DATE,
     "Milan",
     "VCEK",
     0,
     2},
    {"snp/microsoft-tav/genoa_attestation_report.bin",
     {"snp/microsoft-tav/genoa_vcek.pem", "snp/microsoft-tav/genoa_ask.pem",
      "roots/tav_genoa_ark.pem"},
     "2026-03-01T00:00:00Z",
     NULL,
     TCB_UP_TO_DATE,
     "Genoa",
     "VCEK",
     0,
     2},
    {"snp/microsoft-tav/turin_attestation_report.bin",
     {"snp/microsoft-tav/turin_vcek.pem", "snp/microsoft-tav/turin_ask.pem",
      "roots/tav_turin_ark.pem"},
     "2026-03-01T00:00:00Z",
     NULL,
     TCB_UP_TO_DATE,
     "Turin",
     "VCEK",
     0,
     2},
    {"snp/attestation-rs/live-evidence-genoa.json",
     {NULL},
     "2026-03-01T00:00:00Z",
     NULL,
     TCB_UP_TO_DATE,
     "Genoa",
     "VCEK",
     0,
     2},
    {"snp/attestation-rs/live-report-v5-genoa.bin",
     {"snp/attestation-rs/live-vcek-genoa.der"},
     "2026-03-01T00:00:00Z",
     NULL,
     TCB_UP_TO_DATE,
     "Genoa",
     "VCEK",
     0,
     2},
    {"snp/automata-sev-snp-sdk/output.json",
     {NULL},
     "2026-03-01T00:00:00Z",
     NULL,
     TCB_UP_TO_DATE,
     "Milan",
     "VCEK",
     0,
     2},
    {"snp/dstack/sev-snp-attestation.json",
     {NULL},
     "2026-07-01T00:00:00Z",
     NULL,
     TCB_OUT_OF_DATE,
     "Milan",
     "VCEK",
     0,
     2},
    {"snp/dstack/sev_snp_attestation.bin",
     {"snp/dstack/sev_snp_vcek.pem", "snp/dstack/sev_snp_ask.pem"},
     "2026-07-01T00:00:00Z",
     NULL,
     TCB_OUT_OF_DATE,
     "Milan",
     "VCEK",
     0,
     2},
    {"snp/veraison/sevsnp-tsm-report.cbor",
     {NULL},
     "2026-03-01T00:00:00Z",
     NULL,
     TCB_UP_TO_DATE,
     "Genoa",
     "VCEK",
     0,
     2},
    {"snp/veraison/sevsnp-tsm-report.json",
     {NULL},
     "2026-03-01T00:00:00Z",
     NULL,
     TCB_UP_TO_DATE,
     "Genoa",
     "VCEK",
     0,
     2},
    {"snp/veraison/sevsnp-ratsd-token",
     {NULL},
     "2026-03-01T00:00:00Z",
     NULL,
     TCB_UP_TO_DATE,
     "Genoa",
     "VCEK",
     0,
     2},
/* Refused. */
#define NO(file, vek, why)                                                                         \
    {                                                                                              \
        .evidence = file, .collateral = {vek}, .at = "2026-03-01T00:00:00Z", .clause = why         \
    }
#define MS "snp/microsoft-confidential-sidecar/"
    NO("snp/cocos/attestation.bin", NULL, "evidence.vcek"),
    NO(MS "snp_report_v3.bin", NULL, "evidence.vcek"),
    NO(MS "snp_report_corrupted.bin", NULL, "evidence.report.version"),
    NO(MS "snp_report_corrupted_sig.bin", MS "uvm_host_amd_certificate.json",
       "evidence.report.signature"),
    NO(MS "snp_report.bin", MS "security-context-host-amd-cert-base64",
       "evidence.report.signature"),
    NO("snp/coco-trustee/test-report.bin", "snp/coco-trustee/test-vcek-invalid-legacy.der",
       "evidence.vek_chain[0].signature"),
    NO("snp/coco-trustee/test-report.bin", "snp/coco-trustee/test-vcek-invalid-new.der",
       "evidence.vek_chain[0].signature"),
    NO("snp/coco-trustee/test-report.bin", "snp/coco-trustee/test-vlek.der",
       "evidence.report.signing_key"),
    NO("snp/coco-trustee/test-vlek-report.bin", "snp/coco-trustee/test-vlek.der",
       "evidence.vek_chain[0].not_after"),
    NO("snp/microsoft-tav/turin_attestation_report.bin", "snp/microsoft-tav/genoa_vcek.pem",
       "evidence.vcek.product"),
#define DERIVED(chip, mutation, why)                                                               \
    NO("derived/snp/" chip "_" mutation ".bin", "snp/microsoft-tav/" chip "_vcek.pem", why)
    DERIVED("milan", "measurement_flip", "evidence.report.signature"),
    DERIVED("milan", "policy_debug", "evidence.report.signature"),
    DERIVED("milan", "vmpl_3", "evidence.report.signature"),
    DERIVED("milan", "chipid_flip", "evidence.report.signature"),
    DERIVED("milan", "version_1", "evidence.report.version"),
    DERIVED("milan", "rsvd_nonzero", "evidence.report.reserved"),
    DERIVED("genoa", "measurement_flip", "evidence.report.signature"),
    DERIVED("genoa", "chipid_flip", "evidence.report.signature"),
    DERIVED("genoa", "version_1", "evidence.report.version"),
    DERIVED("genoa", "version_99", "evidence.report.version"),
    DERIVED("genoa", "sig_r_oversize", "evidence.report.signature"),
    DERIVED("genoa", "long_1185", "evidence.report"),
    DERIVED("turin", "measurement_flip", "evidence.report.signature"),
    DERIVED("turin", "reportdata_flip", "evidence.report.signature"),
    DERIVED("turin", "chipid_flip", "evidence.report.signature"),
    DERIVED("turin", "sigalgo_2", "evidence.report.signature_algo"),
    DERIVED("turin", "version_1", "evidence.report.version"),
    DERIVED("turin", "version_99", "evidence.report.version"),
    DERIVED("turin", "sig_bigendian", "evidence.report.signature"),
    DERIVED("turin", "trunc_1183", "evidence.report"),
    {.evidence = "snp/microsoft-tav/turin_attestation_report.bin",
     .collateral = {"snp/microsoft-tav/turin_vcek.pem", "snp/microsoft-tav/milan_ask.pem"},
     .at = "2026-03-01T00:00:00Z",
     .clause = "evidence.ask"},
};

static void load(const char *name, struct buf *ret)
{
    _cleanup_free_ char *path = xasprintf(VECTORS "%s", name);
    struct err e = {0};

    *ret = BUF_INIT(1u << 20);
    if (file_read(path, 1u << 20, 0, ret, &e)) {
        fail_msg("%s", e.msg);
    }
}

static void add(struct collateral *c, const char *name)
{
    _cleanup_buf_ struct buf b = {0};
    struct err e = {0};

    load(name, &b);
    if (collateral_add(c, name, buf_bytes(&b), &e)) {
        fail_msg("%s: %s", name, e.msg);
    }
}

static void check_genuine(const struct row *r, const struct appraisal *a)
{
    const json_t *c = a->claims;

    assert_int_equal(a->tcb_status, r->status);
    assert_string_equal(json_string_value(json_object_get(c, "product")), r->product);
    assert_string_equal(json_string_value(json_object_get(c, "signing_key")), r->key);
    assert_int_equal(json_integer_value(json_object_get(c, "vmpl")), r->vmpl);
    assert_int_equal(a->vector[EAR_HARDWARE], r->status == TCB_UP_TO_DATE ? 2 : 32);
    assert_int_equal(a->vector[EAR_CONFIGURATION], r->configuration);
    assert_int_equal(json_is_true(json_object_get(c, "policy_debug_allowed")),
                     r->configuration == 96);
    assert_int_equal(a->tier, TIER_HARDWARE);
    assert_string_equal(json_string_value(json_array_get(a->unchecked, 0)), "crl");
}

static int run(const struct row *r, struct bytes evidence, struct appraisal *a, struct err *e)
{
    _cleanup_(certs_freep) struct certs *store = certs_new(64);
    _cleanup_(collateral_freep) struct collateral *c = collateral_new(store);
    const struct appraisal_policy policy = {0};
    struct appraisal_input in = {.evidence = evidence, .collateral = c};

    for (size_t i = 0; i < ARRAY_LEN(r->collateral) && r->collateral[i]; i++) {
        add(c, r->collateral[i]);
    }
    assert_int_equal(rfc3339_ms(r->at, &in.now_ms), 0);
    return snp_appraise(&in, &policy, a, e);
}

static void test_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        _cleanup_buf_ struct buf evidence = {0};
        struct appraisal a = {0};
        struct err e = {0};
        load(rows[i].evidence, &evidence);
        int rc = run(&rows[i], buf_bytes(&evidence), &a, &e);
        if (!rows[i].clause) {
            if (rc) {
                fail_msg("%s: %s", rows[i].evidence, e.msg);
            }
            check_genuine(&rows[i], &a);
        } else if (!rc || !streq(e.clause, rows[i].clause)) {
            fail_msg("%s: expected %s, got %s: %s", rows[i].evidence, rows[i].clause, e.clause,
                     e.msg);
        }
        appraisal_done(&a);
    }
}

/* Every byte of real reports, and of the certificates that they are verified with. */
static void test_mutations(void **state)
{
    (void)state;
    static const size_t which[] = {6, 8, 1};
    size_t n = 0;

    for (size_t k = 0; k < ARRAY_LEN(which); k++) {
        const struct row *r = &rows[which[k]];
        _cleanup_buf_ struct buf b = {0};
        load(r->evidence, &b);
        assert_int_equal(b.n, SNP_REPORT_BYTES);
        _cleanup_(certs_freep) struct certs *store = certs_new(64);
        _cleanup_(collateral_freep) struct collateral *c = collateral_new(store);
        const struct appraisal_policy policy = {0};
        struct appraisal_input in = {.evidence = buf_bytes(&b), .collateral = c};
        for (size_t i = 0; i < ARRAY_LEN(r->collateral) && r->collateral[i]; i++) {
            add(c, r->collateral[i]);
        }
        assert_int_equal(rfc3339_ms(r->at, &in.now_ms), 0);
        for (size_t i = 0; i < b.n; i += 2, n++) {
            struct appraisal a = {0};
            struct err e = {0};
            b.p[i] ^= (uint8_t)(1u << i / 2 % 8);
            if (snp_appraise(&in, &policy, &a, &e) == 0) {
                fail_msg("%s: byte %zu is not bound", r->evidence, i);
            }
            b.p[i] ^= (uint8_t)(1u << i / 2 % 8);
        }
        struct appraisal a = {0};
        assert_int_equal(snp_appraise(&in, &policy, &a, NULL), 0);
        appraisal_done(&a);
    }
    assert_true(n >= 1500);
}

static void test_mutated_certificate(void **state)
{
    (void)state;
    _cleanup_buf_ struct buf report = {0}, vcek = {0};
    const struct appraisal_policy policy = {0};

    load("snp/coco-trustee/test-report.bin", &report);
    load("snp/coco-trustee/test-vcek.der", &vcek);
    for (size_t i = 0; i < vcek.n; i += 3) {
        _cleanup_(certs_freep) struct certs *store = certs_new(64);
        _cleanup_(collateral_freep) struct collateral *c = collateral_new(store);
        struct appraisal_input in = {.evidence = buf_bytes(&report), .collateral = c};
        struct appraisal a = {0};
        struct err e = {0};
        assert_int_equal(rfc3339_ms("2026-03-01T00:00:00Z", &in.now_ms), 0);
        vcek.p[i] ^= 4;
        if (collateral_add(c, "vcek", buf_bytes(&vcek), &e) == 0 &&
            snp_appraise(&in, &policy, &a, &e) == 0) {
            fail_msg("byte %zu of the certificate is not bound", i);
        }
        vcek.p[i] ^= 4;
    }
}

/* The roots in the program are those of the files, and they hold together. */
static void test_roots(void **state)
{
    (void)state;
    static const char *const files[SNP_PRODUCT_N] = {
        NULL, "roots/tav_milan_ark.pem", "roots/tav_genoa_ark.pem", "roots/tav_turin_ark.pem"};
    static const char *const all[SNP_PRODUCT_N] = {NULL, "roots/amd_milan_ask_ark_asvk.pem",
                                                   "roots/amd_genoa_ask_ark_asvk.pem",
                                                   "roots/amd_turin_ask_ark_asvk.pem"};

    for (int p = SNP_MILAN; p < SNP_PRODUCT_N; p++) {
        _cleanup_(certs_freep) struct certs *s = certs_new(16);
        _cleanup_buf_ struct buf b = {0}, chain = {0};
        struct cert *ark, *ask, *asvk, *file, *v[3];
        struct err e = {0};
        size_t n;
        const struct snp_issuers *i = snp_amd_roots.of[p];
        load(files[p], &b);
        load(all[p], &chain);
        assert_int_equal(certs_add_der(s, "ark", i->ark, &ark, &e), 0);
        assert_int_equal(certs_add_der(s, "ask", i->ask, &ask, &e), 0);
        assert_int_equal(certs_add_der(s, "asvk", i->asvk, &asvk, &e), 0);
        assert_int_equal(certs_add_pem(s, "file", buf_bytes(&b), &file, 1, &n, &e), 0);
        assert_ptr_equal(file, ark);
        assert_int_equal(certs_add_pem(s, "file", buf_bytes(&chain), v, 3, &n, &e), 0);
        assert_int_equal(n, 3);
        assert_ptr_equal(v[0], ask);
        assert_ptr_equal(v[1], ark);
        assert_ptr_equal(v[2], asvk);
        assert_int_equal(cert_signed_by(s, "ask", ask, ark, &e), 0);
        assert_int_equal(cert_signed_by(s, "asvk", asvk, ark, &e), 0);
        assert_int_equal(cert_signed_by(s, "ark", ark, ark, &e), 0);
    }
}

/* Certificates of all chips that are collected read the same, whichever encoding they have. */
static void test_certificates(void **state)
{
    (void)state;
    static const struct {
        const char *file;
        enum snp_product product;
    } certs[] = {
        {"snp/coco-trustee/test-vcek-invalid-legacy.der", SNP_MILAN},
        {"snp/coco-trustee/test-vcek-invalid-new.der", SNP_MILAN},
        {"snp/virtee-sev/vcek_turin.der", SNP_TURIN},
        {"snp/automata-sev-snp-sdk/vcek.der", SNP_MILAN},
        {"snp/enarx/vcek.der", SNP_MILAN},
    };

    for (size_t i = 0; i < ARRAY_LEN(certs); i++) {
        _cleanup_(certs_freep) struct certs *s = certs_new(16);
        _cleanup_buf_ struct buf b = {0};
        struct snp_vek v;
        struct cert *c;
        struct err e = {0};
        load(certs[i].file, &b);
        assert_int_equal(certs_add_der(s, "vek", buf_bytes(&b), &c, &e), 0);
        if (snp_vek_parse(c, &v, &e)) {
            fail_msg("%s: %s", certs[i].file, e.msg);
        }
        assert_int_equal(v.product, certs[i].product);
        assert_int_equal(v.hwid_bytes, v.product == SNP_TURIN ? 8 : 64);
        assert_int_equal(v.kind, SNP_KEY_VCEK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_mutated_certificate),
        cmocka_unit_test(test_roots),
        cmocka_unit_test(test_certificates),
    };

    if (access(VECTORS "snp", F_OK)) {
        fprintf(stderr, "skipped: there is no " VECTORS "snp\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}

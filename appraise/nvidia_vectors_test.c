/* Real reports of NVIDIA's devices, from ../shared/vectors beside the source tree; without it there
 * is nothing to test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <time.h>
#include <unistd.h>

#include "appraise/nvidia.h"
#include "appraise/when.h"
#include "common/fileio.h"

#define VECTORS "../shared/vectors/"
#define SDK "nvidia/nvidia-attestation-sdk/"
#define GO "nvidia/google-go-nvattest-tools/"
#define DERIVED "derived/nvidia/"
#define AT "2026-01-01T00:00:00Z"
#define OCSP_AT "2025-08-21T12:00:00Z"
#define SIG "evidence.signature"

static const struct row {
    const char *file, *chain, *at;
    const char *clause; /* NULL: genuine */
    const char *driver, *arch;
    size_t devices;
} rows[] = {
    {SDK "hopper_evidence.json", NULL, AT, NULL, "590.12", "HOPPER", 1},
    {SDK "hopper_evidence_cert_hold.json", NULL, AT, NULL, "570.86.10", "HOPPER", 1},
    {SDK "evidence_hopper_590_12.json", NULL, AT, NULL, "590.12", "HOPPER", 1},
    {SDK "multi_gpu_hopper.json", NULL, AT, NULL, "590.12", "HOPPER", 4},
    {SDK "switch_evidence_ls10.json", NULL, AT, NULL, NULL, "LS10", 1},
    {SDK "hopperAttestationReport.txt", SDK "hopperCertChain.txt", AT, NULL, "580.159.03", "HOPPER",
     1},
    {SDK "blackwellAttestationReport.txt", SDK "blackwellCertChain.txt", AT, NULL, "575.32",
     "BLACKWELL", 1},
    {SDK "hopperAttestationReportExpired.txt", SDK "hopperCertChainExpired.txt", AT, NULL,
     "570.124.03", "HOPPER", 1},
    {SDK "switchAttestationReport.txt", SDK "switchCertChain.txt", AT, NULL, NULL, "LS10", 1},
    {GO "test_raw_gpu_attestation_report.dat", GO "test_gpu_attestation_certificate_chain.dat", AT,
     NULL, "550.90.07", "HOPPER", 1},
    {GO "test_raw_switch_attestation_report.dat",
     GO "test_switch_attestation_certificate_chain.dat", AT, SIG, NULL, NULL, 0},
    {SDK "hopperAttestationReportInvalidSignature.txt", SDK "hopperCertChainExpired.txt", AT, SIG,
     NULL, NULL, 0},
    {SDK "hopperAttestationReportInvalidSignature.txt", SDK "hopperCertChain.txt", AT, SIG, NULL,
     NULL, 0},
    {SDK "switchAttestationReportInvalidSignature.txt", SDK "switchCertChain.txt", AT, SIG, NULL,
     NULL, 0},
    {SDK "hopperAttestationReport.txt", SDK "hopperCertChainExpired.txt", AT, SIG, NULL, NULL, 0},
    {SDK "hopperAttestationReport.txt", NULL, AT, "evidence.chain", NULL, NULL, 0},
    {SDK "hopper_evidence.json", NULL, "2019-01-01T00:00:00Z", "evidence.chain[0].not_before", NULL,
     NULL, 0},
    {DERIVED "nonce_flip.bin", "hopper", AT, SIG, NULL, NULL, 0},
    {DERIVED "meas_flip.bin", "hopper", AT, SIG, NULL, NULL, 0},
    {DERIVED "mrl_ffffff.bin", "hopper", AT, "evidence.measurements.length", NULL, NULL, 0},
    {DERIVED "opaque_ffff.bin", "hopper", AT, "evidence.opaque.length", NULL, NULL, 0},
    {DERIVED "nblocks_255.bin", "hopper", AT, "evidence.measurements.block", NULL, NULL, 0},
    {DERIVED "version_10.bin", "hopper", AT, "evidence.request.version", NULL, NULL, 0},
    {"hopper", "hopper", AT, NULL, "590.12", "HOPPER", 1},
    {"hopper", DERIVED "chain_reversed.pem", AT, "evidence.chain.root", NULL, NULL, 0},
};

struct job {
    struct buf evidence, chain;
    struct certs *store;
    struct collateral *bag;
};

static void job_done(struct job *j)
{
    collateral_free(j->bag);
    certs_free(j->store);
    buf_done(&j->evidence);
    buf_done(&j->chain);
}

static void load(const char *name, struct buf *ret)
{
    _cleanup_free_ char *path = xasprintf(VECTORS "%s", name);
    struct err e = {0};

    *ret = BUF_INIT(1u << 20);
    if (file_read(path, 1u << 20, 0, ret, &e)) {
        fail_msg("%s", e.msg);
    }
}

/* A part of hopper_evidence.json, decoded. */
static void load_hopper(const char *member, struct buf *ret)
{
    _cleanup_buf_ struct buf b = {0};
    _cleanup_json_ json_t *j = NULL;

    load(SDK "hopper_evidence.json", &b);
    assert_int_equal(json_parse("t", buf_bytes(&b), 1u << 20, &j, NULL), 0);
    const char *text = json_string_value(json_object_get(json_array_get(j, 0), member));
    *ret = BUF_INIT(1u << 20);
    assert_int_equal(b64_decode(text, strlen(text), ret, NULL), 0);
}

static void add_file(struct job *j, const char *name)
{
    _cleanup_buf_ struct buf b = {0};
    struct err e = {0};

    if (streq(name, "hopper")) {
        load_hopper("certificate", &b);
    } else {
        load(name, &b);
    }
    if (collateral_add(j->bag, name, buf_bytes(&b), &e)) {
        fail_msg("%s: %s", name, e.msg);
    }
}

static void job_new(struct job *j, const char *evidence, const char *chain)
{
    *j = (struct job){.store = certs_new(64)};
    j->bag = collateral_new(j->store);
    if (streq(evidence, "hopper")) {
        load_hopper("evidence", &j->evidence);
    } else {
        load(evidence, &j->evidence);
    }
    if (chain) {
        add_file(j, chain);
    }
}

static int run(struct job *j, const char *at, struct appraisal *a, struct err *e)
{
    const struct appraisal_policy policy = {0};
    struct appraisal_input in = {.evidence = buf_bytes(&j->evidence), .collateral = j->bag};

    assert_int_equal(rfc3339_ms(at, &in.now_ms), 0);
    *e = (struct err){0};
    return nvidia_appraise(&in, &policy, a, e);
}

static const char *claim(const struct appraisal *a, const char *name)
{
    const char *s = json_string_value(json_object_get(a->claims, name));

    return s ? s : "";
}

static void test_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct row *r = &rows[i];
        _cleanup_(job_done) struct job j;
        struct appraisal a = {0};
        struct err e;
        job_new(&j, r->file, r->chain);
        int rc = run(&j, r->at, &a, &e);
        if (r->clause ? !rc || !streq(e.clause, r->clause) : rc) {
            fail_msg("%s: expected %s, got %s: %s", r->file, r->clause ? r->clause : "genuine",
                     e.clause, e.msg);
        }
        if (!rc) {
            assert_string_equal(claim(&a, "arch"), r->arch);
            assert_string_equal(claim(&a, "x-nvidia-gpu-driver-version"),
                                r->driver ? r->driver : "");
            assert_int_equal(json_integer_value(json_object_get(a.claims, "device_count")),
                             (json_int_t)r->devices);
            assert_int_equal(a.tier, TIER_HARDWARE);
            assert_int_equal(a.vector[EAR_HARDWARE], 32);
            assert_int_equal(json_array_size(a.unchecked), 2);
        }
        appraisal_done(&a);
    }
}

static void test_claims(void **state)
{
    (void)state;
    _cleanup_(job_done) struct job gpu, sw, many;
    struct appraisal a = {0};
    struct err e;

    job_new(&gpu, SDK "hopper_evidence.json", NULL);
    assert_int_equal(run(&gpu, AT, &a, &e), 0);
    assert_string_equal(claim(&a, "x-nvidia-gpu-vbios-version"), "96.00.A5.00.01");
    assert_string_equal(claim(&a, "hwmodel"), "GH100 A01 GSP BROM");
    assert_string_equal(claim(&a, "x-nvidia-device-type"), "gpu");
    assert_string_equal(claim(&a, "x-nvidia-gpu-project"), "G520");
    assert_int_equal(json_object_size(json_object_get(a.claims, "measurements")), 64);
    assert_true(json_is_true(
        json_object_get(a.claims, "x-nvidia-gpu-attestation-report-cert-chain-fwid-match")));
    assert_null(json_object_get(a.claims, "x-nvidia-gpu-attestation-report-nonce-match"));
    assert_null(json_object_get(a.claims, "measres"));
    appraisal_done(&a);
    job_new(&sw, SDK "switch_evidence_ls10.json", NULL);
    assert_int_equal(run(&sw, AT, &a, &e), 0);
    assert_string_equal(claim(&a, "x-nvidia-switch-bios-version"), "96.10.55.00.01");
    assert_string_equal(claim(&a, "x-nvidia-device-type"), "nvswitch");
    appraisal_done(&a);
    job_new(&many, SDK "multi_gpu_hopper.json", NULL);
    assert_int_equal(run(&many, AT, &a, &e), 0);
    assert_int_equal(json_array_size(json_object_get(a.claims, "devices")), 4);
    assert_null(json_object_get(a.claims, "ueid")); /* on which they do not agree */
    appraisal_done(&a);
}

/* Answers for the product line and the device, none for the provisioner between them. */
static void test_ocsp(void **state)
{
    (void)state;
    static const struct {
        const char *at, *clause;
        int l4;
    } cases[] = {
        {OCSP_AT, NULL, 1},
        {OCSP_AT, NULL, 0},
        {"2025-08-22T06:51:00Z", NULL, 1},
        {"2025-08-22T07:00:00Z", "collateral.ocsp.next_update", 1},
        {"2025-08-21T06:40:00Z", "collateral.ocsp.this_update", 1},
        {"2025-12-06T00:00:00Z", "collateral.ocsp.responder[0].not_after", 1},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_(job_done) struct job j;
        struct appraisal a = {0};
        struct err e;
        job_new(&j, GO "test_raw_gpu_attestation_report.dat",
                GO "test_gpu_attestation_certificate_chain.dat");
        add_file(&j, GO "test_gpu_certificate_l2_base64encoded_ocsp_response.dat");
        if (cases[i].l4) {
            add_file(&j, GO "test_gpu_certificate_l4_base64encoded_ocsp_response.dat");
        }
        int rc = run(&j, cases[i].at, &a, &e);
        if (cases[i].clause ? !rc || !streq(e.clause, cases[i].clause) : rc) {
            fail_msg("%s: %s: %s", cases[i].at, e.clause, e.msg);
        }
        appraisal_done(&a);
    }
    _cleanup_(job_done) struct job other;
    struct appraisal a = {0};
    struct err e;
    job_new(&other, SDK "blackwellAttestationReport.txt", SDK "blackwellCertChain.txt");
    add_file(&other, GO "test_gpu_certificate_l4_base64encoded_ocsp_response.dat");
    assert_int_equal(run(&other, OCSP_AT, &a, &e), -1);
    assert_string_equal(e.clause, "collateral.ocsp");
}

/* Several devices' chains in one bag, of which the certificates they share stand there once. */
static void test_shared_bag(void **state)
{
    (void)state;
    _cleanup_(job_done) struct job j;
    struct appraisal a = {0};
    struct err e;

    job_new(&j, SDK "hopperAttestationReport.txt", SDK "blackwellCertChain.txt");
    add_file(&j, "hopper");
    add_file(&j, SDK "hopperCertChainExpired.txt");
    add_file(&j, SDK "hopperCertChain.txt");
    assert_int_equal(run(&j, AT, &a, &e), 0);
    appraisal_done(&a);
}

/* Devices with the same firmware, and a switch, their chains in one bag. */
static void test_many_in_bag(void **state)
{
    (void)state;
    static const char *const files[] = {SDK "multi_gpu_hopper.json",
                                        SDK "switch_evidence_ls10.json"};
    _cleanup_(job_done) struct job bag;
    size_t n = 0;

    job_new(&bag, "hopper", NULL);
    for (int pass = 0; pass < 2; pass++) {
        for (size_t k = 0; k < ARRAY_LEN(files); k++) {
            _cleanup_buf_ struct buf b = {0};
            _cleanup_json_ json_t *list = NULL;
            size_t i;
            json_t *d;
            load(files[k], &b);
            assert_int_equal(json_parse("t", buf_bytes(&b), 1u << 20, &list, NULL), 0);
            json_array_foreach(list, i, d)
            {
                const char *t =
                    json_string_value(json_object_get(d, pass ? "evidence" : "certificate"));
                struct appraisal a = {0};
                struct err e = {0};
                if (!pass) {
                    assert_int_equal(collateral_add(bag.bag, "chain", BYTES_STR(t), &e), 0);
                    continue;
                }
                buf_done(&bag.evidence);
                assert_int_equal(buf_add(&bag.evidence, t, strlen(t), NULL), 0);
                if (run(&bag, AT, &a, &e)) {
                    fail_msg("%s %zu: %s", files[k], i, e.msg);
                }
                appraisal_done(&a);
                n++;
            }
        }
    }
    assert_int_equal(n, 5);
}

static int64_t clock_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void test_mutations(void **state)
{
    (void)state;
    static const struct {
        const char *evidence, *chain;
        size_t step;
    } which[] = {{"hopper", "hopper", 13},
                 {GO "test_raw_gpu_attestation_report.dat",
                  GO "test_gpu_attestation_certificate_chain.dat", 17}};
    size_t n = 0;

    for (size_t k = 0; k < ARRAY_LEN(which); k++) {
        _cleanup_(job_done) struct job j;
        struct appraisal a = {0};
        struct err e;
        job_new(&j, which[k].evidence, which[k].chain);
        assert_int_equal(run(&j, AT, &a, &e), 0);
        appraisal_done(&a);
        size_t all = j.evidence.n;
        int64_t start = clock_ms();
        for (size_t i = 0; i < all; i += which[k].step, n += 2) {
            uint8_t bit = (uint8_t)(1u << i % 8);
            j.evidence.p[i] ^= bit;
            if (run(&j, AT, &a, &e) == 0) {
                fail_msg("byte %zu is not bound", i);
            }
            j.evidence.p[i] ^= bit;
            j.evidence.n = i;
            assert_int_equal(run(&j, AT, &a, &e), -1);
            j.evidence.n = all;
        }
        int64_t each = (clock_ms() - start) / (int64_t)(2 * all / which[k].step);
        if (each > 100) { /* under sanitizers and load; 10 ms otherwise */
            fail_msg("a refusal takes %lld ms", (long long)each);
        }
        assert_int_equal(run(&j, AT, &a, &e), 0);
        appraisal_done(&a);
    }
    assert_true(n >= 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),        cmocka_unit_test(test_claims),
        cmocka_unit_test(test_ocsp),        cmocka_unit_test(test_shared_bag),
        cmocka_unit_test(test_many_in_bag), cmocka_unit_test(test_mutations),
    };

    if (access(VECTORS "nvidia", F_OK)) {
        fprintf(stderr, "skipped: there is no " VECTORS "nvidia\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}

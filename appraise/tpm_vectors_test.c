/* Real TPM quotes and evidence of Azure's confidential VMs, from ../shared/vectors beside the
 * source tree; without it there is nothing to test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "appraise/appraiser.h"
#include "appraise/when.h"
#include "common/fileio.h"

#define VECTORS "../shared/vectors/"
#define AZ "azure-vtpm/"
#define LONG_NONCE                                                                                 \
    "982f5c6e45df0ed3f10b6f60b02f0c8390e281300f3805e2279c16168cd6ae9aa398f647caa2338748cd0fd9f5f8" \
    "19ef"
#define CHALLENGE "6368616c6c656e6765"

static const struct row {
    const char *tee, *file, *at, *clause; /* clause NULL: genuine */
    const char *nonce;                    /* hex; NULL: not asked */
    const char *pcr0;                     /* how it begins */
} rows[] = {
    {"az-snp-vtpm", AZ "coco-trustee-snp/evidence-v0.json", "2025-06-01T00:00:00Z", NULL, CHALLENGE,
     "e15c4479"},
    {"az-snp-vtpm", AZ "coco-trustee-snp/evidence-v1.json", "2025-06-01T00:00:00Z", NULL, CHALLENGE,
     "e15c4479"},
    {"az-snp-vtpm", AZ "coco-trustee-snp/evidence-v2.json", "2025-06-01T00:00:00Z", NULL,
     LONG_NONCE, "84275b2f"},
    {"az-snp-vtpm", AZ "coco-trustee-snp/evidence-v2.json", "2025-06-01T00:00:00Z",
     "evidence.nonce", CHALLENGE, NULL},
    {"az-snp-vtpm", AZ "coco-trustee-snp/evidence-genoa.json", "2025-06-01T00:00:00Z", NULL, NULL,
     "afd689d0"},
    {"az-snp-vtpm", AZ "attestation-rs/az_snp-evidence-v1.json", "2025-06-01T00:00:00Z", NULL,
     CHALLENGE, ""},
    {"az-snp-vtpm", AZ "attestation-rs/az_snp-live-evidence.json", "2026-03-01T00:00:00Z", NULL,
     NULL, ""},
    {"az-snp-vtpm", AZ "attestation-rs/az_snp-milan-v3-attestation.json", "2026-03-01T00:00:00Z",
     NULL, NULL, ""},
    {"az-tdx-vtpm", AZ "coco-trustee-tdx/evidence-v0.json", "2025-06-01T00:00:00Z", NULL, CHALLENGE,
     "782b20b1"},
    {"az-tdx-vtpm", AZ "coco-trustee-tdx/evidence-v1.json", "2025-06-01T00:00:00Z", NULL, CHALLENGE,
     "782b20b1"},
    {"az-tdx-vtpm", AZ "attestation-rs/az_tdx-evidence-v1.json", "2025-06-01T00:00:00Z", NULL,
     CHALLENGE, ""},
    {"az-tdx-vtpm", AZ "attestation-rs/az_tdx-live-evidence.json", "2026-03-01T00:00:00Z", NULL,
     NULL, ""},
    {"az-tdx-vtpm", AZ "coco-trustee-snp/evidence-v1.json", "2025-06-01T00:00:00Z",
     "evidence.hcl_report.runtime_data", NULL, NULL},
    {"az-snp-vtpm", "derived/azure-vtpm/sig_flip.json", "2025-06-01T00:00:00Z",
     "evidence.quote.signature", NULL, NULL},
    {"az-snp-vtpm", "derived/azure-vtpm/pcr_swap.json", "2025-06-01T00:00:00Z",
     "evidence.quote.pcr_digest", NULL, NULL},
    {"az-snp-vtpm", "derived/azure-vtpm/pcr_extra.json", "2025-06-01T00:00:00Z",
     "evidence.tpm_quote.pcrs", NULL, NULL},
    {"az-snp-vtpm", "derived/azure-vtpm/snp_measurement_flip.json", "2025-06-01T00:00:00Z",
     "evidence.report.signature", NULL, NULL},
    {"az-snp-vtpm", "derived/azure-vtpm/hcl_of_other_vm.json", "2025-06-01T00:00:00Z",
     "evidence.quote.signature", NULL, NULL},
    {"az-snp-vtpm", "derived/azure-vtpm/vcek_of_other_chip.json", "2025-06-01T00:00:00Z", "", NULL,
     NULL},
    {"tpm", "tpm/coco-trustee/tpm_evidence.json", "2025-06-01T00:00:00Z", NULL, NULL, "00000000"},
    {"tpm", "tpm/google-go-tpm-tools/gce-cos-85-no-nonce.pb", "2021-06-01T00:00:00Z", NULL, NULL,
     ""},
    {"tpm", "tpm/google-go-tpm-tools/gce-cos-85-nonce9009.pb", "2021-06-01T00:00:00Z", NULL, "9009",
     ""},
    {"tpm", "tpm/google-go-tpm-tools/gce-cos-85-no-nonce.pb", "2021-06-01T00:00:00Z",
     "evidence.nonce", "9009", NULL},
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

static int run(const struct row *r, struct bytes evidence, struct appraisal *a, struct err *e)
{
    _cleanup_(certs_freep) struct certs *store = certs_new(64);
    _cleanup_(collateral_freep) struct collateral *c = collateral_new(store);
    const struct appraisal_policy policy = {0};
    struct appraisal_input in = {.evidence = evidence, .collateral = c};
    uint8_t nonce[64];

    if (r->nonce) {
        in.nonce = BYTES(nonce, strlen(r->nonce) / 2);
        assert_int_equal(hex_decode(r->nonce, nonce, in.nonce.n, NULL), 0);
    }
    assert_int_equal(rfc3339_ms(r->at, &in.now_ms), 0);
    *e = (struct err){0};
    return appraiser_find(r->tee)->appraise(&in, &policy, a, e);
}

static const char *pcr0_of(const json_t *claims)
{
    const json_t *tpm = json_object_get(claims, "tpm");

    return json_string_value(json_object_get(tpm ? tpm : claims, "pcr00"));
}

static void test_rows(void **state)
{
    (void)state;
    int bad = 0;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct row *r = &rows[i];
        _cleanup_buf_ struct buf b = {0};
        struct appraisal a = {0};
        struct err e;
        load(r->file, &b);
        int rc = run(r, buf_bytes(&b), &a, &e);
        if (r->clause ? !rc || (*r->clause && !streq(e.clause, r->clause)) : rc) {
            print_error("%s: expected %s, got %s: %s\n", r->file, r->clause ? r->clause : "genuine",
                        e.clause, e.msg);
            bad++;
        } else if (!rc) {
            assert_memory_equal(pcr0_of(a.claims), r->pcr0, strlen(r->pcr0));
            assert_int_equal(a.tier, streq(r->tee, "tpm") ? TIER_NONE : TIER_HARDWARE);
        }
        appraisal_done(&a);
    }
    assert_int_equal(bad, 0);
}

/* Characters of the texts that are signed or bound: message, signature, PCRs, and the HCL blob up
 * to the end of the signed report. */
static size_t mutate(const struct row *r, const char *from, size_t skip, size_t length, size_t step)
{
    _cleanup_buf_ struct buf b = {0};
    size_t n = 0;

    load(r->file, &b);
    char *at = strstr((char *)b.p, from);
    assert_non_null(at);
    at += strlen(from) + skip;
    assert_true(at + length < (char *)b.p + b.n);
    for (size_t i = 0; i < length; i += step, n++) {
        struct appraisal a = {0};
        struct err e;
        char old = at[i];
        at[i] = old == '3' ? '5' : '3';
        if (run(r, buf_bytes(&b), &a, &e) == 0) {
            fail_msg("%s: character %zu behind %s is not bound", r->file, i, from);
        }
        at[i] = old;
    }
    return n;
}

static void test_mutations(void **state)
{
    (void)state;
    const struct row *snp = &rows[1], *tdx = &rows[9];
    size_t n = 0;

    n += mutate(snp, "\"message\": \"", 0, 240, 3);
    n += mutate(snp, "\"signature\": \"", 0, 512, 5);
    n += mutate(snp, "\"hcl_report\": \"", 43, 880, 9);
    n += mutate(snp, "\"hcl_report\": \"", 1648, 1400, 17);
    n += mutate(tdx, "\"message\": \"", 0, 240, 3);
    n += mutate(tdx, "\"signature\": \"", 0, 512, 7);
    n += mutate(tdx, "\"td_quote\": \"", 0, 1500, 29);
    assert_true(n >= 400);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_mutations),
    };

    if (access(VECTORS, F_OK)) {
        fprintf(stderr, "skipped: there is no " VECTORS "\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}

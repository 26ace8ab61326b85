/* Real Nitro documents, from ../shared/vectors beside the source tree; without it there is nothing
 * to test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "appraise/nitro.h"
#include "appraise/when.h"
#include "common/fileio.h"

#define VECTORS "../shared/vectors/nitro/"
#define DBG "evidence.pcrs"

static const struct row {
    const char *file, *at, *clause; /* clause NULL: genuine */
    const char *pcr0;               /* how it begins */
} rows[] = {
    {"evervault/non-debug-in-cert.crt", "2023-01-18T13:07:20Z", NULL, "d265a83f"},
    {"evervault/non-debug-from-cert.cbor", "2023-01-18T13:07:20Z", NULL, "d265a83f"},
    {"evervault/debug-mode-attestation-doc-bytes", "2022-10-12T13:50:06Z", DBG, NULL},
    {"evervault/valid-attestation-doc-bytes", "2022-10-13T08:58:03Z", NULL, ""},
    {"evervault/valid-attestation-doc-ga.cbor", "2023-09-18T15:03:31Z", DBG, NULL},
    {"veracruz/aws_nitro_document.cbor", "2022-11-09T22:52:01Z", NULL, ""},
    {"veracruz/aws_nitro_document_bad_sig.cbor", "2022-11-09T22:52:01Z", "evidence.signature",
     NULL},
    {"dstack/dstack-attest-nitro_attestation.bin", "2025-12-25T16:04:20Z", NULL, "eb7d0dab"},
    {"dstack/dstack-attest-nitro_attestation_dbg.bin", "2025-12-25T08:20:47Z", DBG, NULL},
    {"dstack/nsm-qvl-nitro_attestation.bin", "2025-12-25T13:15:38Z", NULL, ""},
    {"base-nitro-validator/hinted_repaired.cbor", "2026-01-03T20:41:07Z", NULL, ""},
    {"base-nitro-validator/hinted_repaired.cbor", "2026-01-21T00:00:00Z",
     "evidence.chain[0].not_after", NULL},
    {"base-nitro-validator/hinted_repaired.cbor", "2025-12-01T00:00:00Z",
     "evidence.chain[0].not_before", NULL},
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

static int run(struct bytes evidence, const char *at, struct appraisal *a, struct err *e)
{
    const struct appraisal_policy policy = {0};
    struct appraisal_input in = {.evidence = evidence};

    assert_int_equal(rfc3339_ms(at, &in.now_ms), 0);
    *e = (struct err){0};
    return nitro_appraise(&in, &policy, a, e);
}

static void test_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct row *r = &rows[i];
        _cleanup_buf_ struct buf b = {0};
        struct appraisal a = {0};
        struct err e;
        load(r->file, &b);
        int rc = run(buf_bytes(&b), r->at, &a, &e);
        if (r->clause ? !rc || !streq(e.clause, r->clause) : rc) {
            fail_msg("%s: expected %s, got %s: %s", r->file, r->clause ? r->clause : "genuine",
                     e.clause, e.msg);
        }
        if (!rc) {
            const char *pcr0 = json_string_value(json_object_get(a.claims, "pcr00"));
            assert_memory_equal(pcr0, r->pcr0, strlen(r->pcr0));
            assert_int_equal(a.tier, TIER_ENCLAVE);
        }
        appraisal_done(&a);
    }
}

static void test_mutations(void **state)
{
    (void)state;
    static const size_t which[] = {5, 10};
    size_t n = 0;

    for (size_t k = 0; k < ARRAY_LEN(which); k++) {
        const struct row *r = &rows[which[k]];
        _cleanup_(certs_freep) struct certs *store = certs_new(64);
        _cleanup_(collateral_freep) struct collateral *c = collateral_new(store);
        const struct appraisal_policy policy = {0};
        _cleanup_buf_ struct buf b = {0};
        load(r->file, &b);
        struct appraisal_input in = {.evidence = buf_bytes(&b), .collateral = c};
        assert_int_equal(rfc3339_ms(r->at, &in.now_ms), 0);
        for (size_t i = 0; i < b.n; i += 7, n++) {
            struct appraisal a = {0};
            struct err e = {0};
            b.p[i] ^= (uint8_t)(1u << i % 8);
            if (nitro_appraise(&in, &policy, &a, &e) == 0) {
                fail_msg("%s: byte %zu is not bound", r->file, i);
            }
            b.p[i] ^= (uint8_t)(1u << i % 8);
        }
        struct appraisal a = {0};
        assert_int_equal(nitro_appraise(&in, &policy, &a, NULL), 0);
        appraisal_done(&a);
    }
    assert_true(n >= 1000);
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

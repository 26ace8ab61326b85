#include "cli/cli_testing.h"

#include "appraise/dcap_testing.h"

/* coffer appraise: exit status and answers, with a platform of our own. */

static struct dcap_platform platform;

static void put_bytes(const char *path, struct buf take)
{
    struct err e = {0};

    assert_int_equal(file_replace(path, buf_bytes(&take), 0600, &e), 0);
    buf_done(&take);
}

static int enter(void **state)
{
    static const struct dcap_level levels[] = {{7, 5, 13, "SWHardeningNeeded", "INTEL-SA-1"}};
    struct dcap_quote_opts q = {.version = 4,
                                .body = DCAP_BODY_TD_10,
                                .qe_svn = 8,
                                .tee_tcb_svn = {5, 0},
                                .report_data = 7};
    struct dcap_info_opts o = {.is_tdx = 1, .levels = levels, .n_levels = 1};

    if (test_enter(state)) {
        return -1;
    }
    dcap_platform_make(&platform);
    put_file("root.pem", platform.root.pem);
    put_bytes("quote.bin", dcap_quote_make(&platform, &q));
    q.td_debug = 1;
    put_bytes("debug.bin", dcap_quote_make(&platform, &q));
    assert_int_equal(mkdir("collateral", 0700), 0);
    put_bytes("collateral/info.json",
              dcap_signed(&platform, &platform.tcb_signing, "tcbInfo", dcap_info_text(&o)));
    put_bytes("collateral/identity.json",
              dcap_signed(&platform, &platform.tcb_signing, "enclaveIdentity",
                          dcap_identity_text(1, 0, 0)));
    put_bytes("collateral/root.crl", pki_crl(&platform.root, 0, 0, 1, NULL, 0, 0));
    put_bytes("collateral/pck.crl", pki_crl(&platform.ca, 0, 0, 1, NULL, 0, 0));
    put_file("collateral/readme.txt", "not collateral");
    put_file("strict.yaml",
             "apiVersion: coffer/v1\nkind: AppraisalPolicy\nmetadata: {name: s, version: 1}\n"
             "rules:\n  - {name: up to date, claim: appraisal.tcb_status, op: eq, value: UpToDate,"
             " refuse: true}\n");
    put_file("sgx.yaml",
             "apiVersion: coffer/v1\nkind: AppraisalPolicy\nmetadata: {name: s, version: 1}\n"
             "tees: [sgx]\nrules:\n  - {name: x, claim: a, op: absent, refuse: true}\n");
    return 0;
}

static int leave(void **state)
{
    dcap_platform_done(&platform);
    return test_leave(state);
}

#define AT "--root root.pem --at 2026-01-01T00:00:00Z "

static void test_genuine(void **state)
{
    (void)state;
    assert_ran("appraise --tee tdx " AT "quote.bin", CLI_OK, "unverified-tcb", "was not checked");
    assert_ran("appraise --tee tdx " AT "--collateral collateral quote.bin", CLI_OK,
               "genuine tdx evidence\n  tier         hardware\n  tcb status   SWHardeningNeeded\n"
               "  advisories   INTEL-SA-1\n  appraisal    warning\n",
               "1 files of unknown form");
    assert_ran("appraise --tee tdx " AT
               "-c collateral/info.json,collateral/identity.json quote.bin",
               CLI_OK, "not checked  root_crl\n               pck_crl", "");
    assert_ran("appraise --tee tdx " AT "-v debug.bin", CLI_OK, "\"debug\": true", "");
}

static void test_json(void **state)
{
    (void)state;
    _cleanup_ran_ struct ran r =
        run_line("appraise --tee tdx " AT "-c collateral --json quote.bin");
    _cleanup_json_ json_t *j = json_loads(r.out, 0, NULL);
    _cleanup_ran_ struct ran bad =
        run_line("appraise --tee tdx --at 2026-01-01T00:00:00Z --json quote.bin");
    _cleanup_json_ json_t *k = json_loads(bad.out, 0, NULL);

    assert_int_equal(r.code, 0);
    assert_true(json_is_true(json_object_get(j, "genuine")));
    assert_string_equal(json_string_value(json_object_get(j, "tcb_status")), "SWHardeningNeeded");
    assert_int_equal(json_array_size(json_object_get(j, "advisories")), 1);
    assert_string_equal(json_string_value(json_object_get(j, "tier")), "hardware");
    assert_true(json_is_object(json_object_get(json_object_get(j, "claims"), "quote")));
    assert_null(json_object_get(j, "failed"));
    /* nobody trusts that root */
    assert_int_equal(bad.code, 1);
    assert_true(json_is_false(json_object_get(k, "genuine")));
    const json_t *failed = json_object_get(k, "failed");
    assert_string_equal(json_string_value(json_object_get(failed, "check")),
                        "evidence.pck_chain.root");
    assert_string_equal(json_string_value(json_object_get(failed, "actual")), "Intel SGX Root CA");
}

static void test_refused(void **state)
{
    char line[512], right[129], wrong[129];
    (void)state;

    for (int i = 0; i < 64; i++) {
        snprintf(right + 2 * i, 3, "07");
        snprintf(wrong + 2 * i, 3, i < 63 ? "07" : "08");
    }
    snprintf(line, sizeof(line), "appraise --tee tdx " AT "--report-data %s quote.bin", right);
    assert_ran(line, CLI_OK, "genuine", "");
    snprintf(line, sizeof(line), "appraise --tee tdx " AT "--report-data %s quote.bin", wrong);
    assert_ran(line, 1, "evidence.report_data", "");
    assert_ran("appraise --tee tdx " AT "--report-data 0707 quote.bin", 1, "evidence.report_data",
               ""); /* no prefix: the rest is zeros */
    assert_ran("appraise --tee sgx " AT "quote.bin", 1, "evidence.quote.tee_type", "");
    assert_ran("appraise --tee tdx --root root.pem --at 2036-01-01T00:00:00Z quote.bin", 1,
               "not_after", "");
    assert_ran("appraise --tee tdx " AT "-c strict.yaml quote.bin", 1, "collateral", "");
    assert_ran("appraise --tee tdx " AT "-c collateral --policy strict.yaml quote.bin", 1,
               "policy.up to date", "");
    assert_ran("appraise --tee tdx " AT "strict.yaml", 1, "evidence", "");
}

static void test_usage(void **state)
{
    (void)state;
    assert_ran("appraise --tee tdx nope.bin", CLI_USAGE, "", "nope.bin");
    assert_ran("appraise --tee tdx -c nope quote.bin", CLI_USAGE, "", "--collateral: nope");
    assert_ran("appraise --tee tdx --report-data 070 quote.bin", CLI_USAGE, "", "in hex");
    assert_ran("appraise --tee tdx --nonce xyz7 quote.bin", CLI_USAGE, "", "--nonce");
    assert_ran("appraise --tee tdx --root quote.bin quote.bin", CLI_USAGE, "", "--root");
    assert_ran("appraise --tee tdx " AT "--policy nope.yaml quote.bin", CLI_USAGE, "", "nope.yaml");
    assert_ran("appraise --tee tdx " AT "--policy sgx.yaml quote.bin", CLI_USAGE, "",
               "which is for others");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_genuine), cmocka_unit_test(test_json),
                                       cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_usage)};

    return cmocka_run_group_tests(tests, enter, leave);
}

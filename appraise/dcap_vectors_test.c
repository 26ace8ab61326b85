/* Real quotes and collateral, from ../shared/vectors beside the source tree: every line of its
 * matrix of quotes and collateral, and what its manifest says of quotes and mutations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "appraise/appraiser.h"
#include "appraise/when.h"
#include "common/fileio.h"

#define VECTORS "../shared/vectors/"
#define FILE_MAX_BYTES (1u << 20)

static int setup(void **state)
{
    (void)state;
    if (access(VECTORS "dcap-matrix.tsv", R_OK)) {
        print_message("SKIPPED: no real vectors beside the source tree\n");
        exit(77);
    }
    return 0;
}

static void load(const char *name, struct buf *ret)
{
    _cleanup_free_ char *path = xasprintf(VECTORS "%s", name);
    struct err e = {0};

    *ret = BUF_INIT(FILE_MAX_BYTES);
    if (file_read(path, FILE_MAX_BYTES, 0, ret, &e)) {
        fail_msg("%s", e.msg);
    }
}

struct outcome {
    int rc;
    struct err e;
    char status[64], advisories[1024];
    size_t unchecked;
};

static void note_advisories(const json_t *list, struct outcome *ret)
{
    size_t i, at = 0;
    json_t *id;

    json_array_foreach((json_t *)(uintptr_t)list, i, id)
    {
        at += (size_t)snprintf(ret->advisories + at, sizeof(ret->advisories) - at, "%s%s",
                               i ? "," : "", json_string_value(id));
    }
}

static const char *extra_root; /* a vector's name, or NULL */

static void trust(struct certs *certs, const struct cert **ret)
{
    _cleanup_buf_ struct buf pem = {0};
    struct cert *c;
    struct err e = {0};
    size_t n;

    load(extra_root, &pem);
    assert_int_equal(certs_add_pem(certs, "root", buf_bytes(&pem), &c, 1, &n, &e), 0);
    *ret = c;
}

/* `collateral`: names with commas between; "" none. */
static void appraise(const char *quote, const char *collateral, const char *at, struct outcome *ret)
{
    _cleanup_(certs_freep) struct certs *certs = certs_new(256);
    _cleanup_(collateral_freep) struct collateral *c = collateral_new(certs);
    _cleanup_free_ char *names = xstrdup(collateral);
    _cleanup_buf_ struct buf q = {0};
    struct appraisal_policy policy = {0};
    const struct cert *root;
    struct appraisal a = {0};
    struct appraisal_input in = {.collateral = c};
    char *save = NULL;

    *ret = (struct outcome){0};
    if (extra_root) {
        trust(certs, &root);
        policy.roots = &root;
        policy.n_roots = 1;
    }
    load(quote, &q);
    in.evidence = buf_bytes(&q);
    assert_int_equal(rfc3339_ms(at, &in.now_ms), 0);
    for (char *n = strtok_r(names, ",", &save); n; n = strtok_r(NULL, ",", &save)) {
        _cleanup_free_ char *path = xasprintf(VECTORS "%s", n);
        size_t unknown;
        if (collateral_add_path(c, path, &unknown, &ret->e)) {
            ret->rc = -1;
            return;
        }
    }
    /* a comment or a short text may come before the quote: the appraiser finds out */
    const char *tee =
        memmem(q.p, q.n < 128 ? q.n : 128, "\x02\x00\x81\x00\x00\x00", 6) ? "tdx" : "sgx";
    ret->rc = appraiser_find(tee)->appraise(&in, &policy, &a, &ret->e);
    snprintf(ret->status, sizeof(ret->status), "%s", tcb_status_name(a.tcb_status));
    note_advisories(a.advisories, ret);
    ret->unchecked = json_array_size(a.unchecked);
    appraisal_done(&a);
}

/* ---- the matrix ------------------------------------------------------------------------------ */

enum { QUOTE = 0, TCB = 5, QE = 7, START = 8, VALID = 10, STATUS = 13, ADVISORIES = 14, COLUMNS };

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Sorted, each once. */
static void normal_advisories(const char *in, char *ret, size_t n)
{
    _cleanup_free_ char *copy = xstrdup(in);
    char *v[64], *save = NULL;
    size_t k = 0, at = 0;

    for (char *p = strtok_r(copy, ",", &save); p && k < 64; p = strtok_r(NULL, ",", &save)) {
        v[k++] = p;
    }
    qsort(v, k, sizeof(*v), by_text);
    ret[0] = '\0';
    for (size_t i = 0; i < k; i++) {
        if (!i || !streq(v[i], v[i - 1])) {
            at += (size_t)snprintf(ret + at, n - at, "%s%s", at ? "," : "", v[i]);
        }
    }
}

static void check_line(char *line, size_t *ret_checked)
{
    char *column[COLUMNS] = {0}, expected[1024];
    struct outcome o;

    for (size_t i = 0; i < COLUMNS; i++) {
        column[i] = strsep(&line, "\t");
        column[i] = column[i] ? column[i] : (char *)(uintptr_t) "";
    }
    int same = streq(column[TCB], column[QE]) || streq(column[QE], "None");
    _cleanup_free_ char *collateral =
        xasprintf("%s%s%s", column[TCB], same ? "" : ",", same ? "" : column[QE]);
    appraise(column[QUOTE], collateral, column[START], &o);
    (*ret_checked)++;
    if (streq(column[VALID], "False")) { /* the platform's certificate was made later */
        if (o.rc != -1 || !streq(o.e.clause, "evidence.pck_chain[0].not_before")) {
            fail_msg("%s with %s: expected a certificate that is not valid yet, found %s",
                     column[QUOTE], collateral, o.e.msg);
        }
        return;
    }
    normal_advisories(column[ADVISORIES], expected, sizeof(expected));
    if (o.rc || !streq(o.status, column[STATUS]) || !streq(o.advisories, expected)) {
        fail_msg("%s with %s at %s: expected %s %s, found %s %s %s", column[QUOTE], collateral,
                 column[START], column[STATUS], expected, o.status, o.advisories, o.e.msg);
    }
}

static void test_matrix(void **state)
{
    _cleanup_buf_ struct buf text = {0};
    size_t checked = 0;
    char *line, *rest;
    (void)state;

    load("dcap-matrix.tsv", &text);
    rest = (char *)text.p;
    while ((line = strsep(&rest, "\n"))) {
        if (*line && *line != '#') {
            check_line(line, &checked);
        }
    }
    assert_int_equal(checked, 140);
}

/* ---- mutations ------------------------------------------------------------------------------- */

static void test_derived(void **state)
{
    static const struct {
        const char *name, *clause;
    } quotes[] = {
        {"tdx/v4_reportdata_flip.bin", "evidence.quote.signature"},
        {"tdx/v4_sig_zero.bin", "evidence.quote.signature"},
        {"tdx/v4_sig_r_eq_n.bin", "evidence.quote.signature"},
        {"tdx/v4_ak_zero.bin", "evidence.qe_report.report_data"},
        {"tdx/v4_qe_report_flip.bin", "evidence.qe_report.signature"},
        {"tdx/v4_qe_mrsigner_flip.bin", "evidence.qe_report.signature"},
        {"tdx/v4_qe_isvsvn_raise.bin", "evidence.qe_report.signature"},
        {"tdx/v4_qe_sig_flip.bin", "evidence.qe_report.signature"},
        {"tdx/v4_qe_auth_flip.bin", "evidence.qe_report.report_data"},
        {"tdx/v4_certdata_splice.bin", "evidence.qe_report.report_data"},
        {"tdx/v4_pem_corrupt.bin", "evidence.pck_chain"},
        {"tdx/v4_authlen_plus.bin", "evidence.quote"},
        {"tdx/v4_authlen_zero.bin", "evidence.quote"},
        {"tdx/v4_outer_certtype_5.bin", "evidence.quote.certification_data"},
        {"tdx/v4_outer_certlen_big.bin", "evidence.quote.auth_data"},
        {"tdx/v4_inner_certtype_7.bin", "evidence.quote.certification_data"},
        {"tdx/v4_inner_certlen_short.bin", "evidence.quote.auth_data"},
        {"tdx/v4_version_6.bin", "evidence.quote.version"},
        {"tdx/v4_version_3.bin", "evidence.quote.tee_type"},
        {"tdx/v4_version_5.bin", "evidence.quote.body_type"},
        {"tdx/v4_tee_0.bin", "evidence.quote"},
        {"tdx/v4_trunc_47.bin", "evidence"},
        {"tdx/v4_trunc_48.bin", "evidence"},
        {"tdx/v4_trunc_632.bin", "evidence"},
        {"tdx/v4_trunc_636.bin", "evidence"},
        {"tdx/v4_trunc_780.bin", "evidence"},
        {"tdx/v4_trunc_1500.bin", "evidence.quote"},
        {"tdx/v5_bodytype_2.bin", "evidence.quote.body_size"},
        {"tdx/v5_mrservicetd_set.bin", "evidence.quote.signature"},
        {"tdx/v5_tcbsvn2_raise.bin", "evidence.quote.signature"},
        {"sgx/v3_mrenclave_flip.bin", "evidence.quote.signature"},
        {"sgx/v3_reportdata_flip.bin", "evidence.quote.signature"},
    };
    static const struct {
        const char *name, *clause;
    } sets[] = {
        {"tcbinfo_svn_edit.json", "collateral.tcb_info.signature"},
        {"tcbinfo_other_fmspc.json", "collateral.tcb_info.fmspc"},
        {"tcbinfo_sgx_for_tdx.json", "collateral.tcb_info.id"},
        {"qeidentity_sgx_for_tdx.json", "collateral.qe_identity.id"},
        {"qeidentity_edit.json", "collateral.qe_identity.signature"},
        {"sig_swapped.json", "collateral.tcb_info.signature"},
        {"tcb_chain_is_pck_chain.json", "collateral.tcb_info.chain"},
        {"pckcrl_processor.json", "collateral.pck_crl.issuer"},
        {"pckcrl_is_rootcrl.json", "collateral.pck_crl.issuer"},
        {"pckcrl_badsig.json", "collateral.pck_crl.signature"},
        {"rootcrl_empty.json", "collateral.root_ca_crl"},
        {"tcbinfo_dupkey.json", "collateral"},
    };
    struct outcome o;
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(quotes); i++) {
        _cleanup_free_ char *name = xasprintf("derived/%s", quotes[i].name);
        appraise(name, "", "2026-03-01T00:00:00Z", &o);
        if (o.rc != -1 || strncmp(o.e.clause, quotes[i].clause, strlen(quotes[i].clause)) != 0) {
            fail_msg("%s: expected %s, found %s: %s", name, quotes[i].clause, o.e.clause, o.e.msg);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(sets); i++) {
        _cleanup_free_ char *name = xasprintf("derived/collateral/%s", sets[i].name);
        appraise("tdx/phala-dcap-qvl/tdx_quote", name, "2025-07-01T00:00:00Z", &o);
        if (o.rc != -1 || strncmp(o.e.clause, sets[i].clause, strlen(sets[i].clause)) != 0) {
            fail_msg("%s: expected %s, found %s: %s", name, sets[i].clause, o.e.clause, o.e.msg);
        }
    }
}

/* ---- what the sources say -------------------------------------------------------------------- */

static void test_stated(void **state)
{
    static const struct {
        const char *quote, *collateral, *at, *status, *clause;
    } cases[] = {
        {"tdx/google-go-tdx-guest/tdx_prod_quote_SPR_E4.dat", "", "2023-07-01T01:00:00Z",
         "unverified-tcb", ""},
        {"tdx/google-go-tdx-guest/tdx_prod_quote_SPR_E4.dat", "", "2053-07-01T01:00:00Z", "",
         "evidence.pck_chain[0].not_after"},
        {"tdx/google-go-tdx-guest/quote_v5_sample.dat", "", "2026-02-03T01:00:00Z",
         "unverified-tcb", ""},
        {"tdx/google-go-tdx-guest/quote_v5_sample.dat",
         "tdx/google-go-tdx-guest/sample_tcbinfo_response_v5.json", "2026-02-03T01:00:00Z",
         "UpToDate", ""},
        {"tdx/phala-dcap-qvl/tdx_quote", "tdx/phala-dcap-qvl/tdx_quote_collateral.json",
         "2025-07-19T10:16:02Z", "UpToDate", ""},
        {"tdx/phala-dcap-qvl/tdx_quote", "tdx/phala-dcap-qvl/tdx_quote_collateral.json",
         "2025-07-19T10:16:04Z", "", "collateral.tcb_info.next_update"},
        {"tdx/oasis-core/quote_v4_tdx_ecdsa_p256.bin",
         "tdx/oasis-core/tcb_info_v3_tdx_fmspc_C0806F000000.json,"
         "tdx/oasis-core/qe_identity_v2_tdx2.json",
         "2024-09-02T07:43:52Z", "UpToDate", ""},
        {"tdx/openenclave/tdx_quote-moduleupdate-seamldr5.dat",
         "tdx/openenclave/tdx_endorsement.bin", "2025-03-10T00:00:00Z", "TDRelaunchAdvised", ""},
        /* roots of others' making */
        {"tdx/intel-qvl-sample/quote.dat", "tdx/intel-qvl-sample/pckCert.pem",
         "2026-02-03T01:00:00Z", "", "evidence.pck_chain.root"},
        {"sgx/intel-qvl-sample/quote.dat", "sgx/intel-qvl-sample", "2023-02-03T01:00:00Z", "",
         "evidence.pck_chain"},
        {"sgx/openenclave/sgx_report_bad.bin", "", "2022-02-03T01:00:00Z", "", "evidence"},
    };
    struct outcome o;
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        appraise(cases[i].quote, cases[i].collateral, cases[i].at, &o);
        if ((o.rc == 0) != !*cases[i].clause || !streq(o.status, cases[i].status) ||
            (o.rc && strncmp(o.e.clause, cases[i].clause, strlen(cases[i].clause)) != 0)) {
            fail_msg("%s with %s: expected %s%s, found %s %s: %s", cases[i].quote,
                     cases[i].collateral, cases[i].status, cases[i].clause, o.status, o.e.clause,
                     o.e.msg);
        }
    }
    /* and with that root it is whole */
    extra_root = "sgx/intel-qvl-sample/trustedRootCaCert.pem";
    appraise("sgx/intel-qvl-sample/quote.dat", "sgx/intel-qvl-sample", "2023-02-03T01:00:00Z", &o);
    extra_root = NULL;
    if (o.rc || o.unchecked) {
        fail_msg("%s, %zu unchecked", o.e.msg, o.unchecked);
    }
    assert_string_not_equal(o.status, "unverified-tcb");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_matrix),
                                       cmocka_unit_test(test_derived),
                                       cmocka_unit_test(test_stated)};

    return cmocka_run_group_tests(tests, setup, NULL);
}

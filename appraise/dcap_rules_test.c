/* Rules of Intel's QVL that only documents of one's own can show, text by text; what the PCK
 * extension and evidence may look like; and how long hostile texts may take. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/evp.h>
#include <time.h>

#include "appraise/dcap.h"
#include "appraise/dcap_testing.h"

static const struct dcap_level levels[] = {{7, 5, 13, "UpToDate", ""},
                                           {4, 4, 10, "OutOfDate", "INTEL-SA-3"}};

static struct buf info_text(int is_tdx, const char *more)
{
    return dcap_info_text(&(struct dcap_info_opts){
        .is_tdx = is_tdx, .levels = levels, .n_levels = ARRAY_LEN(levels), .more = more});
}

/* The text with the first `from` in it replaced. */
static struct buf edited(struct buf take, const char *from, const char *to)
{
    struct buf out = BUF_INIT(1u << 20);
    const uint8_t *at = memmem(take.p, take.n, from, strlen(from));

    assert_non_null(at);
    size_t before = (size_t)(at - take.p), skip = before + strlen(from);
    put(&out, take.p, before);
    put(&out, to, strlen(to));
    put(&out, take.p + skip, take.n - skip);
    buf_done(&take);
    return out;
}

static void expect_info(struct buf take, const char *clause)
{
    struct tcb_info *t = NULL;
    struct err e = {0};
    int rc = tcb_info_parse(buf_bytes(&take), &t, &e);

    if ((rc == 0) != !*clause || (rc && !streq(e.clause, clause))) {
        fail_msg("expected \"%s\", found %s: %s", clause, e.clause, e.msg);
    }
    if (rc == 0) {
        tcb_info_free(t);
    }
    buf_done(&take);
}

static void expect_identity(struct buf take, const char *clause)
{
    struct qe_identity *q = NULL;
    struct err e = {0};
    int rc = qe_identity_parse(buf_bytes(&take), &q, &e);

    if ((rc == 0) != !*clause || (rc && !streq(e.clause, clause))) {
        fail_msg("expected \"%s\", found %s: %s", clause, e.clause, e.msg);
    }
    if (rc == 0) {
        qe_identity_free(q);
    }
    buf_done(&take);
}

#define MODULE(status)                                                                             \
    ",\"tdxModuleIdentities\":[{\"id\":\"tdx_0a\",\"mrsigner\":\"00000000000000000000000000000000" \
    "0000000000000000000000000000000000000000000000000000000000000000\",\"attributes\":"           \
    "\"0000000000000000\",\"attributesMask\":\"FFFFFFFFFFFFFFFF\",\"tcbLevels\":["                 \
    "{\"tcb\":{\"isvsvn\":4},\"tcbDate\":\"2024-01-01T00:00:00Z\",\"tcbStatus\":\"" status         \
    "\"}]}]"

/* ---- documents ------------------------------------------------------------------------------- */

static void test_documents(void **state)
{
    static const struct {
        int is_tdx;
        const char *from, *to, *clause;
    } cases[] = {
        {1, "\"id\":\"TDX\"", "\"id\":\"TDX\"", ""},
        {1, "\"id\":\"TDX\"", "\"id\":\"tdx\"", "collateral.tcb_info.id"},
        {1, "\"id\":\"TDX\",", "", "collateral.tcb_info.id"},
        {1, "\"version\":3", "\"version\":4", "collateral.tcb_info.version"},
        {1, "\"version\":3", "\"version\":3.0", "collateral.tcb_info.version"},
        {1, "\"tcbType\":0", "\"tcbType\":1", "collateral.tcb_info.tcbType"},
        {1, "90C06F000000", "90c06f000000", ""},
        {1, "90C06F000000", "90C06F0000", "collateral.tcb_info.fmspc"},
        {1, "90C06F000000", "90C06F00000G", "collateral.tcb_info.fmspc"},
        {1, "\"pceId\":\"0000\"", "\"pceId\":0", "collateral.tcb_info.pceId"},
        {1, "\"tdxModule\":", "\"tdxmodule\":", "collateral.tcb_info.tdxModule"},
        {0, "\"tcbType\"", "\"tdxModule\":{},\"tcbType\"", "collateral.tcb_info.tdxModule"},
        {0, "\"tcbType\"", "\"tdxModuleIdentities\":[],\"tcbType\"",
         "collateral.tcb_info.tdxModule"},
        {1, "\"tdxtcbcomponents\"", "\"tdxtcb\"", "collateral.tcb_info.tcbLevels.tdxtcbcomponents"},
        {0, "\"sgxtcbcomponents\"", "\"sgxtcb\"", "collateral.tcb_info.tcbLevels.sgxtcbcomponents"},
        {1, "\"tdxtcbcomponents\":[{\"svn\":5},", "\"tdxtcbcomponents\":[",
         "collateral.tcb_info.tcbLevels.tdxtcbcomponents"},
        {1, "\"sgxtcbcomponents\":[", "\"sgxtcbcomponents\":[{\"svn\":7},",
         "collateral.tcb_info.tcbLevels.sgxtcbcomponents"},
        {1, "{\"svn\":7}", "{\"svn\":-7}", "collateral.tcb_info.tcbLevels.svn"},
        {1, "{\"svn\":7}", "{\"svn\":\"7\"}", "collateral.tcb_info.tcbLevels.svn"},
        {1, "{\"svn\":7}", "{}", "collateral.tcb_info.tcbLevels.svn"},
        {1, "{\"svn\":7}", "7", "collateral.tcb_info.tcbLevels.svn"},
        {1, "\"pcesvn\":13", "\"pcesvn\":65536", "collateral.tcb_info.tcbLevels.pcesvn"},
        {1, "\"UpToDate\"", "\"uptodate\"", "collateral.tcb_info.tcbLevels.tcbStatus"},
        {1, "\"UpToDate\"", "\"TDRelaunchAdvised\"", "collateral.tcb_info.tcbLevels.tcbStatus"},
        {1, "[\"INTEL-SA-3\"]", "\"INTEL-SA-3\"", "collateral.tcb_info.tcbLevels.advisoryIDs"},
        {1, "\"INTEL-SA-3\"", "3", "collateral.tcb_info.tcbLevels.advisoryIDs"},
        {1, "2025-01-01T00:00:00Z", "2025-13-01T00:00:00Z",
         "collateral.tcb_info.tcbLevels.tcbDate"},
        {1, "\"pceId\"", "\"fmspc\":\"90C06F000000\",\"pceId\"", "collateral.tcb_info"},
        {1, "]}", "]}x", "collateral.tcb_info"},
    };
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        expect_info(edited(info_text(cases[i].is_tdx, NULL), cases[i].from, cases[i].to),
                    cases[i].clause);
    }
    expect_info(info_text(1, MODULE("UpToDate")), "");
    expect_info(info_text(1, MODULE("Revoked")), "");
    expect_info(info_text(1, MODULE("ConfigurationNeeded")),
                "collateral.tcb_info.tdxModuleIdentities.tcbLevels.tcbStatus");
    expect_info(edited(info_text(1, MODULE("UpToDate")), "tdx_0a", "a name that is far too long"),
                "collateral.tcb_info.tdxModuleIdentities.id");
}

static void test_identities(void **state)
{
    static const struct {
        const char *from, *to, *clause;
    } cases[] = {
        {"\"id\"", "\"id\"", ""},
        {"TD_QE", "TDQE", "collateral.qe_identity.id"},
        {"\"version\":2", "\"version\":1", "collateral.qe_identity.version"},
        {"\"miscselect\"", "\"misc\"", "collateral.qe_identity.miscselect"},
        {"\"isvprodid\":2", "\"isvprodid\":65536", "collateral.qe_identity.isvprodid"},
        {"\"UpToDate\"", "\"SWHardeningNeeded\"", "collateral.qe_identity.tcbLevels.tcbStatus"},
        {"\"isvsvn\":6", "\"isvsvn\":8", "collateral.qe_identity.tcbLevels"},
        {"\"nextUpdate\"", "\"next\"", "collateral.qe_identity.nextUpdate"},
    };
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        expect_identity(edited(dcap_identity_text(1, 0, 0), cases[i].from, cases[i].to),
                        cases[i].clause);
    }
}

/* ---- launch and current ---------------------------------------------------------------------- */

static struct tcb_verdict evaluate(enum dcap_body type, const char *launch, const char *current)
{
    uint8_t body[885] = {0}, qe_report[384] = {0};
    const struct dcap_quote q = {.version = 5,
                                 .tee = DCAP_TEE_TDX,
                                 .body_type = type,
                                 .body = {body, sizeof(body)},
                                 .qe_report = qe_report};
    struct pck pck = {.pce_svn = 13};
    struct buf text = info_text(1, MODULE("UpToDate"));
    struct tcb_verdict v;
    struct tcb_info *t;
    struct err e = {0};

    memset(pck.sgx_svn, 7, 16);
    memset(body, 5, 16);
    memset(body + TD_TCB_SVN_2, 5, 16);
    memcpy(body, launch, 2);
    memcpy(body + TD_TCB_SVN_2, current, 2);
    assert_int_equal(tcb_info_parse(buf_bytes(&text), &t, &e), 0);
    if (tcb_evaluate(t, NULL, &pck, &q, &v, &e)) {
        fail_msg("%s", e.msg);
    }
    v.n_advisories = 0; /* they go with the document */
    tcb_info_free(t);
    buf_done(&text);
    return v;
}

static void test_current(void **state)
{
    static const enum dcap_body bodies[] = {DCAP_BODY_TD_15, DCAP_BODY_TD_15EX};
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        struct tcb_verdict v = evaluate(bodies[i], "\4\x0a", "\4\x0a");
        assert_int_equal(v.status, TCB_UP_TO_DATE);
        v = evaluate(bodies[i], "\4\x0a", "\3\x0a"); /* what it runs on now is on no level */
        assert_int_equal(v.status, TCB_NOT_SUPPORTED);
        assert_int_equal(v.launch, TCB_UP_TO_DATE);
        assert_int_equal(v.current, TCB_NOT_SUPPORTED);
        v = evaluate(bodies[i], "\4\x0a", "\4\x0b"); /* a module that nobody knows */
        assert_int_equal(v.status, TCB_NOT_SUPPORTED);
        v = evaluate(bodies[i], "\3\x0a", "\4\x0a");
        assert_int_equal(v.status, TCB_NOT_SUPPORTED);
        v = evaluate(bodies[i], "\4\0", "\5\0");
        assert_int_equal(v.status, TCB_OUT_OF_DATE == v.launch ? TCB_TD_RELAUNCH_ADVISED : 0);
    }
    struct tcb_verdict v = evaluate(DCAP_BODY_TD_10, "\4\x0a", "\3\x0a");
    assert_int_equal(v.status, TCB_UP_TO_DATE); /* a TD report 1.0 has no second SVN */
    assert_int_equal(v.current, TCB_NONE);
}

/* ---- the PCK certificate's extension --------------------------------------------------------- */

static void test_extension(void **state)
{
    struct dcap_platform p = {.pce_svn = 300};
    struct pck pck;
    struct err e = {0};
    size_t refused = 0;
    (void)state;

    memset(p.sgx_svn, 255, 16);
    struct buf ext = dcap_pck_extension(&p);
    assert_int_equal(pck_parse(buf_bytes(&ext), &pck, &e), 0);
    assert_int_equal(pck.pce_svn, 300);
    assert_memory_equal(pck.sgx_svn, p.sgx_svn, 16);
    assert_int_equal(pck.dynamic_platform, PCK_TRUE);
    assert_int_equal(pck.cached_keys, PCK_UNSAID);
    for (size_t n = 0; n < ext.n; n++) {
        assert_int_equal(pck_parse(BYTES(ext.p, n), &pck, &e), -1);
    }
    /* Every byte of a tag, a length or an identifier counts: what is left are values. */
    for (size_t i = 0; i < ext.n; i++) {
        uint8_t was = ext.p[i];
        struct pck other;
        ext.p[i] ^= 0x40;
        refused += pck_parse(buf_bytes(&ext), &other, &e) != 0;
        ext.p[i] = was;
    }
    size_t values = 16 + 16 * 2 + 2 + 16 + 2 + 6 + 1 + 16 + 2;
    assert_true(refused >= ext.n - values);
    buf_done(&ext);
}

/* ---- forms of evidence, and what it is bound to -----------------------------------------------
 */

static int appraise(struct bytes evidence, const struct dcap_platform *p,
                    const uint8_t *report_data, struct err *e)
{
    _cleanup_(certs_freep) struct certs *certs = certs_new(64);
    _cleanup_(collateral_freep) struct collateral *c = collateral_new(certs);
    struct appraisal a = {0};
    struct cert *root;

    *e = (struct err){0};
    assert_int_equal(certs_add_der(certs, "root", buf_bytes(&p->root.der), &root, e), 0);
    const struct cert *anchor = root;
    const struct appraisal_policy policy = {.roots = &anchor, .n_roots = 1};
    const struct appraisal_input in = {
        .evidence = evidence, .report_data = report_data, .now_ms = PKI_NOW_MS, .collateral = c};
    int rc = tdx_appraise(&in, &policy, &a, e);
    appraisal_done(&a);
    return rc;
}

static void test_forms(void **state)
{
    struct dcap_platform p;
    struct dcap_quote_opts o = {
        .version = 4, .body = DCAP_BODY_TD_10, .qe_svn = 8, .report_data = 0x5a};
    struct buf text = BUF_INIT(1u << 20);
    uint8_t bound[64];
    struct err e;
    (void)state;

    dcap_platform_make(&p);
    struct buf q = dcap_quote_make(&p, &o);
    memset(bound, 0x5a, sizeof(bound));
    assert_int_equal(appraise(buf_bytes(&q), &p, bound, &e), 0);
    for (size_t i = 0; i < 64; i++) {
        bound[i] ^= 1;
        assert_int_equal(appraise(buf_bytes(&q), &p, bound, &e), -1);
        assert_string_equal(e.clause, "evidence.report_data");
        bound[i] ^= 1;
    }
    _cleanup_free_ char *hex = hex_encode(q.p, q.n);
    if (appraise(BYTES_STR(hex), &p, bound, &e)) {
        fail_msg("%s", e.msg);
    }
    char *b64 = xmalloc(q.n * 2);
    EVP_EncodeBlock((uint8_t *)b64, q.p, (int)q.n);
    assert_int_equal(appraise(BYTES_STR(b64), &p, bound, &e), 0);
    pki_must(buf_addf(&text, NULL, "{\"cc_eventlog\":null,\"quote\":\"%s\"}", b64) == 0);
    assert_int_equal(appraise(buf_bytes(&text), &p, bound, &e), 0);
    text.n = 0;
    pki_must(buf_addf(&text, NULL, "{\"quote\":\"%s\",\"quote\":\"AAAA\"}", b64) == 0);
    assert_int_equal(appraise(buf_bytes(&text), &p, bound, &e), -1);
    /* buffers larger than the quote, as clouds hand them out */
    text.n = 0;
    put(&text, q.p, q.n);
    for (size_t i = 0; i < 100; i++) {
        put(&text, "\0", 1);
    }
    assert_int_equal(appraise(buf_bytes(&text), &p, bound, &e), 0);
    free(b64);
    buf_done(&text);
    buf_done(&q);
    dcap_platform_done(&p);
}

/* ---- hostile texts --------------------------------------------------------------------------- */

static double ms_since(const struct timespec *from)
{
    struct timespec to;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
    return (double)(to.tv_sec - from->tv_sec) * 1e3 + (double)(to.tv_nsec - from->tv_nsec) / 1e6;
}

/* The best of three: others run beside the tests. */
static double ms_of(const struct buf *text, int as_evidence)
{
    struct timespec from;
    struct tcb_info *t;
    struct err e = {0};
    double best = 1e9;

    for (int i = 0; i < 3; i++) {
        struct appraisal a = {0};
        const struct appraisal_policy policy = {0};
        const struct appraisal_input in = {.evidence = buf_bytes(text), .now_ms = PKI_NOW_MS};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
        assert_int_equal(as_evidence ? tdx_appraise(&in, &policy, &a, &e)
                                     : tcb_info_parse(buf_bytes(text), &t, &e),
                         -1);
        double ms = ms_since(&from);
        best = ms < best ? ms : best;
    }
    return best;
}

static void test_hostile(void **state)
{
    static const struct {
        const char *before, *each, *between;
    } texts[] = {
        {"{", "\"%06zx\":0", ","},    {"{\"tcbLevels\":[", "{}", ","}, {"{\"a\":[", "[]", ","},
        {"{\"a\":[", "\"%zu\"", ","}, {"{\"a\":[", "1e300", ","},      {"[", "[", ""},
        {"{\"a\":", "{\"a\":", ""},   {"{\"a\":\"", "\\u0041", ""},
    };
    static const size_t sizes[] = {120000, 1000000, 4000000};
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
            struct buf b = BUF_INIT(8u << 20);
            put(&b, texts[i].before, strlen(texts[i].before));
            for (size_t k = 0; b.n < sizes[s]; k++) {
                char one[32];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
                snprintf(one, sizeof(one), texts[i].each, k);
#pragma GCC diagnostic pop
                put(&b, one, strlen(one));
                put(&b, texts[i].between, strlen(texts[i].between));
            }
            double ms = ms_of(&b, 0), evidence_ms = ms_of(&b, 1);
            print_message("%-14s %7zu bytes: %.2f ms, as evidence %.2f ms\n", texts[i].each,
                          sizes[s], ms, evidence_ms);
#if !defined(__SANITIZE_ADDRESS__)
            assert_true(ms < 10);
            assert_true(evidence_ms < 20);
#endif
            buf_done(&b);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_documents), cmocka_unit_test(test_identities),
        cmocka_unit_test(test_current),   cmocka_unit_test(test_extension),
        cmocka_unit_test(test_forms),     cmocka_unit_test(test_hostile),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

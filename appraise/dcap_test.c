/* Quotes, platforms and collateral of one's own: what no real vector shows, and thousands of
 * mutations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <time.h>

#include "appraise/dcap.h"
#include "appraise/dcap_testing.h"

static const struct dcap_level levels[] = {
    {7, 5, 13, "UpToDate", ""},
    {6, 5, 12, "SWHardeningNeeded", "INTEL-SA-1"},
    {5, 4, 11, "ConfigurationNeeded", "INTEL-SA-2"},
    {4, 4, 10, "OutOfDate", "INTEL-SA-3"},
    {2, 2, 5, "Revoked", "INTEL-SA-4"},
};

/* What is changed about a world in which all is good. */
struct world {
    struct dcap_platform p;
    struct dcap_quote_opts quote;
    struct dcap_info_opts info;
    int64_t now_ms;
    int64_t identity_issue_ms, identity_next_ms;
    int64_t crl_this_ms, crl_next_ms;
    long root_revokes, ca_revokes; /* serial numbers; 0: none */
    const struct pki *info_signer; /* NULL: the TCB signing certificate */
    int no_collateral, no_identity, no_crls, with_certs, edit_info;
    int (*floor)(void *arg, const char *key, int64_t number, struct err *e);
    void *floor_arg;
};

static void world_make(struct world *w, unsigned version, enum dcap_body body)
{
    *w = (struct world){.now_ms = PKI_NOW_MS};
    dcap_platform_make(&w->p);
    w->quote = (struct dcap_quote_opts){.version = version,
                                        .body = body,
                                        .qe_svn = 8,
                                        .tee_tcb_svn = {5, 0},
                                        .tee_tcb_svn_2 = {5, 0}};
    w->info = (struct dcap_info_opts){
        .is_tdx = body != DCAP_BODY_SGX, .levels = levels, .n_levels = ARRAY_LEN(levels)};
}

static void add_one(struct collateral *c, struct buf take)
{
    struct err e = {0};

    if (collateral_add(c, "made", buf_bytes(&take), &e)) {
        fail_msg("%s", e.msg);
    }
    buf_done(&take);
}

static void fill(const struct world *w, struct collateral *c)
{
    const struct pki *signer = w->info_signer ? w->info_signer : &w->p.tcb_signing;
    struct err e;

    if (!w->no_collateral) {
        struct buf info = dcap_signed(&w->p, signer, "tcbInfo", dcap_info_text(&w->info));
        if (w->edit_info) {
            uint8_t *at = memmem(info.p, info.n, "\"pcesvn\":13", 11);
            at[10] = '2';
        }
        add_one(c, info);
    }
    if (!w->no_collateral && !w->no_identity) {
        add_one(c, dcap_signed(&w->p, signer, "enclaveIdentity",
                               dcap_identity_text(w->info.is_tdx, w->identity_issue_ms,
                                                  w->identity_next_ms)));
    }
    if (!w->no_crls) {
        add_one(c, pki_crl(&w->p.root, w->crl_this_ms, w->crl_next_ms, 3, &w->root_revokes,
                           w->root_revokes != 0, 0));
        add_one(c, pki_crl(&w->p.ca, w->crl_this_ms, w->crl_next_ms, 4, &w->ca_revokes,
                           w->ca_revokes != 0, 0));
    }
    if (w->with_certs) {
        assert_int_equal(collateral_add(c, "pck", buf_bytes(&w->p.pck.der), &e), 0);
        assert_int_equal(collateral_add(c, "ca", buf_bytes(&w->p.ca.der), &e), 0);
    }
}

static int appraise_bytes(const struct world *w, struct bytes quote, struct appraisal *ret,
                          struct err *e)
{
    _cleanup_(certs_freep) struct certs *certs = certs_new(64);
    _cleanup_(collateral_freep) struct collateral *c = collateral_new(certs);
    const struct cert *anchor;
    struct cert *root;

    *e = (struct err){0};
    assert_int_equal(certs_add_der(certs, "root", buf_bytes(&w->p.root.der), &root, e), 0);
    anchor = root;
    fill(w, c);
    const struct appraisal_policy policy = {
        .roots = &anchor, .n_roots = 1, .floor = w->floor, .floor_arg = w->floor_arg};
    const struct appraisal_input in = {.evidence = quote, .now_ms = w->now_ms, .collateral = c};
    *ret = (struct appraisal){0};
    return w->info.is_tdx ? tdx_appraise(&in, &policy, ret, e) : sgx_appraise(&in, &policy, ret, e);
}

static int appraise(const struct world *w, struct appraisal *ret, struct err *e)
{
    struct buf q = dcap_quote_make(&w->p, &w->quote);
    int rc = appraise_bytes(w, buf_bytes(&q), ret, e);

    buf_done(&q);
    return rc;
}

static void expect_status(const struct world *w, const char *status)
{
    struct appraisal a;
    struct err e;

    if (appraise(w, &a, &e) || !streq(tcb_status_name(a.tcb_status), status)) {
        fail_msg("expected %s, found %s %s", status, tcb_status_name(a.tcb_status), e.msg);
    }
    appraisal_done(&a);
}

static void expect_refused(const struct world *w, const char *clause)
{
    struct appraisal a;
    struct err e;

    if (appraise(w, &a, &e) == 0 || !streq(e.clause, clause)) {
        fail_msg("expected %s, found %s: %s", clause, e.clause, e.msg);
    }
    appraisal_done(&a);
}

/* ---- every version, body and form of certification ------------------------------------------- */

static void test_versions(void **state)
{
    static const struct {
        unsigned version;
        enum dcap_body body;
    } kinds[] = {
        {3, DCAP_BODY_SGX},   {4, DCAP_BODY_SGX},   {5, DCAP_BODY_SGX},     {4, DCAP_BODY_TD_10},
        {5, DCAP_BODY_TD_10}, {5, DCAP_BODY_TD_15}, {5, DCAP_BODY_TD_15EX},
    };
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct world w;
        world_make(&w, kinds[i].version, kinds[i].body);
        expect_status(&w, "UpToDate");
        for (unsigned type = 1; type <= 4; type++) { /* the PCK certificate is elsewhere */
            w.quote.cert_type = type;
            w.with_certs = 0;
            expect_refused(&w, "evidence.pck_chain");
            w.with_certs = 1;
            expect_status(&w, "UpToDate");
        }
        w.quote.cert_type = 0;
        w.no_collateral = w.no_crls = 1;
        expect_status(&w, "unverified-tcb");
        dcap_platform_done(&w.p);
    }
}

/* ---- TCB levels ------------------------------------------------------------------------------ */

static void renew_pck(struct world *w)
{
    pki_done(&w->p.pck);
    w->p.pck = dcap_pck(&w->p, 31, 0, 0);
}

static void test_levels(void **state)
{
    static const struct {
        uint8_t sgx;
        unsigned pce_svn, qe_svn;
        const char *status, *advisories;
    } cases[] = {
        {7, 13, 8, "UpToDate", "[]"},
        {250, 100, 9, "UpToDate", "[]"},
        {7, 12, 8, "SWHardeningNeeded", "[\"INTEL-SA-1\"]"},
        {6, 13, 8, "SWHardeningNeeded", "[\"INTEL-SA-1\"]"},
        {5, 11, 8, "ConfigurationNeeded", "[\"INTEL-SA-2\"]"},
        {4, 10, 8, "OutOfDate", "[\"INTEL-SA-3\"]"},
        {3, 13, 8, "Revoked", "[\"INTEL-SA-4\"]"},
        {1, 13, 8, "TCB_NOT_SUPPORTED", "[]"},
        {7, 4, 8, "TCB_NOT_SUPPORTED", "[]"},
        {7, 13, 7, "OutOfDate", "[\"INTEL-SA-QE\"]"},
        {6, 13, 6, "OutOfDate", "[\"INTEL-SA-1\",\"INTEL-SA-QE\"]"},
        {5, 11, 6, "OutOfDateConfigurationNeeded", "[\"INTEL-SA-2\",\"INTEL-SA-QE\"]"},
        {7, 13, 5, "Revoked", "[]"},
        {3, 13, 6, "Revoked", "[\"INTEL-SA-4\",\"INTEL-SA-QE\"]"},
        {7, 13, 3, "TCB_NOT_SUPPORTED", "[]"},
    };
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct world w;
        struct appraisal a;
        struct err e;
        world_make(&w, 4, DCAP_BODY_TD_10);
        memset(w.p.sgx_svn, cases[i].sgx, 16);
        w.p.pce_svn = cases[i].pce_svn;
        w.quote.qe_svn = cases[i].qe_svn;
        renew_pck(&w);
        assert_int_equal(appraise(&w, &a, &e), 0);
        _cleanup_free_ char *ids = json_dumps(a.advisories, JSON_COMPACT);
        if (!streq(tcb_status_name(a.tcb_status), cases[i].status) ||
            !streq(ids, cases[i].advisories)) {
            fail_msg("case %zu: %s %s", i, tcb_status_name(a.tcb_status), ids);
        }
        assert_int_equal(a.vector[EAR_HARDWARE],
                         a.tcb_status == TCB_UP_TO_DATE                                     ? 2
                         : a.tcb_status == TCB_REVOKED || a.tcb_status == TCB_NOT_SUPPORTED ? 96
                                                                                            : 32);
        appraisal_done(&a);
        dcap_platform_done(&w.p);
    }
}

static const char modules[] =
    ",\"tdxModuleIdentities\":[{\"id\":\"TDX_01\",\"mrsigner\":\"0000000000000000000000000000000000"
    "00000000000000000000000000000000000000000000000000000000000000\",\"attributes\":"
    "\"0000000000000000\",\"attributesMask\":\"FFFFFFFFFFFFFFFF\",\"tcbLevels\":["
    "{\"tcb\":{\"isvsvn\":2},\"tcbDate\":\"2023-01-01T00:00:00Z\",\"tcbStatus\":\"OutOfDate\"},"
    "{\"tcb\":{\"isvsvn\":4},\"tcbDate\":\"2024-01-01T00:00:00Z\",\"tcbStatus\":\"UpToDate\"}]}]";

static void test_modules(void **state)
{
    struct world w;
    (void)state;

    world_make(&w, 5, DCAP_BODY_TD_15);
    w.info.more = modules;
    expect_status(&w, "UpToDate"); /* SVN 5.0: no module of its own identity */
    memcpy(w.quote.tee_tcb_svn, "\4\1", 2);
    memcpy(w.quote.tee_tcb_svn_2, "\4\1", 2);
    expect_status(&w, "UpToDate");
    memcpy(w.quote.tee_tcb_svn, "\2\1", 2);
    expect_status(&w, "TDRelaunchAdvised"); /* launched on what is old, now current */
    memcpy(w.quote.tee_tcb_svn_2, "\3\1", 2);
    expect_status(&w, "OutOfDate");
    memcpy(w.quote.tee_tcb_svn, "\1\1", 2);
    expect_status(&w, "TCB_NOT_SUPPORTED");
    memcpy(w.quote.tee_tcb_svn, "\4\2", 2);
    expect_refused(&w, "evidence.tdx_module");
    memset(w.p.sgx_svn, 5, 16); /* platform: ConfigurationNeeded */
    w.p.pce_svn = 11;
    renew_pck(&w);
    memcpy(w.quote.tee_tcb_svn, "\2\1", 2);
    memcpy(w.quote.tee_tcb_svn_2, "\4\1", 2);
    expect_status(&w, "TDRelaunchAdvisedConfigurationNeeded");
    dcap_platform_done(&w.p);
}

/* ---- time ------------------------------------------------------------------------------------ */

static void test_times(void **state)
{
    struct world w;
    (void)state;

    world_make(&w, 4, DCAP_BODY_TD_10);
    w.info.issue_ms = PKI_NOW_MS + 1000;
    expect_refused(&w, "collateral.tcb_info.issue_date");
    w.info.issue_ms = 0;
    w.info.next_ms = PKI_NOW_MS - 1000;
    expect_refused(&w, "collateral.tcb_info.next_update");
    w.info.next_ms = 0;
    w.identity_issue_ms = PKI_NOW_MS + 1000;
    expect_refused(&w, "collateral.qe_identity.issue_date");
    w.identity_issue_ms = 0;
    w.identity_next_ms = PKI_NOW_MS - 1000;
    expect_refused(&w, "collateral.qe_identity.next_update");
    w.identity_next_ms = 0;
    w.crl_this_ms = PKI_NOW_MS + 2 * PKI_DAY_MS;
    expect_refused(&w, "collateral.root_crl.this_update");
    w.crl_this_ms = 0;
    w.crl_next_ms = PKI_NOW_MS - 2 * PKI_DAY_MS;
    expect_refused(&w, "collateral.root_crl.next_update");
    w.crl_next_ms = 0;
    pki_done(&w.p.pck);
    w.p.pck = dcap_pck(&w.p, 31, PKI_NOW_MS - 9 * PKI_DAY_MS, PKI_NOW_MS - PKI_DAY_MS);
    expect_refused(&w, "evidence.pck_chain[0].not_after");
    pki_done(&w.p.pck);
    w.p.pck = dcap_pck(&w.p, 31, PKI_NOW_MS + PKI_DAY_MS, PKI_NOW_MS + 9 * PKI_DAY_MS);
    expect_refused(&w, "evidence.pck_chain[0].not_before");
    renew_pck(&w);
    w.now_ms = PKI_NOW_MS + 200 * PKI_DAY_MS;
    expect_refused(&w, "evidence.pck_chain[0].not_after");
    w.now_ms = PKI_NOW_MS;
    expect_status(&w, "UpToDate");
    dcap_platform_done(&w.p);
}

/* ---- revocation, signers, rollback ----------------------------------------------------------- */

static int floor_of(void *arg, const char *key, int64_t number, struct err *e)
{
    int64_t *least = arg;

    assert_string_equal(key, "tcb/tdx/90c06f000000");
    if (number < *least) {
        return err_refuse(e, ERR_STALE, "collateral.tcb_info.evaluation", "more", "less");
    }
    *least = number;
    return 0;
}

static void test_trust(void **state)
{
    struct world w;
    int64_t least = 0;
    (void)state;

    world_make(&w, 4, DCAP_BODY_TD_10);
    w.ca_revokes = 31;
    expect_refused(&w, "evidence.pck_chain[0].revocation");
    w.ca_revokes = 0;
    w.root_revokes = 21;
    expect_refused(&w, "evidence.pck_chain[1].revocation");
    w.root_revokes = 22;
    expect_refused(&w, "collateral.tcb_info.chain.revocation");
    w.root_revokes = 0;
    w.info_signer = &w.p.ca; /* a CA that signs a TCB info */
    expect_refused(&w, "collateral.tcb_info.chain.subject");
    w.info_signer = NULL;
    struct pki stranger_root =
        pki_make(&(struct pki_opts){.cn = "Intel SGX Root CA", .curve = "P-256", .ca = 1});
    struct pki stranger = pki_make(&(struct pki_opts){
        .cn = "Intel SGX TCB Signing", .issuer = &stranger_root, .curve = "P-256"});
    w.info_signer = &stranger;
    expect_refused(&w, "collateral.tcb_info.chain[0].signature");
    w.info_signer = NULL;
    pki_done(&stranger);
    pki_done(&stranger_root);
    w.edit_info = 1;
    expect_refused(&w, "collateral.tcb_info.signature");
    w.edit_info = 0;
    w.floor = floor_of;
    w.floor_arg = &least;
    w.info.evaluation = 18;
    expect_status(&w, "UpToDate");
    assert_int_equal(least, 18);
    w.info.evaluation = 17;
    expect_refused(&w, "collateral.tcb_info.evaluation");
    w.floor = NULL;
    w.info.levels = (const struct dcap_level[]){{7, 5, 13, "Fine", ""}};
    w.info.n_levels = 1;
    expect_refused(&w, "collateral.tcb_info.tcbLevels.tcbStatus");
    w.info.levels =
        (const struct dcap_level[]){{7, 5, 13, "UpToDate", ""}, {7, 5, 13, "OutOfDate", ""}};
    w.info.n_levels = 2;
    expect_refused(&w, "collateral.tcb_info.tcbLevels");
    dcap_platform_done(&w.p);
}

static void test_unchecked(void **state)
{
    struct world w;
    struct appraisal a;
    struct err e;
    (void)state;

    world_make(&w, 4, DCAP_BODY_TD_10);
    w.no_crls = w.no_identity = 1;
    assert_int_equal(appraise(&w, &a, &e), 0);
    _cleanup_free_ char *list = json_dumps(a.unchecked, JSON_COMPACT);
    assert_string_equal(list, "[\"root_crl\",\"pck_crl\",\"qe_identity\"]");
    assert_int_equal(a.tcb_status, TCB_UP_TO_DATE);
    assert_int_equal(a.vector[EAR_HARDWARE], 32); /* nobody knows whether it is revoked */
    appraisal_done(&a);
    w.no_crls = w.no_identity = 0;
    w.quote.td_debug = 1;
    assert_int_equal(appraise(&w, &a, &e), 0);
    assert_null(a.unchecked);
    assert_int_equal(a.vector[EAR_CONFIGURATION], 96);
    assert_int_equal(a.vector[EAR_RUNTIME_OPAQUE], 96);
    appraisal_done(&a);
    dcap_platform_done(&w.p);
}

/* ---- mutations ------------------------------------------------------------------------------- */

/* Every byte but those that say nothing: QE SVN and PCE SVN of the header are signed too, so all
 * count; within the PEM texts white space may stand for white space. */
static size_t flip_all(const struct world *w, const struct buf *q, size_t step)
{
    size_t refused = 0;

    for (size_t i = 0; i < q->n; i += step) {
        struct buf bad = BUF_INIT(q->n + 1);
        struct appraisal a;
        struct err e;
        pki_must(buf_add(&bad, q->p, q->n, NULL) == 0);
        bad.p[i] ^= (uint8_t)(1u << i % 8);
        if (appraise_bytes(w, buf_bytes(&bad), &a, &e) == 0) {
            if (q->p[i] > ' ' && bad.p[i] > ' ') {
                fail_msg("byte %zu of %zu changed, and still genuine", i, q->n);
            }
            appraisal_done(&a);
        } else {
            refused++;
        }
        buf_done(&bad);
    }
    return refused;
}

static void test_mutations(void **state)
{
    static const struct {
        unsigned version;
        enum dcap_body body;
    } kinds[] = {{3, DCAP_BODY_SGX}, {4, DCAP_BODY_TD_10}, {5, DCAP_BODY_TD_15EX}};
    size_t refused = 0;
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct world w;
        struct appraisal a;
        struct err e;
        world_make(&w, kinds[i].version, kinds[i].body);
        w.no_collateral = w.no_crls = 1; /* the quote alone */
        struct buf q = dcap_quote_make(&w.p, &w.quote);
        refused += flip_all(&w, &q, 5);
        for (size_t n = 0; n < q.n; n += 11) { /* cut off */
            assert_int_equal(appraise_bytes(&w, BYTES(q.p, n), &a, &e), -1);
            refused++;
        }
        /* the signed part of one quote, the rest of another of the same platform */
        w.quote.report_data = 7;
        struct buf other = dcap_quote_make(&w.p, &w.quote);
        struct dcap_quote parsed;
        assert_int_equal(dcap_quote_parse(buf_bytes(&q), &parsed, &e), 0);
        memcpy(other.p, q.p, parsed.signed_part.n);
        assert_int_equal(appraise_bytes(&w, buf_bytes(&other), &a, &e), -1);
        buf_done(&other);
        buf_done(&q);
        dcap_platform_done(&w.p);
    }
    print_message("%zu mutations refused\n", refused);
    assert_true(refused > 3000);
}

/* Everything that Intel signs of a TCB info and a QE identity. */
static void test_collateral_mutations(void **state)
{
    struct world w;
    size_t refused = 0;
    (void)state;

    world_make(&w, 4, DCAP_BODY_TD_10);
    struct buf q = dcap_quote_make(&w.p, &w.quote);
    struct buf info = dcap_signed(&w.p, &w.p.tcb_signing, "tcbInfo", dcap_info_text(&w.info));
    const uint8_t *at = memmem(info.p, info.n, "\"signature\"", 11);
    size_t signature = (size_t)(at - info.p);
    for (size_t i = 12; i < signature + 11 + 130; i += 3) {
        _cleanup_(certs_freep) struct certs *certs = certs_new(64);
        _cleanup_(collateral_freep) struct collateral *c = collateral_new(certs);
        struct cert *root;
        const struct cert *anchor;
        struct appraisal a = {0};
        struct err e;
        uint8_t was = info.p[i];
        assert_int_equal(certs_add_der(certs, "root", buf_bytes(&w.p.root.der), &root, &e), 0);
        anchor = root;
        info.p[i] ^= (uint8_t)(1u << i % 7);
        const struct appraisal_policy policy = {.roots = &anchor, .n_roots = 1};
        const struct appraisal_input in = {
            .evidence = buf_bytes(&q), .now_ms = w.now_ms, .collateral = c};
        if (collateral_add(c, "made", buf_bytes(&info), &e) || tdx_appraise(&in, &policy, &a, &e)) {
            refused++;
        } else { /* a hex digit of the signature may be of either case */
            assert_true(i > signature && (was ^ info.p[i]) == 0x20);
        }
        appraisal_done(&a);
        info.p[i] = was;
    }
    print_message("%zu mutations refused\n", refused);
    assert_true(refused > 500);
    buf_done(&info);
    buf_done(&q);
    dcap_platform_done(&w.p);
}

/* ---- hostile JSON ---------------------------------------------------------------------------- */

static void test_bounds(void **state)
{
    static const char *const texts[] = {"[", "{\"a\":", "\"\\u0000"};
    struct buf big = BUF_INIT(4u << 20);
    struct tcb_info *t;
    struct err e;
    struct timespec from, to;
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        big.n = 0;
        while (big.n < (1u << 20) - 16) {
            pki_must(buf_add(&big, texts[i], strlen(texts[i]), NULL) == 0);
        }
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
        assert_int_equal(tcb_info_parse(buf_bytes(&big), &t, &e), -1);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
        print_message(
            "%s...: %ld us\n", texts[i],
            (long)((to.tv_sec - from.tv_sec) * 1000000 + (to.tv_nsec - from.tv_nsec) / 1000));
    }
    buf_done(&big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_versions),  cmocka_unit_test(test_levels),
        cmocka_unit_test(test_modules),   cmocka_unit_test(test_times),
        cmocka_unit_test(test_trust),     cmocka_unit_test(test_unchecked),
        cmocka_unit_test(test_mutations), cmocka_unit_test(test_collateral_mutations),
        cmocka_unit_test(test_bounds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

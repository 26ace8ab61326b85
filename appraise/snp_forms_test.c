#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <time.h>

#include "appraise/snp_testing.h"

/* Every form of the same evidence is judged alike, and damaged ones are refused with a reason. */

static struct snp_world worlds[SNP_PRODUCT_N];

static struct {
    enum snp_product product;
    struct pki vek;
    uint8_t report[SNP_REPORT_BYTES];
    struct buf table; /* VCEK and ASK, as hosts give them */
} shown[3];

static int setup(void **state)
{
    (void)state;
    static const struct {
        enum snp_product product;
        uint8_t version;
    } what[] = {{SNP_MILAN, 2}, {SNP_GENOA, 3}, {SNP_TURIN, 5}};

    for (size_t i = 0; i < ARRAY_LEN(what); i++) {
        enum snp_product p = what[i].product;
        snp_testing_world(p, 2048, &worlds[p]);
        snp_testing_roots(&worlds[p]);
        shown[i].product = p;
        shown[i].vek = snp_testing_vek(&worlds[p], &(struct snp_vek_opts){.kind = SNP_KEY_VCEK});
        snp_testing_report(p, SNP_KEY_VCEK, what[i].version, shown[i].report);
        snp_testing_sign(shown[i].report, shown[i].vek.key);
        shown[i].table = BUF_INIT(1u << 16);
        snp_testing_table(buf_bytes(&shown[i].vek.der), buf_bytes(&worlds[p].ask.der),
                          &shown[i].table);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shown); i++) {
        pki_done(&shown[i].vek);
        buf_done(&shown[i].table);
    }
    for (int p = SNP_MILAN; p < SNP_PRODUCT_N; p++) {
        snp_testing_done(&worlds[p]);
    }
    return 0;
}

static int judge(size_t i, struct bytes evidence, struct err *e)
{
    const struct appraisal_input in = {.evidence = evidence, .now_ms = PKI_NOW_MS};
    struct appraisal a = {0};

    *e = (struct err){0};
    int rc = snp_appraise_by(&in, &worlds[shown[i].product].roots, &a, e);
    if (!rc) {
        _cleanup_free_ char *measurement = hex_encode(shown[i].report + 0x090, 48);
        assert_string_equal(json_string_value(json_object_get(a.claims, "measurement")),
                            measurement);
    }
    appraisal_done(&a);
    return rc;
}

static void assert_genuine(size_t i, struct bytes evidence)
{
    struct err e;

    if (judge(i, evidence, &e)) {
        fail_msg("%s", e.msg);
    }
}

static void assert_refused(size_t i, struct bytes evidence, const char *clause)
{
    struct err e;

    if (!judge(i, evidence, &e)) {
        fail_msg("genuine, where %s should refuse", clause);
    }
    if (!streq(e.clause, clause) || !*e.expected || !*e.actual) {
        fail_msg("expected %s, got %s: %s", clause, e.clause, e.msg);
    }
}

static void as_text(size_t i, struct bytes evidence)
{
    _cleanup_free_ char *hex = hex_encode(evidence.p, evidence.n);
    _cleanup_free_ char *b64 = b64_encode(evidence.p, evidence.n);
    _cleanup_free_ char *url = b64url_encode(evidence.p, evidence.n);
    _cleanup_free_ char *lines = xasprintf(" \n%.40s\n%s\r\n", b64, b64 + 40);

    assert_genuine(i, BYTES_STR(hex));
    assert_genuine(i, BYTES_STR(b64));
    assert_genuine(i, BYTES_STR(url));
    assert_genuine(i, BYTES_STR(lines));
}

static void test_extended(void **state)
{
    (void)state;
    static const uint8_t page[4096] = {0};

    for (size_t i = 0; i < ARRAY_LEN(shown); i++) {
        _cleanup_buf_ struct buf b = BUF_INIT(1u << 17);
        struct err e;
        assert_int_equal(buf_add(&b, shown[i].report, SNP_REPORT_BYTES, NULL), 0);
        assert_int_equal(buf_add(&b, shown[i].table.p, shown[i].table.n, NULL), 0);
        assert_genuine(i, buf_bytes(&b));
        as_text(i, buf_bytes(&b));
        /* little-endian GUIDs */
        for (size_t k = 0; k < 2; k++) {
            uint8_t *g = b.p + SNP_REPORT_BYTES + 24 * k, was[16];
            static const uint8_t order[] = {3, 2, 1, 0, 5, 4, 7, 6};
            memcpy(was, g, 16);
            for (size_t j = 0; j < 8; j++) {
                g[j] = was[order[j]];
            }
        }
        assert_genuine(i, buf_bytes(&b));
        size_t whole = b.n;
        assert_int_equal(buf_add(&b, page, sizeof(page), NULL), 0);
        assert_genuine(i, buf_bytes(&b));
        for (size_t n = SNP_REPORT_BYTES + 1; n < whole; n += 5) {
            if (judge(i, BYTES(b.p, n), &e) == 0 && n < SNP_REPORT_BYTES + 72) {
                fail_msg("cut to %zu bytes", n);
            }
        }
        assert_refused(i, BYTES(b.p, SNP_REPORT_BYTES + 1), "evidence.report");
        assert_refused(i, BYTES(b.p, SNP_REPORT_BYTES + 30), "evidence.cert_table");
        b.p[SNP_REPORT_BYTES + 20] = 0xff;
        b.p[SNP_REPORT_BYTES + 22] = 0xff;
        assert_refused(i, buf_bytes(&b), "evidence.cert_table");
    }
}

/* Some hosts' tables hold an ASK that is none. */
static void test_bad_ask(void **state)
{
    (void)state;
    _cleanup_buf_ struct buf b = BUF_INIT(1u << 17);

    assert_int_equal(buf_add(&b, shown[0].report, SNP_REPORT_BYTES, NULL), 0);
    snp_testing_table(buf_bytes(&shown[0].vek.der), BYTES("not a certificate", 17), &b);
    assert_genuine(0, buf_bytes(&b));
    b.n = SNP_REPORT_BYTES;
    snp_testing_table(BYTES("not a certificate", 17), buf_bytes(&worlds[SNP_MILAN].ask.der), &b);
    assert_refused(0, buf_bytes(&b), "evidence.vcek");
}

/* The table alone, as collateral. */
static void test_table_as_collateral(void **state)
{
    (void)state;
    _cleanup_(certs_freep) struct certs *store = certs_new(64);
    _cleanup_(collateral_freep) struct collateral *c = collateral_new(store);
    struct appraisal_input in = {.evidence = BYTES(shown[1].report, SNP_REPORT_BYTES),
                                 .collateral = c,
                                 .now_ms = PKI_NOW_MS};
    struct appraisal a = {0};
    struct err e = {0};

    assert_int_equal(collateral_add(c, "auxblob", buf_bytes(&shown[1].table), &e), 0);
    assert_int_equal(collateral_n(c), 2);
    assert_int_equal(snp_appraise_by(&in, &worlds[SNP_GENOA].roots, &a, &e), 0);
    appraisal_done(&a);
    assert_int_equal(collateral_add(c, "auxblob", BYTES(shown[1].table.p, 90), &e), -1);
    assert_string_equal(e.clause, "collateral.cert_table");
}

static void test_guest_answer(void **state)
{
    (void)state;
    uint8_t answer[4000] = {0};
    struct needs n = {0};

    answer[4] = SNP_REPORT_BYTES & 0xff;
    answer[5] = SNP_REPORT_BYTES >> 8;
    memcpy(answer + 32, shown[2].report, SNP_REPORT_BYTES);
    assert_refused(2, BYTES(answer, sizeof(answer)), "evidence.vcek");
    snp_needs(BYTES(answer, sizeof(answer)), &n);
    assert_int_equal(n.n, 3);
    answer[0] = 1; /* an error */
    assert_refused(2, BYTES(answer, sizeof(answer)), "evidence.report");
}

/* ---- JSON ---- */

static void test_trustee(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shown); i++) {
        _cleanup_free_ char *text =
            snp_testing_trustee(shown[i].product, shown[i].report, buf_bytes(&shown[i].vek.der));
        _cleanup_free_ char *alone =
            snp_testing_trustee(shown[i].product, shown[i].report, BYTES("", 0));
        assert_genuine(i, BYTES_STR(text));
        as_text(i, BYTES_STR(text));
        assert_refused(i, BYTES_STR(alone), "evidence.vcek");
    }
}

/* Each field in turn missing, of another type, too large; each must be refused, and named. */
static void test_trustee_fields(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shown); i++) {
        _cleanup_free_ char *text =
            snp_testing_trustee(shown[i].product, shown[i].report, buf_bytes(&shown[i].vek.der));
        _cleanup_json_ json_t *j = json_loads(text, 0, NULL);
        json_t *r = json_object_get(j, "attestation_report"), *v;
        const char *key;
        void *next;
        json_object_foreach_safe(r, next, key, v)
        {
            json_t *bad[] = {
                json_null(),  json_string("zz"), json_integer(-1), json_integer(1ll << 40),
                json_array(), json_object(),     json_true()};
            _cleanup_json_ json_t *was = json_incref(v);
            _cleanup_free_ char *name = xstrdup(key);
            for (size_t k = 0; k < ARRAY_LEN(bad); k++) {
                struct err e;
                /* Optional in older versions; or a number that another check refuses. */
                int optional = k == 0 && json_is_null(was);
                json_object_set_new(r, name, bad[k]);
                _cleanup_free_ char *t = json_dumps(j, 0);
                if ((judge(i, BYTES_STR(t), &e) == 0) != optional) {
                    fail_msg("%s, %zu", name, k);
                }
            }
            json_object_set(r, name, was);
        }
        _cleanup_free_ char *same = json_dumps(j, 0);
        assert_genuine(i, BYTES_STR(same));
    }
}

static void test_trustee_clauses(void **state)
{
    (void)state;
    _cleanup_free_ char *text =
        snp_testing_trustee(SNP_GENOA, shown[1].report, buf_bytes(&shown[1].vek.der));
    _cleanup_json_ json_t *j = json_loads(text, 0, NULL);
    json_t *r = json_object_get(j, "attestation_report");

    json_object_del(r, "measurement");
    _cleanup_free_ char *none = json_dumps(j, 0);
    assert_refused(1, BYTES_STR(none), "evidence.attestation_report.measurement");
    json_object_set_new(r, "measurement", snp_testing_list(shown[1].report, 47));
    _cleanup_free_ char *cut = json_dumps(j, 0);
    assert_refused(1, BYTES_STR(cut), "evidence.attestation_report.measurement");
    json_object_set_new(r, "measurement", snp_testing_list(shown[1].report, 48));
    _cleanup_free_ char *other = json_dumps(j, 0);
    assert_refused(1, BYTES_STR(other), "evidence.report.signature");
    json_object_set_new(j, "attestation_report", json_integer(1));
    _cleanup_free_ char *number = json_dumps(j, 0);
    assert_refused(1, BYTES_STR(number), "evidence.report");
    assert_refused(1, BYTES_STR("{\"cert_chain\":null}"), "evidence.attestation_report");
    assert_refused(1, BYTES_STR("{}"), "evidence.attestation_report");
}

/* As earlier versions of the crate that clients use wrote it. */
static void test_trustee_before(void **state)
{
    (void)state;
    static const char *const tcbs[] = {"current_tcb", "reported_tcb", "committed_tcb",
                                       "launch_tcb"};
    static const char *const parts[] = {"build", "minor", "major"};
    static const char *const versions[] = {"current", "committed"};
    _cleanup_free_ char *text =
        snp_testing_trustee(SNP_MILAN, shown[0].report, buf_bytes(&shown[0].vek.der));
    _cleanup_json_ json_t *j = json_loads(text, 0, NULL);
    json_t *r = json_object_get(j, "attestation_report");

    for (size_t i = 0; i < ARRAY_LEN(tcbs); i++) {
        json_t *t = json_object_get(r, tcbs[i]);
        json_object_del(t, "fmc");
        json_object_set_new(t, "_reserved", json_pack("[i,i,i,i]", 0, 0, 0, 0));
    }
    for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
        json_t *v = json_incref(json_object_get(r, versions[i]));
        for (size_t k = 0; k < 3; k++) {
            char name[32];
            snprintf(name, sizeof(name), "%s_%s", versions[i], parts[k]);
            json_object_set(r, name, json_object_get(v, parts[k]));
        }
        json_object_del(r, versions[i]);
        json_decref(v);
    }
    json_object_set(r, "_author_key_en", json_object_get(r, "key_info"));
    json_object_del(r, "key_info");
    json_object_del(r, "cpuid_fam_id");
    json_object_del(r, "launch_mit_vector");
    _cleanup_free_ char *old = json_dumps(j, 0);
    assert_genuine(0, BYTES_STR(old));
}

static void test_other_json(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shown); i++) {
        const struct bytes vek = buf_bytes(&shown[i].vek.der);
        _cleanup_free_ char *report = b64_encode(shown[i].report, SNP_REPORT_BYTES);
        _cleanup_free_ char *hex = hex_encode(shown[i].report, SNP_REPORT_BYTES);
        _cleanup_free_ char *url = b64url_encode(shown[i].report, SNP_REPORT_BYTES);
        _cleanup_free_ char *cert = b64_encode(vek.p, vek.n);
        _cleanup_free_ char *table = b64url_encode(shown[i].table.p, shown[i].table.n);
        _cleanup_free_ char *tsm = xasprintf(
            "{\"auxblob\":\"%s\",\"outblob\":\"%s\",\"provider\":\"sev_guest\\n\"}", table, url);
        _cleanup_free_ char *tsm64 = b64url_encode(tsm, strlen(tsm));
        _cleanup_free_ char *cmw = xasprintf(
            "{\"tsm-report\":[\"application/vnd.veraison.tsm-report+json\",\"%s\"]}", tsm64);
        _cleanup_free_ char *cmw64 = b64url_encode(cmw, strlen(cmw));
        char *const forms[] = {
            xasprintf("{\"attestation_report\":\"%s\",\"cert_chain\":{\"vcek\":\"%s\"}}", report,
                      cert),
            xasprintf("{\"platform\":\"snp\",\"evidence\":{\"attestation_report\":\"%s\","
                      "\"cert_chain\":{\"vcek\":\"%s\",\"ask\":null}}}",
                      hex, cert),
            xasprintf("{\"sev_snp\":{\"attestation_report\":\"%s\",\"vek_cert\":\"%s\"}}", report,
                      cert),
            xasprintf("{\"report\":\"%s\",\"cert_chain\":[\"%s\"]}", url, cert),
            xasprintf("{\"cmw\":\"%s\",\"eat_nonce\":\"x\"}", cmw64),
            xstrdup(tsm),
        };
        for (size_t k = 0; k < ARRAY_LEN(forms); k++) {
            assert_genuine(i, BYTES_STR(forms[k]));
            free(forms[k]);
        }
        _cleanup_json_ json_t *pem =
            json_pack("{s:s,s:s}", "report", report, "vcekCert", shown[i].vek.pem);
        _cleanup_free_ char *with_pem = json_dumps(pem, 0);
        assert_genuine(i, BYTES_STR(with_pem));
    }
}

/* ---- other binary forms ---- */

static void put_cbor(struct buf *b, uint8_t major, const void *p, size_t n)
{
    const uint8_t head[] = {(uint8_t)(major << 5 | 25), (uint8_t)(n >> 8), (uint8_t)n};

    assert_int_equal(buf_add(b, head, 3, NULL), 0);
    assert_int_equal(buf_add(b, p, n, NULL), 0);
}

static void test_cbor(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shown); i++) {
        _cleanup_buf_ struct buf b = BUF_INIT(1u << 16);
        struct err e;
        assert_int_equal(buf_add(&b, "\xa3", 1, NULL), 0);
        put_cbor(&b, 3, "auxblob", 7);
        put_cbor(&b, 2, shown[i].table.p, shown[i].table.n);
        put_cbor(&b, 3, "outblob", 7);
        put_cbor(&b, 2, shown[i].report, SNP_REPORT_BYTES);
        put_cbor(&b, 3, "provider", 8);
        put_cbor(&b, 3, "sev_guest\n", 10);
        assert_genuine(i, buf_bytes(&b));
        for (size_t n = 0; n < b.n; n += 3) {
            assert_int_equal(judge(i, BYTES(b.p, n), &e), -1);
        }
        assert_int_equal(buf_add(&b, "", 1, NULL), 0);
        assert_refused(i, buf_bytes(&b), "evidence");
    }
}

static void put_compact(struct buf *b, size_t n)
{
    const uint8_t two[] = {(uint8_t)(n << 2 | 1), (uint8_t)(n >> 6)};

    assert_int_equal(buf_add(b, two, 2, NULL), 0);
}

static void test_scale(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shown); i++) {
        _cleanup_buf_ struct buf b = BUF_INIT(1u << 16);
        const char *pem = shown[i].vek.pem;
        struct err e;
        assert_int_equal(buf_add(&b, "\0\3", 2, NULL), 0);
        put_compact(&b, SNP_REPORT_BYTES);
        assert_int_equal(buf_add(&b, shown[i].report, SNP_REPORT_BYTES, NULL), 0);
        assert_int_equal(buf_add(&b, "\4", 1, NULL), 0);
        put_compact(&b, strlen(pem));
        assert_int_equal(buf_add(&b, pem, strlen(pem), NULL), 0);
        size_t end = b.n;
        assert_int_equal(buf_add(&b, "what its own verifier reads", 27, NULL), 0);
        assert_genuine(i, buf_bytes(&b));
        for (size_t n = 0; n < end; n += 7) {
            assert_int_equal(judge(i, BYTES(b.p, n), &e), -1);
        }
    }
}

/* ---- what is none ---- */

/* A table whose entries are all the rest of it, which is such a table again. */
static void nested_tables(struct buf *b, size_t n)
{
    while (b->n + 24 * 16 < n) {
        size_t at = b->n, table = 24 * 15;
        for (size_t i = 0; i < 15; i++) {
            assert_int_equal(buf_add(b, shown[0].table.p, 16, NULL), 0);
            snp_testing_put_le32(b, table);
            snp_testing_put_le32(b, n - at - table);
        }
    }
    while (b->n < n) {
        assert_int_equal(buf_add(b, "", 1, NULL), 0);
    }
}

static double cpu_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1000 + (double)t.tv_nsec / 1e6;
}

static void test_hostile(void **state)
{
    (void)state;
    _cleanup_free_ char *deep = xcalloc(1, 60001), *nested = xstrdup("{}"), *large = NULL;
    struct err e;

    memset(deep, '[', 60000);
    memcpy(deep, "{\"evidence\":", 12);
    for (int i = 0; i < 20; i++) {
        char *outer = xasprintf("{\"evidence\":%s}", nested);
        free(nested);
        nested = outer;
    }
    large = xcalloc(1, SNP_EVIDENCE_MAX_BYTES + 2);
    memset(large, 'A', SNP_EVIDENCE_MAX_BYTES + 1);
    const struct {
        struct bytes in;
        const char *clause;
    } cases[] = {
        {BYTES("", 0), "evidence.report"},
        {BYTES("\0", 1), "evidence.report"},
        {BYTES("\xff\xff\xff", 3), "evidence.report"},
        {BYTES_STR("hello, world"), "evidence.report"},
        {BYTES_STR("===="), "evidence"},
        {BYTES_STR(nested), "evidence"},
        {BYTES_STR(large), "evidence"},
        {BYTES_STR("{\"report\":\"zz!\"}"), "evidence.report"},
        {BYTES_STR("{\"report\":[1,2,300]}"), "evidence.report"},
        {BYTES_STR("{\"outblob\":\"AAECAw\"}"), "evidence.report"},
        {BYTES("\xa1", 1), "evidence"},
        {BYTES("\xa1\x7a\xff\xff\xff\xff", 6), "evidence"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        double from = cpu_ms();
        assert_refused(0, cases[i].in, cases[i].clause);
        assert_true(cpu_ms() - from < 50);
    }
    static const char *const malformed[] = {"{", "{\"report\":\"\",\"report\":\"\"}", "{}{}"};
    for (size_t i = 0; i < ARRAY_LEN(malformed); i++) {
        assert_int_equal(judge(0, BYTES_STR(malformed[i]), &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
    }
    double from = cpu_ms();
    assert_int_equal(judge(0, BYTES_STR(deep), &e), -1);
    assert_true(cpu_ms() - from < 50);
    _cleanup_buf_ struct buf tables = BUF_INIT(1u << 18);
    assert_int_equal(buf_add(&tables, shown[0].report, SNP_REPORT_BYTES, NULL), 0);
    _cleanup_buf_ struct buf nested_table = BUF_INIT(1u << 17);
    nested_tables(&nested_table, 100000);
    assert_int_equal(buf_add(&tables, nested_table.p, nested_table.n, NULL), 0);
    from = cpu_ms();
    assert_int_equal(judge(0, buf_bytes(&tables), &e), -1);
    assert_true(cpu_ms() - from < 50);
    _cleanup_(certs_freep) struct certs *store = certs_new(8);
    _cleanup_(collateral_freep) struct collateral *c = collateral_new(store);
    assert_int_equal(collateral_add(c, "nested", buf_bytes(&nested_table), &e), -1);
    assert_true(cpu_ms() - from < 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_extended),
        cmocka_unit_test(test_bad_ask),
        cmocka_unit_test(test_table_as_collateral),
        cmocka_unit_test(test_guest_answer),
        cmocka_unit_test(test_trustee),
        cmocka_unit_test(test_trustee_fields),
        cmocka_unit_test(test_trustee_clauses),
        cmocka_unit_test(test_trustee_before),
        cmocka_unit_test(test_other_json),
        cmocka_unit_test(test_cbor),
        cmocka_unit_test(test_scale),
        cmocka_unit_test(test_hostile),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "svc-gate/gate_int.h"

static void expect(const char *type, const char *text, const char *actual)
{
    struct err e = {0};
    int rc = inspect_type("output.files[0].type", type, BYTES_STR(text), &e);

    if (rc != (actual ? -1 : 0)) {
        fail_msg("%s of \"%s\": %d, %s", type, text, rc, e.msg);
    }
    if (actual) {
        assert_int_equal(e.code, ERR_DENIED);
        assert_string_equal(e.clause, "output.files[0].type");
        assert_non_null(strstr(e.expected, type));
        if (!strstr(e.actual, actual)) {
            fail_msg("\"%s\" lacks \"%s\"", e.actual, actual);
        }
    }
}

static void test_text(void **state)
{
    (void)state;
    expect("text/plain", "", NULL);
    expect("text/plain", "Grüße, 世界 \xf0\x9f\x98\x80\n\ttab\r\n", NULL);
    expect("text/plain", "abc\x01", "byte 2 on");
    expect("text/plain", "\x1b[31m", "byte 0");
    expect("text/plain", "a\x7f", "byte 1");
    expect("text/plain", "a\xc2\x85", "byte 1");        /* C1 control */
    expect("text/plain", "\xc0\xaf", "byte 0");         /* overlong */
    expect("text/plain", "\xed\xa0\x80", "byte 0");     /* surrogate */
    expect("text/plain", "\xf4\x90\x80\x80", "byte 0"); /* beyond U+10FFFF */
    expect("text/plain", "ok\xe2\x82", "byte 2");       /* cut off */
    expect("text/plain",
           "a\xe2\x80\x8b"
           "b",
           "byte 1");                                    /* zero width */
    expect("text/plain", "a\xf3\xa0\x81\x81", "byte 1"); /* tag */
    expect("text/plain",
           "a\xe2\x80\xae"
           "b",
           "byte 1"); /* direction override */
    expect("application/octet-stream", "\x01\xff", NULL);
}

static void test_nul(void **state)
{
    struct err e = {0};
    (void)state;
    assert_int_equal(inspect_type("x", "text/plain", BYTES("a\0b", 3), &e), -1);
    assert_int_equal(inspect_type("x", "application/json", BYTES("1\0", 2), &e), -1);
    assert_int_equal(inspect_type("x", "image/png", BYTES("a", 1), &e), -1);
    assert_string_equal(e.expected, "a type that the gate knows");
}

static void test_csv(void **state)
{
    (void)state;
    expect("text/csv", "", NULL);
    expect("text/csv", "a,b\n1,2\n", NULL);
    expect("text/csv", "a,b\r\n1,2", NULL);
    expect("text/csv", "a,\"b,\"\"c\"\"\nd\"\n1,2\n", NULL);
    expect("text/csv", "one\ntwo\n", NULL);
    expect("text/csv", "a,b\n1\n", "fewer columns, from row 2 on");
    expect("text/csv", "a,b\n1,2\n3,4,5", "more columns, from row 2 on");
    expect("text/csv", "a,b\n\n1,2\n", "fewer columns, from row 2 on");
    expect("text/csv", "a,\"b\n1,2\n", "quote that stays open");
    expect("text/csv", "a,b\n1,\x02\n", "byte 4 on");
}

static void test_json(void **state)
{
    static const char *const good[] = {
        "null", " {\"a\" : [1, -2.5e+3, \"\\u00e9\\n\", true, false, {}], \"b\":[]} ", "0", "\"\""};
    static const char *const bad[] = {"",    "{",       "[1,]",   "{\"a\"}",     "{a:1}", "01",
                                      "1 2", "\"\\x\"", "\"a",    "[1}",         "nul",   "-",
                                      "1.",  "1e",      "\"\t\"", "\"\\u12g4\"", "'a'"};
    char deep[300];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        expect("application/json", good[i], NULL);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        expect("application/json", bad[i], "something else from byte");
    }
    memset(deep, '[', 100);
    memset(deep + 100, ']', 100);
    deep[200] = 0;
    expect("application/json", deep, "byte 64 on");
}

static void test_entropy(void **state)
{
    uint8_t all[256];
    (void)state;
    for (size_t i = 0; i < 256; i++) {
        all[i] = (uint8_t)i;
    }
    assert_int_equal(inspect_entropy(BYTES(all, 256)), 8000);
    assert_int_equal(inspect_entropy(BYTES(all, 1)), 0);
    assert_int_equal(inspect_entropy(BYTES(all, 0)), 0);
    assert_int_equal(inspect_entropy(BYTES_STR("abababab")), 1000);
}

static struct score score_of(struct score_facts f)
{
    struct score s;
    score_compute(&f, &s);
    return s;
}

static void test_score(void **state)
{
    struct score s;
    (void)state;
    s = score_of((struct score_facts){
        .max_bytes = 100, .blocks = 100, .verbatim_blocks = 10, .max_verbatim_percent = 10});
    assert_int_equal(s.points, 0); /* at the limit */
    assert_int_equal(s.n, 0);
    score_done(&s);
    s = score_of((struct score_facts){
        .max_bytes = 100, .blocks = 1000, .verbatim_blocks = 101, .max_verbatim_percent = 10});
    assert_int_equal(s.points, 1); /* just above is never 0 */
    score_done(&s);
    for (uint32_t limit = 0; limit < 100; limit++) {
        s = score_of((struct score_facts){
            .max_bytes = 100, .blocks = 7, .verbatim_blocks = 7, .max_verbatim_percent = limit});
        assert_int_equal(s.points, 100);
        score_done(&s);
    }
    s = score_of((struct score_facts){
        .bytes = 95, .max_bytes = 100, .octet_files = 1, .dense_files = 2, .max_entropy = 6012});
    assert_int_equal(s.points, 60);
    assert_int_equal(s.n, 3);
    assert_string_equal(s.reasons[0], "+30 entropy: 2 text files with up to 6.012 bits for each "
                                      "byte, the limit is 5.800");
    assert_string_equal(s.reasons[1],
                        "+20 type: 1 file of application/octet-stream, which nobody can check");
    assert_string_equal(s.reasons[2], "+10 size: 90 % or more of at most 100 bytes");
    score_done(&s);
    s = score_of(
        (struct score_facts){.max_bytes = 100, .fp_count = 5, .fp_total = 6, .octet_files = 1});
    assert_int_equal(s.points, 100); /* 90 and 20, capped */
    assert_non_null(strstr(s.reasons[0], "than the 5 that"));
    score_done(&s);
}

static void test_states(void **state)
{
    enum result_state to;
    struct err e = {0};
    int allowed = 0;
    (void)state;
    for (int st = 0; st < RS_N; st++) {
        for (int ev = 0; ev < EV_N; ev++) {
            allowed += admission_next((enum result_state)st, (enum result_event)ev, &to, &e) == 0;
        }
    }
    assert_int_equal(allowed, 11);
    assert_int_equal(admission_next(RS_REJECTED, EV_APPROVE, &to, &e), -1);
    assert_string_equal(e.clause, "result.state");
    assert_string_equal(e.expected, "held");
    assert_string_equal(e.actual, "rejected");
    assert_int_equal(admission_next(RS_HELD, EV_APPROVE, &to, &e), 0);
    assert_int_equal(to, RS_RELEASED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),   cmocka_unit_test(test_nul),     cmocka_unit_test(test_csv),
        cmocka_unit_test(test_json),   cmocka_unit_test(test_entropy), cmocka_unit_test(test_score),
        cmocka_unit_test(test_states),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "common/jcs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static json_t *parse(const char *s)
{
    struct err e = {0};
    json_t *j = NULL;

    if (json_parse("t", BYTES_STR(s), 65536, &j, &e)) {
        fail_msg("%s", e.msg);
    }
    return j;
}

static void check_canonical(const char *in, const char *expected)
{
    _cleanup_json_ json_t *j = parse(in);
    _cleanup_free_ char *out = NULL;
    struct err e = {0};

    assert_int_equal(jcs_encode(j, &out, &e), 0);
    assert_string_equal(out, expected);
}

/* RFC 8785 §3.2.3. */
static void sorts_keys_by_utf16_code_units(void **state _unused_)
{
    check_canonical("{\"\\u20ac\":\"Euro Sign\",\"\\r\":\"Carriage Return\","
                    "\"\\ufb33\":\"Hebrew Letter Dalet With Dagesh\",\"1\":\"One\","
                    "\"\\ud83d\\ude00\":\"Emoji: Grinning Face\",\"\\u0080\":\"Control\","
                    "\"\\u00f6\":\"Latin Small Letter O With Diaeresis\"}",
                    "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\xc2\x80\":\"Control\","
                    "\"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\","
                    "\"\xf0\x9f\x98\x80\":\"Emoji: Grinning Face\","
                    "\"\xef\xac\xb3\":\"Hebrew Letter Dalet With Dagesh\"}");
    check_canonical("{\"b\":1,\"\":2,\"aa\":3,\"a\":4}", "{\"\":2,\"a\":4,\"aa\":3,\"b\":1}");
    /* The same first bytes, then a supplementary character against U+FFFF and against U+D7FF. */
    check_canonical("{\"x\\uffff\":1,\"x\\udbff\\udfff\":2,\"x\\ud7ff\":3}",
                    "{\"x\xed\x9f\xbf\":3,\"x\xf4\x8f\xbf\xbf\":2,\"x\xef\xbf\xbf\":1}");
}

/* RFC 8785 §3.2.2.2. */
static void escapes_strings_as_told(void **state _unused_)
{
    check_canonical("\"\\u20ac$\\u000F\\u000aA'\\u0042\\u0022\\u005c\\\\\\\"\\/\"",
                    "\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"");
    check_canonical("\"\\b\\t\\n\\f\\r\\u0001\\u001f\\u007f\"",
                    "\"\\b\\t\\n\\f\\r\\u0001\\u001f\x7f\"");
}

static void writes_values_without_space(void **state _unused_)
{
    check_canonical(" [ 1 , -0 , true , false , null , { } , [ ] , -12 ] ",
                    "[1,0,true,false,null,{},[],-12]");
    check_canonical("9007199254740991", "9007199254740991");
    check_canonical("-9007199254740991", "-9007199254740991");
}

static void check_refused(const char *in, const char *message)
{
    _cleanup_json_ json_t *j = parse(in);
    char *out = NULL;
    struct err e = {0};

    assert_int_equal(jcs_encode(j, &out, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_string_equal(e.msg, message);
    assert_null(out);
}

static void signs_no_fractions_and_no_large_numbers(void **state _unused_)
{
    check_refused("{\"a\":[1,1.5]}",
                  "canonical JSON: a: [1]: expected an integer, found a fraction");
    check_refused("1e2", "canonical JSON: expected an integer, found a fraction");
    check_refused("9007199254740992", "canonical JSON: expected an integer of at most 2^53-1 in "
                                      "magnitude, found 9007199254740992");
    check_refused("-9007199254740992", "canonical JSON: expected an integer of at most 2^53-1 in "
                                       "magnitude, found -9007199254740992");
}

static void encoding_is_bounded_in_depth(void **state _unused_)
{
    _cleanup_json_ json_t *j = json_array();
    char *out = NULL;
    struct err e = {0};

    for (int i = 1; i < 32; i++) {
        json_t *outer = json_array();
        json_array_append_new(outer, j);
        j = outer;
    }
    assert_int_equal(jcs_encode(j, &out, &e), 0);
    free(out);
    out = NULL;
    json_t *outer = json_array();
    json_array_append_new(outer, j);
    j = outer;
    assert_int_equal(jcs_encode(j, &out, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_null(out);
}

static void hashes_know_their_answers(void **state _unused_)
{
    _cleanup_json_ json_t *j = parse("{\"c\":{\"d\":\"e\"},\"b\":1,\"a\":\"test\"}");
    _cleanup_json_ json_t *empty = parse("{}"), *fraction = parse("0.5");
    uint8_t h384[48], h256[32];
    struct err e = {0};

    assert_int_equal(jcs_sha384(j, h384, &e), 0);
    _cleanup_free_ char *a = hex_encode(h384, 48);
    assert_string_equal(a, "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480"
                           "a186427c813ca941da78870c3");
    assert_int_equal(jcs_sha256(empty, h256, &e), 0);
    _cleanup_free_ char *b = hex_encode(h256, 32);
    assert_string_equal(b, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
    assert_int_equal(jcs_sha256(fraction, h256, &e), -1);
    assert_int_equal(jcs_sha384(fraction, h384, &e), -1);
}

static void check_unparsed(const char *in, size_t n, const char *message)
{
    json_t *j = NULL;
    struct err e = {0};

    assert_int_equal(json_parse("t", BYTES(in, n), 65536, &j, &e), -1);
    assert_null(j);
    assert_int_equal(e.code, ERR_INVALID);
    assert_string_equal(e.msg, message);
}

static void parsing_is_strict(void **state _unused_)
{
#define UNPARSED(s, m) check_unparsed(s, sizeof(s) - 1, m)
    UNPARSED("", "t: expected JSON, found nothing");
    UNPARSED("{\"a\":1,\n\"a\":2}", "t: line 2 column 3: duplicate object key");
    UNPARSED("{\"a\":1,\"\\u0061\":2}", "t: line 1 column 15: duplicate object key");
    UNPARSED("{} {}", "t: line 1 column 4: end of file expected");
    UNPARSED("[1,]", "t: line 1 column 4: unexpected token");
    UNPARSED("\"a\0b\"", "t: line 1 column 3: expected no NUL byte");
    UNPARSED("{}\0", "t: line 1 column 3: expected no NUL byte");
    UNPARSED("[\n\n \0]", "t: line 3 column 2: expected no NUL byte");
    UNPARSED("\"\\\0\"", "t: line 1 column 3: expected no NUL byte");
#undef UNPARSED
    static const char *const bad[] = {"\"\\u0000\"",
                                      "\"\xff\"",
                                      "\"\xed\xa0\x80\"",
                                      "\"\\ud800\"",
                                      "\"\xc0\xaf\"",
                                      "\xef\xbb\xbf{}",
                                      "'a'",
                                      "{a:1}",
                                      "01",
                                      "+1",
                                      ".5",
                                      "NaN",
                                      "Infinity",
                                      "nul",
                                      "[1 2]",
                                      "9223372036854775808",
                                      "1e999",
                                      "\"\t\"",
                                      "/* c */ 1",
                                      "{\"a\" 1}",
                                      "[",
                                      "{",
                                      "\"",
                                      "\"\\",
                                      "]"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        json_t *j = NULL;
        struct err e = {0};
        if (json_parse("t", BYTES_STR(bad[i]), 100, &j, &e) != -1) {
            fail_msg("accepted %s", bad[i]);
        }
        assert_int_equal(e.code, ERR_INVALID);
    }
}

static void parse_errors_do_not_quote_the_input(void **state _unused_)
{
    static const char *const bad[] = {"{\"d\":\"secretvalue\" \"x\"}", "{\"d\":secretvalue}",
                                      "{\"secretvalue\":1,\"secretvalue\":2}", "[\"secretvalue"};

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        json_t *j = NULL;
        struct err e = {0};
        assert_int_equal(json_parse("t", BYTES_STR(bad[i]), 100, &j, &e), -1);
        assert_null(strstr(e.msg, "secret"));
    }
}

static void depth_is_bounded(void **state _unused_)
{
    char s[256];
    struct err e = {0};

    for (size_t depth = 31; depth <= 33; depth++) {
        json_t *j = NULL;
        memset(s, '[', depth);
        memset(s + depth, ']', depth);
        assert_int_equal(json_parse("t", BYTES(s, 2 * depth), 256, &j, &e), depth > 32 ? -1 : 0);
        json_decref(j);
    }
    assert_string_equal(e.msg, "t: line 1 column 33: expected at most 32 levels of nesting");
    /* Brackets in strings are not nesting, also after an escaped quote. */
    s[0] = '"';
    memcpy(s + 1, "\\\"\\\\", 4);
    memset(s + 5, '[', 100);
    s[105] = '"';
    json_t *j = NULL;
    assert_int_equal(json_parse("t", BYTES(s, 106), 256, &j, &e), 0);
    json_decref(j);
}

static void size_is_bounded(void **state _unused_)
{
    json_t *j = NULL;
    struct err e = {0};

    assert_int_equal(json_parse("t", BYTES_STR("[1,2]"), 4, &j, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_string_equal(e.msg, "t: expected at most 4 bytes of JSON, found 5");
    assert_int_equal(json_parse("t", BYTES_STR("[1,2]"), 5, &j, &e), 0);
    json_decref(j);
}

static void typed_reads_name_field_and_types(void **state _unused_)
{
    _cleanup_json_ json_t *o = parse("{\"s\":\"x\",\"i\":7,\"o\":{},\"a\":[],\"n\":null,\"r\":1.5,"
                                     "\"b\":true}");
    const char *s = NULL;
    int64_t i = 0;
    json_t *j = NULL;
    struct err e = {0};

    assert_int_equal(json_get_str(o, "t", "s", &s, &e), 0);
    assert_string_equal(s, "x");
    assert_int_equal(json_get_int(o, "t", "i", 7, 7, &i, &e), 0);
    assert_int_equal(i, 7);
    assert_int_equal(json_get_obj(o, "t", "o", &j, &e), 0);
    assert_int_equal(json_get_arr(o, "t", "a", &j, &e), 0);
    assert_int_equal(json_get_str(o, "t", "i", &s, &e), -1);
    assert_string_equal(e.msg, "t.i: expected a string, found an integer");
    assert_int_equal(json_get_str(o, "t", "zz", &s, &e), -1);
    assert_string_equal(e.msg, "t.zz: expected a string, found nothing");
    assert_int_equal(json_get_str(o, "t", "n", &s, &e), -1);
    assert_string_equal(e.msg, "t.n: expected a string, found null");
    assert_int_equal(json_get_int(o, "t", "r", 0, 9, &i, &e), -1);
    assert_string_equal(e.msg, "t.r: expected an integer, found a fraction");
    assert_int_equal(json_get_int(o, "t", "i", 8, 9, &i, &e), -1);
    assert_string_equal(e.msg, "t.i: expected 8 to 9, found 7");
    assert_int_equal(json_get_int(o, "t", "i", 0, 6, &i, &e), -1);
    assert_int_equal(json_get_obj(o, "t", "a", &j, &e), -1);
    assert_string_equal(e.msg, "t.a: expected an object, found an array");
    assert_int_equal(json_get_arr(o, "t", "b", &j, &e), -1);
    assert_string_equal(e.msg, "t.b: expected an array, found a boolean");
    assert_int_equal(json_get_str(json_object_get(o, "a"), "t", "s", &s, &e), -1);
    assert_string_equal(e.msg, "t: expected an object, found an array");
    assert_int_equal(json_get_obj(NULL, "t", "s", &j, &e), -1);
    assert_string_equal(e.msg, "t: expected an object, found nothing");
    assert_int_equal(e.code, ERR_INVALID);
}

static void unknown_members_are_named(void **state _unused_)
{
    static const char *const all[] = {"a", "b", "c", NULL}, *const some[] = {"a", NULL};
    _cleanup_json_ json_t *o = parse("{\"a\":1,\"b\\n\":2}"), *fine = parse("{\"a\":1,\"c\":1}");
    struct err e = {0};

    assert_int_equal(json_only_keys(fine, "t", all, &e), 0);
    assert_int_equal(json_only_keys(o, "t", some, &e), -1);
    assert_string_equal(e.msg, "t.b?: not a known member");
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(json_only_keys(json_object_get(o, "a"), "t", some, &e), -1);
    assert_string_equal(e.msg, "t: expected an object, found an integer");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sorts_keys_by_utf16_code_units),
        cmocka_unit_test(escapes_strings_as_told),
        cmocka_unit_test(writes_values_without_space),
        cmocka_unit_test(signs_no_fractions_and_no_large_numbers),
        cmocka_unit_test(encoding_is_bounded_in_depth),
        cmocka_unit_test(hashes_know_their_answers),
        cmocka_unit_test(parsing_is_strict),
        cmocka_unit_test(parse_errors_do_not_quote_the_input),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(size_is_bounded),
        cmocka_unit_test(typed_reads_name_field_and_types),
        cmocka_unit_test(unknown_members_are_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

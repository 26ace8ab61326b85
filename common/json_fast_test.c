#include "common/json_fast.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/secret.h"

static json_t *slow(struct bytes in)
{
    json_error_t je;

    return json_loadb((const char *)in.p, in.n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &je);
}

/* It may leave anything to Jansson, but what it returns is what Jansson returns: the same tree with
 * its members in the same order. */
static int same_or_none(struct bytes in)
{
    json_t *a = json_fast(in, 32);

    if (!a) {
        return 0;
    }
    json_t *b = slow(in);
    assert_non_null(b);
    _cleanup_free_ char *x = json_dumps(a, JSON_ENCODE_ANY), *y = json_dumps(b, JSON_ENCODE_ANY);
    assert_string_equal(x, y);
    assert_true(json_equal(a, b));
    json_decref(a);
    json_decref(b);
    return 1;
}

static void plain_json_is_read(void **state _unused_)
{
    static const char *const good[] = {
        "{}",
        "[]",
        " { \"a\" : [ 1 , -2 , 0 , true , false , null , \"x y\" ] , \"\" : { } }\r\n\t",
        "\"s\"",
        "123456789012345",
        "-999999999999999",
        "true",
        "[[[[[[]]]]]]",
        "{\"b\":1,\"a\":2}",
    };

    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(same_or_none(BYTES_STR(good[i])), 1);
    }
}

static void the_rest_is_left_to_the_other_reader(void **state _unused_)
{
    static const char *const other[] = {
        "",
        " ",
        "{",
        "}",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "\"\\n\"",
        "\"\xc3\xa9\"",
        "\"a",
        "01",
        "-0",
        "-",
        "+1",
        "1.0",
        "1e3",
        "1234567890123456",
        "truex",
        "tru",
        "nul",
        "{} {}",
        "{}x",
        "{\"a\":1,\"a\":2}",
        "\"\x7f\"",
        "\"\t\"",
        "[\"a\":1]",
        "{\"a\",1}",
        "'a'",
        "/**/1",
        "1,",
        "]",
        "{\"a\":1]",
        "[1}",
        "-01",
        "--1",
        "1-1",
    };

    for (size_t i = 0; i < ARRAY_LEN(other); i++) {
        assert_null(json_fast(BYTES_STR(other[i]), 32));
    }
    assert_null(json_fast(BYTES("[1\0]", 4), 32));
    assert_null(json_fast(BYTES("\"a\0b\"", 5), 32));
}

static void depth_is_bounded(void **state _unused_)
{
    json_t *j = json_fast(BYTES_STR("[[1],{\"a\":2}]"), 2);

    assert_non_null(j);
    json_decref(j);
    assert_null(json_fast(BYTES_STR("[[1],{\"a\":[]}]"), 2));
    char *deep = xmalloc(100000);
    memset(deep, '[', 100000);
    assert_null(json_fast(BYTES(deep, 100000), 32));
    free(deep);
}

/* Texts that are nearly JSON: whatever is taken must be what the other reader takes. */
static void mutations_agree(void **state _unused_)
{
    static const char seed[] =
        "{\"v\":1,\"job\":\"jab\",\"l\":[1,-20,{\"k\":\"A_-9\"},[]],\"t\":true,"
        "\"n\":null , \"f\":false,\"o\":{}}";
    static const char alphabet[] = "{}[]\",:\\-+.eE0123456789truefalsn \n\t\x01\x7f\x80/u";
    size_t taken = 0;

    for (int i = 0; i < 200000; i++) {
        char b[sizeof(seed)];
        size_t n = sizeof(seed) - 1;
        uint32_t r[4];
        memcpy(b, seed, sizeof(seed));
        random_bytes(r, sizeof(r));
        for (uint32_t k = 0; k <= r[0] % 3; k++) {
            uint32_t at = r[k + 1] % (uint32_t)n;
            if (r[k + 1] >> 31) {
                b[at] = alphabet[(r[k + 1] >> 8) % (sizeof(alphabet) - 1)];
            } else {
                memmove(b + at, b + at + 1, n - at - 1);
                n--;
            }
        }
        taken += (size_t)same_or_none(BYTES(b, n));
    }
    assert_true(taken > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_json_is_read),
        cmocka_unit_test(the_rest_is_left_to_the_other_reader),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(mutations_agree),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

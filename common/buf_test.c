#include "common/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void grows_up_to_its_cap_and_not_past_it(void **state _unused_)
{
    _cleanup_buf_ struct buf b = BUF_INIT(200);
    struct err e = {0};
    char block[100];

    memset(block, 'x', sizeof(block));
    assert_int_equal(buf_add(&b, block, 100, &e), 0);
    assert_int_equal(buf_add(&b, block, 100, &e), 0);
    assert_int_equal(b.n, 200);
    assert_int_equal(b.p[200], 0);
    assert_int_equal(buf_add(&b, "y", 1, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_string_equal(e.msg, "expected at most 200 bytes, found more");
    assert_int_equal(b.n, 200);
    assert_int_equal(buf_add(&b, NULL, 0, &e), 0);
    assert_int_equal(buf_reserve(&b, SIZE_MAX, &e), -1);
}

static void formats_whole_or_not_at_all(void **state _unused_)
{
    _cleanup_buf_ struct buf b = BUF_INIT(8);
    struct err e = {0};

    assert_int_equal(buf_addf(&b, &e, "%d-%s", 12, "ab"), 0);
    assert_string_equal((char *)b.p, "12-ab");
    assert_int_equal(buf_addf(&b, &e, "%s", "four"), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_string_equal((char *)b.p, "12-ab");
    assert_int_equal(buf_addf(&b, &e, "%s", "abc"), 0);
    assert_string_equal((char *)b.p, "12-ababc");
}

static void reserved_room_ends_in_nul(void **state _unused_)
{
    _cleanup_buf_ struct buf b = BUF_INIT(1000);
    struct err e = {0};

    assert_int_equal(buf_reserve(&b, 500, &e), 0);
    memset(b.p, 'z', 500);
    b.n += 500;
    assert_int_equal(b.p[b.n], 0);
}

static void done_leaves_an_empty_usable_buffer(void **state _unused_)
{
    struct buf b = BUF_INIT(4);
    struct err e = {0};

    assert_int_equal(buf_add(&b, "abcd", 4, &e), 0);
    buf_done(&b);
    assert_null(b.p);
    assert_int_equal(b.n, 0);
    assert_int_equal(b.cap, 4);
    assert_int_equal(buf_add(&b, "efgh", 4, &e), 0);
    buf_done(&b);
    buf_done(&b);
}

static void hex_goes_both_ways(void **state _unused_)
{
    const uint8_t bytes[] = {0x00, 0x9f, 0xA0, 0xff};
    uint8_t out[4];
    struct err e = {0};
    _cleanup_free_ char *s = hex_encode(bytes, 4);

    assert_string_equal(s, "009fa0ff");
    assert_int_equal(hex_decode("009FA0fF", out, 4, &e), 0);
    assert_memory_equal(out, bytes, 4);
    assert_int_equal(hex_decode("009fa0f", out, 4, &e), -1);
    assert_string_equal(e.msg, "expected 8 hex digits, found fewer");
    assert_int_equal(hex_decode("009fa0fff", out, 4, &e), -1);
    assert_string_equal(e.msg, "expected 8 hex digits, found more");
    memset(out, 7, sizeof(out));
    assert_int_equal(hex_decode("009fa0fg", out, 4, &e), -1);
    assert_string_equal(e.msg, "expected a hex digit at position 8");
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(out[0], 7);
}

/* RFC 4648 §10, and its alphabets' last digits. */
static const struct {
    const char *plain, *std, *url, *b32;
} vectors[] = {
    {"", "", "", ""},
    {"f", "Zg==", "Zg", "my"},
    {"fo", "Zm8=", "Zm8", "mzxq"},
    {"foo", "Zm9v", "Zm9v", "mzxw6"},
    {"foob", "Zm9vYg==", "Zm9vYg", "mzxw6yq"},
    {"fooba", "Zm9vYmE=", "Zm9vYmE", "mzxw6ytb"},
    {"foobar", "Zm9vYmFy", "Zm9vYmFy", "mzxw6ytboi"},
    {"\xfb\xff\xbf", "+/+/", "-_-_", "7p736"},
};

static void base64_and_base32_know_their_answers(void **state _unused_)
{
    for (size_t i = 0; i < ARRAY_LEN(vectors); i++) {
        const char *p = vectors[i].plain;
        _cleanup_free_ char *std = b64_encode(p, strlen(p)), *url = b64url_encode(p, strlen(p));
        _cleanup_free_ char *b32 = b32_encode_lower(p, strlen(p));
        _cleanup_buf_ struct buf a = BUF_INIT(6), b = BUF_INIT(6);
        struct err e = {0};
        assert_string_equal(std, vectors[i].std);
        assert_string_equal(url, vectors[i].url);
        assert_string_equal(b32, vectors[i].b32);
        assert_int_equal(b64_decode(std, strlen(std), &a, &e), 0);
        assert_string_equal((char *)a.p, p);
        assert_int_equal(b64url_decode(url, strlen(url), &b, &e), 0);
        assert_string_equal((char *)b.p, p);
    }
}

static void base64_is_strict(void **state _unused_)
{
    static const char *const bad_std[] = {"Zg",     "Zg=",  "Zg===",    "Zh==",    "Zm9=",
                                          "Z===",   "====", "=",        "Zm 8",    "Zm8=\n",
                                          "Zm9v\n", "Zm-v", "Zg==Zg==", "Zm8=Zg=="};
    static const char *const bad_url[] = {"Zg==", "Z",    "Zh",     "Zm9",   "Zm+v",
                                          "Zm/v", "Zm v", "Zm9v\n", "Zm9vZ", "Zm\x80v"};

    for (size_t i = 0; i < ARRAY_LEN(bad_std); i++) {
        _cleanup_buf_ struct buf b = BUF_INIT(64);
        struct err e = {0};
        assert_int_equal(b64_decode(bad_std[i], strlen(bad_std[i]), &b, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
        assert_int_equal(b.n, 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad_url); i++) {
        _cleanup_buf_ struct buf b = BUF_INIT(64);
        struct err e = {0};
        assert_int_equal(b64url_decode(bad_url[i], strlen(bad_url[i]), &b, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
        assert_int_equal(b.n, 0);
    }
}

static void base64_errors_say_where_but_not_what(void **state _unused_)
{
    _cleanup_buf_ struct buf b = BUF_INIT(3);
    struct err e = {0};

    assert_int_equal(b64url_decode("Zm9*", 4, &b, &e), -1);
    assert_string_equal(e.msg, "expected a base64url digit at position 4");
    assert_int_equal(b64_decode("Z*9v", 4, &b, &e), -1);
    assert_string_equal(e.msg, "expected a base64 digit at position 2");
    assert_int_equal(b64url_decode("Zh", 2, &b, &e), -1);
    assert_string_equal(e.msg, "expected zero bits after the last base64 byte");
    assert_int_equal(b64url_decode("Zm9vZ", 5, &b, &e), -1);
    assert_string_equal(e.msg, "expected whole base64 bytes, found 5 digits");
    assert_int_equal(b64_decode("Zg", 2, &b, &e), -1);
    assert_string_equal(e.msg, "expected padded base64, found 2 characters");
    assert_int_equal(b64url_decode("Zm9vYg", 6, &b, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
}

static void base64_of_every_length_comes_back(void **state _unused_)
{
    uint8_t in[256];

    for (size_t i = 0; i < sizeof(in); i++) {
        in[i] = (uint8_t)(i * 167 + 13);
    }
    for (size_t n = 0; n <= sizeof(in); n++) {
        _cleanup_free_ char *s = b64url_encode(in, n);
        _cleanup_buf_ struct buf b = BUF_INIT(sizeof(in));
        struct err e = {0};
        assert_int_equal(b64url_decode(s, strlen(s), &b, &e), 0);
        assert_int_equal(b.n, n);
        assert_memory_equal(b.p, in, n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_up_to_its_cap_and_not_past_it),
        cmocka_unit_test(formats_whole_or_not_at_all),
        cmocka_unit_test(reserved_room_ends_in_nul),
        cmocka_unit_test(done_leaves_an_empty_usable_buffer),
        cmocka_unit_test(hex_goes_both_ways),
        cmocka_unit_test(base64_and_base32_know_their_answers),
        cmocka_unit_test(base64_is_strict),
        cmocka_unit_test(base64_errors_say_where_but_not_what),
        cmocka_unit_test(base64_of_every_length_comes_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guest/le.h"
#include "guest/version.h"

static void stub_is(const char *magic, size_t n, const char *expected)
{
    struct pe p = {
        .image = BYTES(magic, n),
        .n = 1,
        .s = {{.name = ".sdmagic", .virtual_bytes = (uint32_t)n, .raw_bytes = (uint32_t)n}}};
    char got[VERSION_TEXT_BYTES];

    version_of_stub(&p, got);
    assert_string_equal(got, expected);
}

static void test_stub(void **state)
{
    static const char real[] = "#### LoaderInfo: systemd-stub 252.39-1~deb12u2 ####";
    struct pe none = {0};
    char got[VERSION_TEXT_BYTES] = "x", longest[200];

    (void)state;
    stub_is(real, sizeof(real), "252.39-1~deb12u2");
    stub_is(real, 33, "252");
    stub_is(real, 30, "");
    stub_is("#### LoaderInfo: systemd-boot 252 ####", 38, "");
    stub_is("", 0, "");
    memset(longest, '9', sizeof(longest));
    memcpy(longest, real, 30);
    char expected[VERSION_TEXT_BYTES] = {0};
    memset(expected, '9', sizeof(expected) - 1);
    stub_is(longest, sizeof(longest), expected);
    version_of_stub(&none, got);
    assert_string_equal(got, "");
}

static void test_linux(void **state)
{
    uint8_t kernel[0x300] = {0};
    char got[VERSION_TEXT_BYTES];

    (void)state;
    memcpy(kernel + 0x202, "HdrS", 4);
    le16_put(kernel + 0x20e, 0x80);
    strcpy((char *)kernel + 0x280, "6.1.0-56-cloud-amd64 (debian@example) #1");
    version_of_linux(BYTES(kernel, sizeof(kernel)), got);
    assert_string_equal(got, "6.1.0-56-cloud-amd64");
    version_of_linux(BYTES(kernel, 0x283), got);
    assert_string_equal(got, "6.1");
    version_of_linux(BYTES(kernel, 0x280), got);
    assert_string_equal(got, "");
    version_of_linux(BYTES(kernel, 0x20f), got);
    assert_string_equal(got, "");
    le16_put(kernel + 0x20e, 0xffff);
    version_of_linux(BYTES(kernel, sizeof(kernel)), got);
    assert_string_equal(got, "");
    le16_put(kernel + 0x20e, 0);
    version_of_linux(BYTES(kernel, sizeof(kernel)), got);
    assert_string_equal(got, "");
    le16_put(kernel + 0x20e, 0x80);
    kernel[0x202] = 'h';
    version_of_linux(BYTES(kernel, sizeof(kernel)), got);
    assert_string_equal(got, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stub),
        cmocka_unit_test(test_linux),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

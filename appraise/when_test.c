#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "appraise/when.h"
#include "common/mem.h"

static void test_times(void **state)
{
    static const struct {
        const char *text;
        int64_t ms;
    } good[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"2025-06-19T10:16:03Z", 1750328163000},
        {"2025-06-19t10:16:03z", 1750328163000},
        {"2025-06-19 10:16:03Z", 1750328163000},
        {"2025-06-19T12:16:03+02:00", 1750328163000},
        {"2025-06-19T08:46:03.25-01:30", 1750328163250},
        {"2024-02-29T00:00:00.123456Z", 1709164800123},
        {"2016-12-31T23:59:60Z", 1483228799000},
        {"9999-12-31T23:59:59Z", 253402300799000},
    };
    static const char *const bad[] = {
        "",
        "2025-06-19",
        "2025-06-19T10:16:03",
        "2025-06-19T10:16Z",
        "2025-6-19T10:16:03Z",
        "2025-13-01T00:00:00Z",
        "2025-02-29T00:00:00Z",
        "2025-00-10T00:00:00Z",
        "2025-06-19T24:00:00Z",
        "2025-06-19T10:60:03Z",
        "2025-06-19T10:16:61Z",
        "2025-06-19T10:16:03.Z",
        "2025-06-19T10:16:03Zx",
        "2025-06-19T10:16:03+0200",
        "+025-06-19T10:16:03Z",
        "2025-06-19T10:16:03.1234567890123456789Z",
    };
    int64_t ms;
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        if (rfc3339_ms(good[i].text, &ms) || ms != good[i].ms) {
            fail_msg("%s: %lld", good[i].text, (long long)ms);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (rfc3339_ms(bad[i], &ms) == 0) {
            fail_msg("taken: \"%s\"", bad[i]);
        }
    }
}

static void test_back(void **state)
{
    char text[32];
    (void)state;

    rfc3339_utc(1750328163999, text);
    assert_string_equal(text, "2025-06-19T10:16:03Z");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_times), cmocka_unit_test(test_back)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}

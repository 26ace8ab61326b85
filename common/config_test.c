/* Configuration: precedence, bounds, unknown names, secrets. */
#include "common/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const struct config_item items[] = {
    {.name = "slots", .type = CONFIG_INT, .dflt = "4", .min = 1, .max = 64, .help = "CVMs at once"},
    {.name = "pin", .type = CONFIG_STR, .dflt = "", .secret = 1, .help = "a secret"},
    {.name = "fast", .type = CONFIG_BOOL, .dflt = "false", .help = "speed"},
};

static int load(struct config **ret, struct err *e, ...)
{
    char *argv[16] = {(char *)"prog"};
    int argc = 1;
    va_list ap;

    va_start(ap, e);
    while ((argv[argc] = va_arg(ap, char *))) {
        argc++;
    }
    va_end(ap);
    return config_load("prog", "about", items, ARRAY_LEN(items), argc, argv, ret, e);
}

static void test_command_line_over_environment_over_file(void **state)
{
    char path[] = "/tmp/coffer-config-XXXXXX";
    static const char text[] = "# comment\n\nslots = 7\nfast=true\nlog-level = debug\n";
    _cleanup_(config_freep) struct config *c = NULL;
    struct err e = {0};
    int fd = mkstemp(path);

    (void)state;
    assert_int_equal(sizeof(text) - 1, write(fd, text, sizeof(text) - 1));
    close(fd);
    setenv("COFFER_SLOTS", "8", 1);
    assert_int_equal(0, load(&c, &e, "--config", path, "--log-level=warn", NULL));
    assert_int_equal(8, config_int(c, "slots"));
    assert_int_equal(1, config_bool(c, "fast"));
    assert_string_equal("warn", config_str(c, "log-level"));
    config_free(TAKE_PTR(c));
    assert_int_equal(0, load(&c, &e, "--config", path, "--slots", "9", NULL));
    assert_int_equal(9, config_int(c, "slots"));
    unsetenv("COFFER_SLOTS");
    unlink(path);
}

static void test_wrong_values_are_named(void **state)
{
    struct config *c = NULL;
    struct err e = {0};

    (void)state;
    assert_int_equal(-1, load(&c, &e, "--slots", "65", NULL));
    assert_string_equal("slots (command line): expected an integer 1..64, found \"65\"", e.msg);
    assert_int_equal(-1, load(&c, &e, "--slots", "4x", NULL));
    assert_int_equal(-1, load(&c, &e, "--fast", "maybe", NULL));
    assert_string_equal("fast (command line): expected true or false, found \"maybe\"", e.msg);
    assert_int_equal(-1, load(&c, &e, "--slot", "4", NULL));
    assert_string_equal("command line: unknown option \"slot\" (see --help)", e.msg);
    assert_int_equal(-1, load(&c, &e, "--slots", NULL));
    assert_string_equal("command line: --slots needs a value", e.msg);
    assert_int_equal(-1, load(&c, &e, "slots", NULL));
    assert_int_equal(-1, load(&c, &e, "--config", "/nonexistent/x", NULL));
    assert_int_equal(ERR_IO, e.code);
}

static void test_file_errors_name_the_line(void **state)
{
    char path[] = "/tmp/coffer-config-XXXXXX";
    static const char text[] = "slots = 7\nslots 8\n";
    struct config *c = NULL;
    struct err e = {0};
    char want[128];
    int fd = mkstemp(path);

    (void)state;
    assert_int_equal(sizeof(text) - 1, write(fd, text, sizeof(text) - 1));
    close(fd);
    assert_int_equal(-1, load(&c, &e, "--config", path, NULL));
    snprintf(want, sizeof(want), "%s:2: expected \"name = value\", found \"slots 8\"", path);
    assert_string_equal(want, e.msg);
    unlink(path);
}

static void test_secrets_are_not_shown(void **state)
{
    _cleanup_(config_freep) struct config *c = NULL;
    struct err e = {0};

    (void)state;
    assert_int_equal(0, load(&c, &e, "--pin", "hunter2", NULL));
    _cleanup_free_ char *text = config_describe(c);
    assert_null(strstr(text, "hunter2"));
    assert_non_null(strstr(text, "pin=(hidden)"));
    assert_non_null(strstr(text, "slots=4"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_command_line_over_environment_over_file),
        cmocka_unit_test(test_wrong_values_are_named),
        cmocka_unit_test(test_file_errors_name_the_line),
        cmocka_unit_test(test_secrets_are_not_shown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

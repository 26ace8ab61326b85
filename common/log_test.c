#include "common/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cmocka.h>
#include <jansson.h>

/* Standard error goes into a datagram socket, which keeps each write apart. */
static int real_stderr = -1, capture[2] = {-1, -1};

static int begin(void **state _unused_)
{
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, capture)) {
        return -1;
    }
    real_stderr = dup(STDERR_FILENO);
    log_context(NULL, 0);
    return dup2(capture[1], STDERR_FILENO) < 0 ? -1 : 0;
}

static int end(void **state _unused_)
{
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    close(capture[0]);
    close(capture[1]);
    return 0;
}

/* The next write to standard error, without a final newline, which must be there; NULL if none. */
static char *next_line(void)
{
    static char line[8192];
    ssize_t n = recv(capture[0], line, sizeof(line) - 1, 0);

    if (n < 0) {
        return NULL;
    }
    assert_true(n > 0 && n <= 4096);
    assert_int_equal(line[n - 1], '\n');
    line[n - 1] = 0;
    assert_null(strchr(line, '\n'));
    return line;
}

static void set(int json, enum log_level level)
{
    log_init(&(struct log_opts){.service = "svc-kbs", .level = level, .json = json});
}

static void text_lines_have_the_documented_form(void **state _unused_)
{
    set(0, LOG_INFO);
    log_context("jabc", 2);
    log_info("key.released", "%d keys", 2);
    char *l = next_line();
    assert_non_null(l);
    /* 23:59:59.123 */
    assert_int_equal(strspn(l, "0123456789:."), 12);
    assert_string_equal(l + 12, " svc-kbs       INFO  key.released job=jabc attempt=2 \"2 keys\"");
    assert_null(next_line());
    log_context(NULL, 0);
    log_warn("bus.lost", "x");
    assert_string_equal(next_line() + 12, " svc-kbs       WARN  bus.lost \"x\"");
}

static void lower_levels_are_silent(void **state _unused_)
{
    set(0, LOG_WARN);
    log_debug("a", "x");
    log_info("a", "x");
    log_err(LOG_INFO, "a", &(struct err){.code = ERR_IO, .msg = "x"});
    assert_null(next_line());
    log_error("a", "x");
    assert_non_null(next_line());
}

static void control_bytes_are_escaped_in_text(void **state _unused_)
{
    set(0, LOG_DEBUG);
    log_info("e", "%s", "a\nb\x1b[31m\"q\\ \x7f \xc2\x9b \xe2\x80\xae \xff \xc0\x80 é €");
    assert_string_equal(strchr(next_line(), '"'),
                        "\"a\\x0ab\\x1b[31m\\\"q\\\\ \\x7f \\x9b \\u202e \\xff \\xc0\\x80 é €\"");
    log_info("forged\nevent", "x");
    assert_non_null(strstr(next_line(), "forged\\x0aevent"));
    log_context("j\n\"", 1);
    log_info("e", "x");
    assert_non_null(strstr(next_line(), "job=j\\x0a\\\" "));
}

static json_t *parse(const char *line)
{
    json_error_t je;
    json_t *j = line ? json_loads(line, JSON_REJECT_DUPLICATES, &je) : NULL;

    assert_non_null(j);
    return j;
}

static const char *str(json_t *j, const char *key)
{
    const char *s = json_string_value(json_object_get(j, key));

    return s ? s : "";
}

static void json_lines_parse_and_keep_the_text(void **state _unused_)
{
    const char *text = "a\nb\x1b[31m\"q\\ é";
    set(1, LOG_DEBUG);
    log_context("jabc", 3);
    log_error("bus.lost", "%s", text);
    json_t *j = parse(next_line());
    assert_string_equal(str(j, "text"), text);
    assert_string_equal(str(j, "service"), "svc-kbs");
    assert_string_equal(str(j, "level"), "error");
    assert_string_equal(str(j, "event"), "bus.lost");
    assert_string_equal(str(j, "job"), "jabc");
    assert_int_equal(json_integer_value(json_object_get(j, "attempt")), 3);
    assert_int_equal(strlen(str(j, "ts")), strlen("2024-01-01T00:00:00.000Z"));
    json_decref(j);
    log_info("e", "bad \xff\xfe utf-8 \xed\xa0\x80");
    json_decref(parse(next_line()));
}

static void errors_show_code_and_clause(void **state _unused_)
{
    struct err e = {0};

    err_refuse(&e, ERR_DENIED, "grant.consumer", "A", "%s", "B");
    set(0, LOG_DEBUG);
    log_err(LOG_WARN, "key.refused", &e);
    char *l = next_line();
    assert_non_null(strstr(l, " code=denied at="));
    assert_non_null(strstr(l, "log_test.c:"));
    assert_non_null(strstr(l, "\"grant.consumer: expected A, got B\""));
    set(1, LOG_DEBUG);
    log_err(LOG_WARN, "key.refused", &e);
    json_t *j = parse(next_line());
    assert_string_equal(str(j, "code"), "denied");
    assert_string_equal(str(j, "clause"), "grant.consumer");
    assert_string_equal(str(j, "expected"), "A");
    assert_string_equal(str(j, "actual"), "B");
    json_decref(j);
}

static void long_text_is_cut_and_marked(void **state _unused_)
{
    static char text[10000];

    memset(text, 'x', sizeof(text) - 1);
    /* Every kind of last character: plain, escaped to six, and three bytes of UTF-8. */
    for (int kind = 0; kind < 3; kind++) {
        for (size_t i = 0; kind == 1 && i < sizeof(text) - 1; i++) {
            text[i] = 1;
        }
        for (size_t i = 0; kind == 2 && i + 3 < sizeof(text); i += 3) {
            memcpy(text + i, "€", 3);
        }
        set(0, LOG_DEBUG);
        log_info("e", "%s", text);
        char *l = next_line();
        assert_true(strlen(l) <= 4095);
        assert_string_equal(l + strlen(l) - 4, "...\"");
        set(1, LOG_DEBUG);
        log_info("e", "%s", text);
        l = next_line();
        size_t n = strlen(l);
        assert_true(n <= 4095 && n > 4000);
        json_t *j = parse(l);
        const char *t = str(j, "text");
        assert_string_equal(t + strlen(t) - 3, "...");
        json_decref(j);
    }
}

static void any_length_makes_whole_lines(void **state _unused_)
{
    char text[4300];

    for (size_t n = 3900; n < 4200; n++) {
        memset(text, 'x', n);
        text[n] = 0;
        set(1, LOG_DEBUG);
        log_info("e", "%s", text);
        json_decref(parse(next_line()));
        set(0, LOG_DEBUG);
        log_info("e", "%s", text);
        char *l = next_line();
        assert_int_equal(l[strlen(l) - 1], '"');
    }
}

static void level_names_parse(void **state _unused_)
{
    enum log_level l = LOG_ERROR;

    assert_int_equal(log_level_parse("debug", &l), 0);
    assert_int_equal(l, LOG_DEBUG);
    assert_int_equal(log_level_parse("error", &l), 0);
    assert_int_equal(l, LOG_ERROR);
    assert_int_equal(log_level_parse("ERROR", &l), -1);
    assert_int_equal(log_level_parse("", &l), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(text_lines_have_the_documented_form, begin, end),
        cmocka_unit_test_setup_teardown(lower_levels_are_silent, begin, end),
        cmocka_unit_test_setup_teardown(control_bytes_are_escaped_in_text, begin, end),
        cmocka_unit_test_setup_teardown(json_lines_parse_and_keep_the_text, begin, end),
        cmocka_unit_test_setup_teardown(errors_show_code_and_clause, begin, end),
        cmocka_unit_test_setup_teardown(long_text_is_cut_and_marked, begin, end),
        cmocka_unit_test_setup_teardown(any_length_makes_whole_lines, begin, end),
        cmocka_unit_test(level_names_parse),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

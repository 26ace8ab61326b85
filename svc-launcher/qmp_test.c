#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "svc-launcher/qmp.h"

static struct qmp_msg parse(const char *line)
{
    struct qmp_msg m;
    struct err e = {0};

    if (qmp_parse(BYTES_STR(line), &m, &e) < 0) {
        fail_msg("%s: %s", line, e.msg);
    }
    return m;
}

static void messages(void **state)
{
    struct qmp_msg m;

    (void)state;
    m = parse("{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, "
              "\"package\": \"Debian\"}, \"capabilities\": [\"oob\"]}}");
    assert_int_equal(m.kind, QMP_GREETING);
    assert_int_equal(m.version, 702);
    assert_int_equal(parse("{\"return\": {}}").kind, QMP_RETURN);
    m = parse("{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\\nway\"}}");
    assert_int_equal(m.kind, QMP_ERROR);
    assert_string_equal(m.text, "no?way");
    m = parse("{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": "
              "\"VSERPORT_CHANGE\", \"data\": {\"open\": true, \"id\": \"bus\"}}");
    assert_int_equal(m.kind, QMP_PORT);
    assert_int_equal(m.open, 1);
    assert_string_equal(m.text, "bus");
    m = parse("{\"event\": \"VSERPORT_CHANGE\", \"data\": {\"open\": false, \"id\": \"log\"}}");
    assert_int_equal(m.open, 0);
    m = parse("{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": "
              "\"guest-shutdown\"}}");
    assert_int_equal(m.kind, QMP_SHUTDOWN);
    assert_string_equal(m.text, "guest-shutdown");
    assert_int_equal(parse("{\"event\": \"GUEST_PANICKED\", \"data\": {\"action\": \"run\"}}").kind,
                     QMP_PANICKED);
    assert_int_equal(parse("{\"event\": \"RTC_CHANGE\", \"data\": {\"offset\": 0}}").kind,
                     QMP_OTHER);
    assert_int_equal(parse("{}").kind, QMP_OTHER);
}

static void what_is_none(void **state)
{
    static const struct {
        const char *line, *message;
    } bad[] = {
        {"[]", "QMP: expected an object, got something else"},
        {"{\"QMP\":1}", "QMP: expected a greeting, got something else"},
        {"{\"event\":\"VSERPORT_CHANGE\",\"data\":{\"open\":1,\"id\":\"bus\"}}",
         "VSERPORT_CHANGE.open: expected true or false, got something else"},
        {"{\"event\":\"VSERPORT_CHANGE\",\"data\":{\"open\":true}}", NULL},
        {"{\"event\":\"SHUTDOWN\"}", NULL},
        {"{\"event\":1}", NULL},
        {"{\"QMP\":{\"version\":{\"qemu\":{\"major\":-1,\"minor\":0}}}}", NULL},
        {"{\"return\":{}", NULL},
        {"", NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct qmp_msg m;
        struct err e = {0};
        if (qmp_parse(BYTES_STR(bad[i].line), &m, &e) == 0) {
            fail_msg("accepted: %s", bad[i].line);
        }
        assert_true(e.msg[0]);
        if (bad[i].message) {
            assert_string_equal(e.msg, bad[i].message);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(messages), cmocka_unit_test(what_is_none)};

    return cmocka_run_group_tests_name("QMP", tests, NULL, NULL);
}

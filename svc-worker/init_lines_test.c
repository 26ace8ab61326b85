#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>

#include "svc-worker/init.h"

/* Lines on their way out of a VM. */

static char got[4096];

static void collect(void *arg, const char *line, size_t n)
{
    (void)arg;
    assert_true(strlen(got) + n + 2 < sizeof(got));
    strncat(got, line, n);
    strcat(got, "|");
}

static void feed(struct init_cut *c, const char *text)
{
    init_cut_feed(c, BYTES_STR(text), collect, NULL);
}

static void test_cut(void **state)
{
    struct init_cut c;

    (void)state;
    got[0] = 0;
    init_cut_start(&c, 5);
    feed(&c, "ab");
    feed(&c, "c\nde");
    assert_string_equal(got, "abc|");
    feed(&c, "\n\n12345\n");
    assert_string_equal(got, "abc|de||12345|");
    /* Too long: dropped whole, also over several pieces, and what follows is not. */
    feed(&c, "123456\nx\n12345");
    feed(&c, "6");
    feed(&c, "7\ny\n");
    assert_string_equal(got, "abc|de||12345|x|y|");
    assert_int_equal(c.dropped, 2);
    /* An unfinished line is none. */
    feed(&c, "zz");
    assert_string_equal(got, "abc|de||12345|x|y|");
    init_cut_done(&c);
}

static void test_out_whole_lines(void **state)
{
    struct init_out o = {0};
    char line[1000], text[1024];
    size_t lines = 0, bytes = 0;
    int fds[2];

    (void)state;
    memset(line, 'a', sizeof(line));
    assert_int_equal(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
    fcntl(fds[1], F_SETPIPE_SZ, 4096);
    while (init_out_line(&o, line, sizeof(line)) == 0) {
        lines++;
    }
    assert_int_equal(lines, INIT_OUT_MAX_BYTES / 1001);
    assert_true(o.n <= INIT_OUT_MAX_BYTES);
    assert_true(init_out_room(&o) < sizeof(line));
    /* The reader is slow: what fits goes out, the rest waits, nothing is lost or doubled. */
    assert_int_equal(init_out_flush(&o, fds[1]), 0);
    while (bytes < lines * 1001) {
        ssize_t n = read(fds[0], text, sizeof(text));
        assert_true(n > 0);
        for (ssize_t i = 0; i < n; i++) {
            assert_int_equal(text[i], (bytes + (size_t)i) % 1001 == 1000 ? '\n' : 'a');
        }
        bytes += (size_t)n;
        assert_true(init_out_flush(&o, fds[1]) >= 0);
    }
    assert_int_equal(init_out_flush(&o, fds[1]), 1);
    assert_int_equal(read(fds[0], text, 1), -1);
    assert_int_equal(errno, EAGAIN);
    close(fds[0]);
    close(fds[1]);
    init_out_done(&o);
}

static void test_out_broken(void **state)
{
    struct init_out o = {0};

    (void)state;
    assert_int_equal(init_out_line(&o, "x", 1), 0);
    assert_int_equal(init_out_flush(&o, -1), -1);
    init_out_done(&o);
}

static void test_rate(void **state)
{
    struct init_rate r = {.per_s = 10, .burst = 3};
    int64_t now = 5000000;

    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_true(init_rate_take(&r, now));
    }
    assert_false(init_rate_take(&r, now));
    assert_false(init_rate_take(&r, now + 99));
    assert_true(init_rate_take(&r, now + 100));
    assert_false(init_rate_take(&r, now + 100));
    /* A long silence does not save up more than a burst. */
    now += 1000000000;
    for (int i = 0; i < 3; i++) {
        assert_true(init_rate_take(&r, now));
    }
    assert_false(init_rate_take(&r, now));
    /* A clock that goes back gives nothing. */
    assert_false(init_rate_take(&r, now - 5000));
}

static void log_text(struct init_log *l, char *text, size_t size)
{
    int fds[2];

    assert_int_equal(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
    assert_int_equal(init_log_flush(l, fds[1]), 1);
    ssize_t n = read(fds[0], text, size - 1);
    text[n > 0 ? n : 0] = 0;
    close(fds[0]);
    close(fds[1]);
}

static void test_log(void **state)
{
    struct init_log l = {.rate = {.per_s = 1, .burst = 3}};
    char text[512];

    (void)state;
    init_log_line(&l, 1, "one", 3);
    init_log_line(&l, 1, "t\033w\to\n", 6);
    log_text(&l, text, sizeof(text));
    assert_string_equal(text, "one\nt?w?o?\n");
    init_log_line(&l, 1, "three", 5);
    init_log_line(&l, 1, "too fast", 8);
    init_log_line(&l, 1, "too fast", 8);
    assert_int_equal(l.dropped, 2);
    log_text(&l, text, sizeof(text));
    assert_string_equal(text, "three\ninit: 2 log lines were dropped\n");
    init_log_line(&l, 1, "too fast", 8);
    init_log_line(&l, 2001, "later", 5);
    log_text(&l, text, sizeof(text));
    assert_string_equal(text, "init: 1 log lines were dropped\nlater\n");
    init_out_done(&l.out);
}

/* Nobody reads: it fills to its bound, and then only counts. */
static void test_log_full(void **state)
{
    struct init_log l = {.rate = {.per_s = 100000, .burst = 100000}};
    char line[INIT_LOG_LINE_MAX_BYTES + 1];

    (void)state;
    memset(line, 'x', sizeof(line));
    for (int i = 0; i < 1000; i++) {
        init_log_line(&l, 1, line, 1000);
    }
    assert_true(l.out.n <= INIT_OUT_MAX_BYTES);
    assert_int_equal(l.dropped, 1000 - l.out.n / 1001);
    assert_true(l.out.n / 1001 >= INIT_OUT_MAX_BYTES / 1001 - 1);
    l.out.n = 0;
    l.dropped = 0;
    init_log_line(&l, 1, line, INIT_LOG_LINE_MAX_BYTES);
    init_log_line(&l, 1, line, INIT_LOG_LINE_MAX_BYTES + 1);
    assert_int_equal(l.dropped, 1);
    assert_int_equal(l.out.n, INIT_LOG_LINE_MAX_BYTES + 1);
    init_out_done(&l.out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut),        cmocka_unit_test(test_out_whole_lines),
        cmocka_unit_test(test_out_broken), cmocka_unit_test(test_rate),
        cmocka_unit_test(test_log),        cmocka_unit_test(test_log_full),
    };

    return cmocka_run_group_tests_name("init_lines", tests, NULL, NULL);
}

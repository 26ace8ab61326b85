#include "cli/cli_testing.h"

#include "cli/progress.h"

/* Events in, lines out. */

struct ev {
    uint64_t seq;
    const char *state, *detail;
    int64_t at_ms;
    uint32_t attempt;
    const char *why;
    int terminal, downgraded;
};

static void feed(struct progress *p, const struct ev *in, struct buf *out)
{
    Coffer__V1__JobEvent ev = COFFER__V1__JOB_EVENT__INIT;
    Coffer__V1__Refusal why = COFFER__V1__REFUSAL__INIT;

    ev.seq = in->seq;
    ev.state = (char *)(uintptr_t)in->state;
    ev.detail = (char *)(uintptr_t)(in->detail ? in->detail : "");
    ev.at_ms = in->at_ms;
    ev.attempt = in->attempt;
    ev.host = (char *)(uintptr_t) "dev";
    ev.backend = (char *)(uintptr_t) "process";
    ev.terminal = in->terminal;
    ev.downgraded = in->downgraded;
    if (in->why) {
        why.message = (char *)(uintptr_t)in->why;
        ev.reason = &why;
    }
    progress_event(p, &ev, out);
}

static char *render(const struct ev *v, size_t n, struct progress *p)
{
    struct buf out = BUF_INIT(8192);

    progress_init(p, 0);
    for (size_t i = 0; i < n; i++) {
        feed(p, &v[i], &out);
    }
    char *s = xstrdup(out.p ? (char *)out.p : "");
    buf_done(&out);
    return s;
}

static void a_whole_job(void **state)
{
    static const struct ev v[] = {
        {1, "queued", NULL, 1000, 0, NULL, 0, 0},   {2, "launching", NULL, 1100, 1, NULL, 0, 0},
        {3, "booted", NULL, 1250, 1, NULL, 0, 0},   {4, "attested", NULL, 1300, 1, NULL, 0, 0},
        {5, "running", NULL, 1350, 1, NULL, 0, 0},  {6, "running", "unpack", 1400, 1, NULL, 0, 0},
        {7, "running", "run", 2400, 1, NULL, 0, 0}, {8, "released", NULL, 4350, 1, NULL, 1, 0},
    };
    struct progress p;
    _cleanup_free_ char *s = render(v, ARRAY_LEN(v), &p);

    (void)state;
    assert_string_equal(s, "    0.000 s  queued       +0.000 s\n"
                           "    0.100 s  launching    +0.100 s  on dev (process)\n"
                           "    0.250 s  booted       +0.150 s\n"
                           "    0.300 s  attested     +0.050 s\n"
                           "    0.350 s  running      +0.050 s\n"
                           "    0.400 s    - unpack\n"
                           "    1.400 s    - run\n"
                           "    3.350 s  released     +3.000 s\n");
    assert_true(p.terminal);
    assert_string_equal(p.state, "released");
}

static void repeats_and_gaps(void **state)
{
    static const struct ev queued = {1, "queued", NULL, 0, 0, NULL, 0, 0},
                           launching = {2, "launching", NULL, 5, 1, NULL, 0, 0},
                           booted = {3, "booted", NULL, 9, 1, NULL, 0, 0};
    _cleanup_buf_ struct buf out = BUF_INIT(8192);
    struct progress p;

    (void)state;
    progress_init(&p, 0);
    feed(&p, &queued, &out);
    size_t n = out.n;
    feed(&p, &queued, &out);
    assert_int_equal(out.n, n);
    feed(&p, &booted, &out); /* 2 is missing */
    assert_int_equal(out.n, n);
    assert_true(p.missing);
    feed(&p, &launching, &out);
    assert_false(p.missing);
    feed(&p, &booted, &out);
    assert_int_equal(p.next_seq, 4);
    assert_string_equal(p.state, "booted");
}

static void retries_say_why(void **state)
{
    static const struct ev v[] = {
        {1, "queued", NULL, 0, 0, NULL, 0, 0},
        {2, "launching", NULL, 10, 1, NULL, 0, 1},
        {3, "queued", NULL, 20, 1, "the CVM was lost", 0, 1},
        {4, "launching", NULL, 30, 2, NULL, 0, 1},
        {5, "held", NULL, 40, 2, "a score below 30", 0, 1},
    };
    struct progress p;
    _cleanup_free_ char *s = render(v, ARRAY_LEN(v), &p);

    (void)state;
    assert_non_null(strstr(s, "because the CVM was lost\n"));
    assert_non_null(strstr(s, "launching    +0.010 s  attempt 2  on dev (process)\n"));
    assert_null(strstr(s, "a score below 30"));
    const char *first = strstr(s, "DOWNGRADED");
    assert_non_null(first);
    assert_null(strstr(first + 1, "DOWNGRADED"));
    assert_true(p.terminal);
}

static void ends_are_coloured(void **state)
{
    static const struct ev v[] = {{1, "queued", NULL, 0, 0, NULL, 0, 0},
                                  {2, "rejected", NULL, 1, 1, NULL, 1, 0}};
    _cleanup_buf_ struct buf out = BUF_INIT(8192);
    struct progress p;

    (void)state;
    progress_init(&p, 1);
    feed(&p, &v[0], &out);
    assert_null(strchr((char *)out.p, '\033'));
    feed(&p, &v[1], &out);
    assert_non_null(strstr((char *)out.p, "\033[31mrejected  \033[0m"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_job),
        cmocka_unit_test(repeats_and_gaps),
        cmocka_unit_test(retries_say_why),
        cmocka_unit_test(ends_are_coloured),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

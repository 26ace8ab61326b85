/* What nats-server refuses, generated from the table: no service may do what the table does not
 * say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/bus_int.h"
#include "common/testing/nats_fixture.h"

static struct nats_fixture nats;
static struct ev_loop *loop;
static int n_refused;
static char last[512];

static void on_event(struct bus *b, enum bus_event ev, const struct err *e, void *arg)
{
    (void)b;
    (void)arg;
    if (ev == BUS_REFUSED) {
        n_refused++;
        snprintf(last, sizeof(last), "%s", e->msg);
    }
}

static int group_setup(void **state)
{
    static const char *const hosts[] = {"h1", "h2"};
    struct err e = {0};

    (void)state;
    loop = ev_loop_new(EVFLAG_AUTO);
    if (nats_fixture_start(&nats, hosts, 2, &e) < 0) {
        print_error("%s\n", e.msg);
        return -1;
    }
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    nats_fixture_stop(&nats);
    ev_loop_destroy(loop);
    return 0;
}

static struct bus *open_as(enum service s)
{
    struct bus_opts o = nats_fixture_opts(&nats, s, "h1");
    struct bus *b = NULL;
    struct err e = {0};

    o.on_event = on_event;
    if (bus_new(&o, loop, &b, &e) < 0 || bus_wait_connected(b, 10000, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    n_refused = 0;
    return b;
}

static void wait_refused(int n, const char *who, const char *what)
{
    int64_t until = test_now_ms() + 5000;

    while (n_refused < n && test_now_ms() < until) {
        ev_run(loop, EVRUN_NOWAIT);
        test_sleep_ms(1);
    }
    if (n_refused != n || !strstr(last, "ermissions")) {
        fail_msg("%s was not refused %s (%d of %d, \"%s\")", who, what, n_refused, n, last);
    }
}

static void try_publish(struct bus *b, const char *subject, int *n, const char *who)
{
    struct bus_out o = {.subject = subject, .payload = BYTES("x", 1)};
    struct err e = {0};

    assert_int_equal(bus_publish(b, &o, &e), 0);
    wait_refused(++*n, who, subject);
}

static void try_subscribe(struct bus *b, const char *subject, int *n, const char *who)
{
    struct err e = {0};

    assert_int_equal(sub_add(b, SUB_MESSAGES, subject, NULL, 0, &e), 0);
    wait_refused(++*n, who, subject);
}

static void subject_of(int i, enum service s, char *out, size_t size)
{
    const char *key = subjects[i].key;

    (void)s;
    snprintf(out, size, "%s%s%s", subjects[i].name, key[0] ? "." : "",
             !key[0]                 ? ""
             : streq(key, "host")    ? "h1"
             : streq(key, "service") ? service_name(s)
                                     : "jx");
}

static void test_publish(void **state)
{
    int total = 0;

    (void)state;
    for (int s = 0; s < SVC_N; s++) {
        struct bus *b = open_as((enum service)s);
        const char *who = service_name((enum service)s);
        char name[200];
        int n = 0;
        for (int i = 0; i < SUBJ_N; i++) {
            subject_of(i, (enum service)s, name, sizeof(name));
            if (!(subjects[i].from & 1u << s)) {
                try_publish(b, name, &n, who);
            }
        }
        /* The server's own interface, others' consumers, others' inboxes. */
        try_publish(b, "$JS.API.STREAM.DELETE.COFFER_SCHED", &n, who);
        try_publish(b, "$JS.API.STREAM.PURGE.COFFER_GATE", &n, who);
        try_publish(b, "$JS.API.STREAM.CREATE.MINE", &n, who);
        try_publish(b, "$JS.API.STREAM.MSG.GET.COFFER_RELEASE", &n, who);
        try_publish(b, "$JS.API.CONSUMER.DURABLE.CREATE.COFFER_GATE.x", &n, who);
        try_publish(b, "$JS.API.CONSUMER.MSG.NEXT.COFFER_LAUNCH.launcher-launch-h2", &n, who);
        try_publish(b, "$JS.ACK.COFFER_LAUNCH.launcher-launch-h2.1.1.1.1.0", &n, who);
        try_publish(b, "_INBOX_admin.x", &n, who);
        try_publish(b, "_INBOX_scheduler.x", &n, who);
        try_publish(b, "coffer.v1.host.report.h2", &n, who);
        try_publish(b, "coffer.v1.unknown", &n, who);
        for (size_t i = 0; i < n_consumers; i++) {
            if (consumers[i].service != (enum service)s && !consumers[i].per_host) {
                snprintf(name, sizeof(name), "$JS.API.CONSUMER.MSG.NEXT.%s.%s",
                         streams[consumers[i].stream].name, consumers[i].durable);
                try_publish(b, name, &n, who);
            }
        }
        total += n;
        bus_free(b);
    }
    print_message("%d forbidden publishes refused\n", total);
}

static void test_subscribe(void **state)
{
    int total = 0;

    (void)state;
    for (int s = 0; s < SVC_N; s++) {
        struct bus *b = open_as((enum service)s);
        const char *who = service_name((enum service)s);
        char name[200];
        int n = 0;
        for (int i = 0; i < SUBJ_N; i++) {
            subject_of(i, (enum service)s, name, sizeof(name));
            /* Requests may be taken in the queue group only: not even the receiver may listen
             * beside. */
            if (!(subjects[i].to & 1u << s) || subjects[i].style == STYLE_REQUEST) {
                try_subscribe(b, name, &n, who);
            }
        }
        try_subscribe(b, ">", &n, who);
        try_subscribe(b, "coffer.>", &n, who);
        try_subscribe(b, "_INBOX_admin.>", &n, who);
        try_subscribe(b, s == SVC_WORKER ? "_INBOX_client.>" : "_INBOX_worker.>", &n, who);
        try_subscribe(b, "_INBOX_launcher.h2.>", &n, who);
        try_subscribe(b, "$JS.>", &n, who);
        try_subscribe(b, "$SYS.>", &n, who);
        total += n;
        bus_free(b);
    }
    print_message("%d forbidden subscriptions refused\n", total);
}

/* The other direction: what the table allows is not refused. */
static void test_allowed(void **state)
{
    (void)state;
    for (int s = 0; s < SVC_N; s++) {
        struct bus *b = open_as((enum service)s);
        char name[200], id[64];
        struct err e = {0};
        assert_int_equal(bus_serve(b, &e), 0);
        for (int i = 0; i < SUBJ_N; i++) {
            subject_of(i, (enum service)s, name, sizeof(name));
            if (subjects[i].to & 1u << s && subjects[i].style == STYLE_DURABLE &&
                s != SVC_LAUNCHER) {
                /* Only those without a consumer may listen in; the others pull. */
                int pulls = 0;
                for (size_t c = 0; c < n_consumers; c++) {
                    pulls |= consumers[c].service == (enum service)s &&
                             consumers[c].stream == subjects[i].stream;
                }
                if (!pulls) {
                    assert_int_equal(bus_subscribe(b, (enum subject)i, NULL, &e), 0);
                }
            }
            if (subjects[i].from & 1u << s) {
                snprintf(id, sizeof(id), "jx.%d.%d", s + 1, i);
                struct bus_out o = {.subject = name, .payload = BYTES("x", 1), .msg_id = id};
                int r = subjects[i].style == STYLE_DURABLE ? bus_publish_durable(b, &o, 0, &e)
                                                           : bus_publish(b, &o, &e);
                assert_int_equal(r, 0);
            }
        }
        if (bus_flush(b, 5000) < 0) {
            fail_msg("%s: a durable publish was not stored: %s", service_name((enum service)s),
                     last);
        }
        int64_t until = test_now_ms() + 100;
        while (test_now_ms() < until) {
            ev_run(loop, EVRUN_NOWAIT);
            test_sleep_ms(2);
        }
        if (n_refused) {
            fail_msg("%s: %s", service_name((enum service)s), last);
        }
        bus_free(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_publish),
        cmocka_unit_test(test_subscribe),
        cmocka_unit_test(test_allowed),
    };

    if (!nats_fixture_available()) {
        return 77;
    }
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}

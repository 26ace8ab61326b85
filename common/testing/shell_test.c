/* Services under the shell, as processes, against a real nats-server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <sqlite3.h>

#include "common/bus_int.h"
#include "common/fileio.h"
#include "common/log.h"
#include "common/natsconf.h"
#include "common/testing/nats_fixture.h"

#ifdef COFFER_SANITIZED
#define SLOW 4
#else
#define SLOW 1
#endif
#define MANY 2000
#define KILLS 10

static struct nats_fixture nats;
static struct ev_loop *loop;
static struct bus *client;
static size_t n_stored;
static size_t n_dead;
static char dead_clause[128];

static void on_msg(struct bus *b, struct bus_msg *m, void *arg)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    struct err e = {0};

    (void)b;
    (void)arg;
    if (m->m.subject == SUBJ_DEAD && msg_unpack(&m->m, &pb, &e) == 0) {
        n_dead++;
        snprintf(dead_clause, sizeof(dead_clause), "%s",
                 ((Coffer__V1__DeadLetter *)pb)->reason->clause);
    }
    bus_msg_free(m);
}

static void on_puback(struct bus *b, int64_t tag, const struct err *why, void *arg)
{
    (void)b;
    (void)tag;
    (void)arg;
    n_stored += why == NULL;
}

static pid_t start(const char *role)
{
    _cleanup_free_ char *seed =
        natsconf_seed_path(nats.conf, (enum service)service_from_name(role), "h1");
    _cleanup_free_ char *ca = xasprintf("%s/ca.pem", nats.conf);
    _cleanup_free_ char *data = xasprintf("%s/data", nats.dir);
    _cleanup_free_ char *log = xasprintf("%s/%s.log", nats.dir, role);
    char *argv[] = {(char *)"coffer-test-service",
                    (char *)(uintptr_t)role,
                    (char *)"--nats-url",
                    nats.url,
                    (char *)"--nats-ca",
                    ca,
                    (char *)"--nats-seed",
                    seed,
                    (char *)"--data-dir",
                    data,
                    (char *)"--host",
                    (char *)"h1",
                    (char *)"--die-with-parent",
                    (char *)"true",
                    NULL};
    pid_t pid = test_spawn(argv, log);

    assert_true(pid > 0);
    return pid;
}

/* Whether a service's log holds the text. */
static int logged(const char *role, const char *text)
{
    _cleanup_free_ char *path = xasprintf("%s/%s.log", nats.dir, role);
    _cleanup_buf_ struct buf b = BUF_INIT(32u << 20);

    return file_read(path, 32u << 20, 0, &b, NULL) == 0 && b.p && strstr((char *)b.p, text) != NULL;
}

static int group_setup(void **state)
{
    static const char *const hosts[] = {"h1"};
    struct err e = {0};

    (void)state;
    loop = ev_loop_new(EVFLAG_AUTO);
    if (nats_fixture_start(&nats, hosts, 1, &e) < 0) {
        print_error("%s\n", e.msg);
        return -1;
    }
    struct bus_opts o = nats_fixture_opts(&nats, SVC_CLIENT, NULL);
    o.on_msg = on_msg;
    o.on_puback = on_puback;
    if (bus_new(&o, loop, &client, &e) < 0 || bus_subscribe(client, SUBJ_DEAD, NULL, &e) < 0 ||
        bus_wait_connected(client, 10000, &e) < 0) {
        print_error("%s\n", e.msg);
        return -1;
    }
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    bus_free(client);
    nats_fixture_stop(&nats);
    ev_loop_destroy(loop);
    return 0;
}

static void stop_loop(struct ev_loop *l, ev_timer *w, int events)
{
    (void)w;
    (void)events;
    ev_break(l, EVBREAK_ALL);
}

static void run_ms(int ms)
{
    ev_timer t;

    ev_now_update(loop);
    ev_timer_init(&t, stop_loop, ms / 1000.0, 0);
    ev_timer_start(loop, &t);
    ev_run(loop, 0);
    ev_timer_stop(loop, &t);
}

/* 0: stored without an answer; 1: accepted; 2: refused. */
static int schedule(const char *id, const char *spec, int timeout_ms)
{
    Coffer__V1__ScheduleJob j = COFFER__V1__SCHEDULE_JOB__INIT;
    Coffer__V1__Reply *r = NULL;
    struct err e = {0};

    j.spec_jws = (char *)(uintptr_t)spec;
    if (bus_schedule(client, SUBJ_JOB_SCHEDULE, NULL, id, &j.base, NULL, timeout_ms, &r, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    int result = !r ? 0 : r->body_case == COFFER__V1__REPLY__BODY_JOB_ACCEPTED ? 1 : 2;
    if (r) {
        coffer__v1__reply__free_unpacked(r, NULL);
    }
    return result;
}

struct counts {
    int64_t seen, booted;
    uint32_t acted;
    uint64_t most; /* times that anything was handled */
};

static int query(struct counts *c)
{
    Coffer__V1__JobQuery q = COFFER__V1__JOB_QUERY__INIT;
    Coffer__V1__Reply *r = NULL;
    struct err e = {0};

    if (bus_request(client, SUBJ_JOB_QUERY, NULL, &q.base, 2000, &r, &e) < 0) {
        return -1;
    }
    *c = (struct counts){.seen = r->query->jobs[0]->created_ms,
                         .booted = r->query->jobs[0]->updated_ms,
                         .acted = r->query->jobs[0]->attempt,
                         .most = r->query->jobs[0]->last_seq};
    coffer__v1__reply__free_unpacked(r, NULL);
    return 0;
}

static void wait_counts(struct counts *c, int64_t seen, int64_t booted, int timeout_ms)
{
    int64_t until = test_now_ms() + timeout_ms;

    memset(c, 0, sizeof(*c));
    while (test_now_ms() < until) {
        if (query(c) == 0 && c->seen >= seen && c->booted >= booted) {
            return;
        }
        run_ms(50);
    }
    fail_msg("seen %lld of %lld, booted %lld of %lld", (long long)c->seen, (long long)seen,
             (long long)c->booted, (long long)booted);
}

static void wait_dead(size_t n, int timeout_ms)
{
    int64_t until = test_now_ms() + timeout_ms;

    while (n_dead < n && test_now_ms() < until) {
        run_ms(20);
    }
    assert_int_equal(n_dead, n);
}

/* schedule → handler → outbox → launcher → its outbox → scheduler; refusals; retries; dead letters;
 * duplicates; actions. */
static void test_pipeline(void **state)
{
    pid_t scheduler = start("scheduler"), launcher = start("launcher");
    struct counts c, before;
    char id[64];

    (void)state;
    wait_counts(&c, 0, 0, 20000);
    assert_int_equal(schedule("jone.schedule", "jone ok", 5000), 1);
    wait_counts(&c, 1, 1, 10000);
    /* The same id within the stream's window: stored, nobody answers, nothing is done again. */
    assert_int_equal(schedule("jone.schedule", "jone ok", 5000), 0);
    /* An action, done after the commit in a transaction of its own. */
    assert_int_equal(schedule("jact.schedule", "jact act", 5000), 1);
    wait_counts(&c, 2, 2, 10000);
    assert_int_equal(c.acted, 1);
    /* Refused twice for now, so delivered three times, but done once. */
    int64_t t0 = test_now_ms();
    assert_int_equal(schedule("jflaky.schedule", "jflaky flaky 3", 10000), 1);
    assert_true(test_now_ms() - t0 >= 500); /* 200 + 400 ms of backoff, less some clock */
    wait_counts(&c, 3, 3, 10000);
    /* Poison: answered, on the dead-letter subject, and the next one is handled. */
    assert_int_equal(schedule("jbad.schedule", "jbad poison", 5000), 2);
    wait_dead(1, 5000);
    assert_string_equal(dead_clause, "spec.what");
    assert_true(logged("scheduler", "message.dead job=jbad"));
    /* Never any better: given up after ENGINE_MAX_DELIVERIES is engine_test's; here bytes that do
     * not parse, on every subject that the client may publish to. */
    for (int s = 0; s < SUBJ_N; s++) {
        if (!(subjects[s].from & 1u << SVC_CLIENT) || subjects[s].style != STYLE_DURABLE) {
            continue;
        }
        struct err e = {0};
        snprintf(id, sizeof(id), "jgarbage%d.x", s);
        struct bus_out o = {
            .subject = subjects[s].name, .payload = BYTES("\xff\xff\xff\xff\x07", 5), .msg_id = id};
        assert_int_equal(bus_publish_durable(client, &o, 0, &e), 0);
    }
    wait_dead(2, 5000);
    assert_int_equal(query(&before), 0);
    assert_int_equal(before.seen, 3);
    assert_int_equal(test_reap(launcher, SIGTERM, 5000 * SLOW), 0);
    assert_int_equal(test_reap(scheduler, SIGTERM, 5000 * SLOW), 0);
    assert_true(logged("scheduler", "shell.stopped"));
    assert_true(logged("scheduler", "nats-seed="));
}

/* A duplicate that the stream lets through (its window is rebuilt at a restart, or over) is the
 * inbox's to drop. */
static void test_duplicate_ids(void **state)
{
    pid_t scheduler = start("scheduler");
    struct counts before, c;

    (void)state;
    wait_counts(&before, 0, 0, 20000);
    assert_int_equal(schedule("jdup.schedule", "jdup ok", 5000), 1);
    nats_fixture_kill(&nats);
    struct err e = {0};
    assert_int_equal(nats_fixture_restart(&nats, &e), 0);
    run_ms(500);
    /* Gone from the stream with its acknowledgement, so after a kill the server takes it again. */
    assert_int_equal(schedule("jdup.schedule", "jdup ok", 2000), 0);
    wait_counts(&c, before.seen + 1, 0, 5000);
    assert_int_equal(c.seen, before.seen + 1);
    assert_int_equal(c.most, 1);
    assert_int_equal(test_reap(scheduler, SIGTERM, 5000 * SLOW), 0);
}

/* Garbage from every service on every subject it may publish to: the services stay, and nothing of
 * it counts. */
static void test_garbage(void **state)
{
    pid_t scheduler = start("scheduler"), launcher = start("launcher");
    struct counts before, after;

    (void)state;
    wait_counts(&before, 0, 0, 20000);
    for (int s = 0; s < SVC_N; s++) {
        struct bus_opts o = nats_fixture_opts(&nats, (enum service)s, "h1");
        struct bus *b = NULL;
        struct err e = {0};
        assert_int_equal(bus_new(&o, loop, &b, &e), 0);
        assert_int_equal(bus_wait_connected(b, 10000, &e), 0);
        for (int i = 0; i < SUBJ_N; i++) {
            uint8_t junk[300];
            char name[200], id[64];
            if (!(subjects[i].from & 1u << s)) {
                continue;
            }
            const char *key = streq(subjects[i].key, "service") ? service_name((enum service)s)
                              : subjects[i].key[0]              ? "h1"
                                                                : NULL;
            assert_int_equal(subject_format((enum subject)i, key, name, sizeof(name)), 0);
            for (int round = 0; round < 3; round++) {
                random_bytes(junk, sizeof(junk));
                snprintf(id, sizeof(id), "jjunk.%d.%d.%d", s + 1, i, round);
                struct bus_out out = {
                    .subject = name, .payload = BYTES(junk, sizeof(junk)), .msg_id = id};
                if (subjects[i].style == STYLE_DURABLE) {
                    assert_int_equal(bus_publish_durable(b, &out, 0, &e), 0);
                } else {
                    assert_int_equal(bus_publish(b, &out, &e), 0);
                }
            }
        }
        assert_int_equal(bus_flush(b, 5000), 0);
        bus_free(b);
    }
    assert_int_equal(query(&after), 0);
    wait_counts(&after, before.seen, before.booted, 5000);
    assert_int_equal(after.seen, before.seen);
    assert_int_equal(schedule("jalive.schedule", "jalive ok", 5000), 1);
    wait_counts(&after, before.seen + 1, before.booted + 1, 10000);
    assert_int_equal(test_reap(launcher, SIGTERM, 5000 * SLOW), 0);
    assert_int_equal(test_reap(scheduler, SIGTERM, 5000 * SLOW), 0);
}

static void check_once(const char *role, const char *what)
{
    _cleanup_free_ char *path = xasprintf("%s/data/%s.db", nats.dir, role);
    sqlite3 *db = NULL;
    sqlite3_stmt *q = NULL;

    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db,
                                        "SELECT count(*), min(n), max(n) FROM done WHERE what = ? "
                                        "AND job LIKE 'jk%'",
                                        -1, &q, NULL),
                     SQLITE_OK);
    sqlite3_bind_text(q, 1, what, -1, SQLITE_STATIC);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(q, 0), MANY);
    assert_int_equal(sqlite3_column_int(q, 1), 1);
    assert_int_equal(sqlite3_column_int(q, 2), 1);
    sqlite3_finalize(q);
    sqlite3_close(db);
}

/* nats-server is killed ten times, and each service twice, in the midst of 2,000 jobs. */
static void test_kills(void **state)
{
    pid_t scheduler = start("scheduler"), launcher = start("launcher");
    struct counts before, c;
    int killed = 0;

    (void)state;
    wait_counts(&before, 0, 0, 20000);
    n_stored = 0;
    int64_t t0 = test_now_ms();
    for (int i = 0; i < MANY;) {
        char spec[64], id[64];
        struct err e = {0};
        if (bus_room(client) == 0) {
            run_ms(1);
            continue;
        }
        Coffer__V1__ScheduleJob j = COFFER__V1__SCHEDULE_JOB__INIT;
        snprintf(spec, sizeof(spec), "jk%d ok", i);
        snprintf(id, sizeof(id), "jk%d.schedule", i);
        j.spec_jws = spec;
        assert_int_equal(bus_send(client, SUBJ_JOB_SCHEDULE, NULL, id, &j.base, NULL, i + 1, &e),
                         0);
        i++;
        if (i % 16 == 0) {
            run_ms(1);
        }
        if (i % (MANY / KILLS) == MANY / KILLS / 2) {
            nats_fixture_kill(&nats);
            killed++;
            if (killed == 3 || killed == 7) {
                assert_int_equal(test_reap(scheduler, SIGKILL, 5000), 128 + SIGKILL);
                scheduler = start("scheduler");
            }
            if (killed == 5 || killed == 8) {
                assert_int_equal(test_reap(launcher, SIGKILL, 5000), 128 + SIGKILL);
                launcher = start("launcher");
            }
            assert_int_equal(nats_fixture_restart(&nats, &e), 0);
        }
    }
    assert_int_equal(killed, KILLS);
    wait_counts(&c, before.seen + MANY, before.booted + MANY, 90000);
    print_message("%d jobs over 3 hops with %d kills of nats-server in %lld ms\n", MANY, KILLS,
                  (long long)(test_now_ms() - t0));
    assert_int_equal(c.most, 1);
    assert_int_equal(bus_flush(client, 10000), 0);
    assert_int_equal(n_stored, MANY);
    assert_int_equal(test_reap(launcher, SIGTERM, 5000 * SLOW), 0);
    assert_int_equal(test_reap(scheduler, SIGTERM, 5000 * SLOW), 0);
    check_once("scheduler", "seen");
    check_once("scheduler", "booted");
    check_once("launcher", "launched");
}

static long switches(pid_t pid)
{
    char path[64], line[128];
    long n = 0;

    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    _cleanup_fclose_ FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f)) {
        (void)sscanf(line, "voluntary_ctxt_switches: %ld", &n);
    }
    return n;
}

static void test_idle(void **state)
{
    pid_t scheduler = start("scheduler");
    struct counts c;

    (void)state;
    wait_counts(&c, 0, 0, 20000);
    run_ms(5000); /* past the first short pulls and what the shell puts off */
    long n = switches(scheduler);
    run_ms(3000);
    n = switches(scheduler) - n;
    size_t rss = test_rss_bytes(scheduler);
    if (getenv("COFFER_TEST_MAPS")) {
        char cmd[512];
        snprintf(cmd, sizeof(cmd),
                 "grep -E 'Rss|VmHWM' /proc/%d/status; awk '/^[0-9a-f]+-/{f=$6} /^Rss/{r[f]+=$2} "
                 "END{for(k in r) print r[k],k}' /proc/%d/smaps | sort -n | tail -14",
                 scheduler, scheduler);
        (void)!system(cmd);
    }
    print_message("idle service: RSS %zu KiB, %ld wake-ups in 3 s\n", rss / 1024, n);
#ifndef COFFER_SANITIZED
    assert_true(rss > 0 && rss <= 12u << 20);
#endif
    assert_true(n <= 4);
    assert_int_equal(test_reap(scheduler, SIGINT, 5000 * SLOW), 0);
}

static void test_usage(void **state)
{
    char *nothing[] = {(char *)"coffer-test-service", (char *)"scheduler", (char *)"--no-such",
                       (char *)"x", NULL};
    char *help[] = {(char *)"coffer-test-service", (char *)"scheduler", (char *)"--help", NULL};
    char *no_seed[] = {(char *)"coffer-test-service",
                       (char *)"scheduler",
                       (char *)"--nats-ca",
                       (char *)"/nonexistent",
                       (char *)"--data-dir",
                       nats.dir,
                       NULL};
    _cleanup_free_ char *log = xasprintf("%s/usage.log", nats.dir);

    (void)state;
    assert_int_equal(test_reap(test_spawn(nothing, log), 0, 5000), 2);
    assert_int_equal(test_reap(test_spawn(help, log), 0, 5000), 0);
    assert_int_equal(test_reap(test_spawn(no_seed, log), 0, 5000), 1);
    assert_true(logged("usage", "unknown option \"no-such\""));
    assert_true(logged("usage", "Exit status: 0"));
    assert_true(logged("usage", "nats-ca: "));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_usage),    cmocka_unit_test(test_idle),
        cmocka_unit_test(test_pipeline), cmocka_unit_test(test_duplicate_ids),
        cmocka_unit_test(test_garbage),  cmocka_unit_test(test_kills),
    };

    if (!nats_fixture_available()) {
        return 77;
    }
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}

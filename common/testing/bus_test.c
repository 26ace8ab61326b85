/* The bus against a real nats-server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/stat.h>

#include "common/bus_int.h"
#include "common/fileio.h"
#include "common/natsconf.h"
#include "common/nkey.h"
#include "common/testing/nats_fixture.h"

static struct nats_fixture nats;
static struct ev_loop *loop;

/* One end of the bus and what it saw. */
struct end {
    struct bus *bus;
    int events[BUS_CONSUMER_SILENT + 1];
    struct err last;
    struct bus_msg *got[4096];
    size_t n;
    size_t stored, refused;
    int answer; /* reply to requests */
    int settle; /* 0: ack, 1: nak first, 2: nothing */
};

static void on_event(struct bus *b, enum bus_event ev, const struct err *e, void *arg)
{
    struct end *t = arg;

    (void)b;
    t->events[ev]++;
    if (e) {
        t->last = *e;
    }
}

static void answer(struct bus *b, const struct bus_msg *m)
{
    Coffer__V1__Challenge c = COFFER__V1__CHALLENGE__INIT;
    Coffer__V1__Reply r = COFFER__V1__REPLY__INIT;
    uint8_t packed[256];
    struct err e = {0};

    c.nonce = (ProtobufCBinaryData){.len = m->m.payload.n, .data = (uint8_t *)m->m.payload.p};
    r.body_case = COFFER__V1__REPLY__BODY_CHALLENGE;
    r.challenge = &c;
    size_t n = coffer__v1__reply__pack(&r, packed);
    struct bus_out o = {.subject = m->m.reply_to, .payload = BYTES(packed, n)};
    assert_int_equal(bus_publish(b, &o, &e), 0);
}

static void on_msg(struct bus *b, struct bus_msg *m, void *arg)
{
    struct end *t = arg;

    assert_true(t->n < ARRAY_LEN(t->got));
    t->got[t->n++] = m;
    if (t->answer && m->m.reply_to[0]) {
        answer(b, m);
    }
    if (t->settle == 0) {
        bus_ack(b, m);
    } else if (t->settle == 1 && m->m.deliveries == 1) {
        bus_nak(b, m, 100);
    } else if (t->settle == 1) {
        bus_ack(b, m);
    }
}

static void on_puback(struct bus *b, int64_t tag, const struct err *why, void *arg)
{
    struct end *t = arg;

    (void)b;
    (void)tag;
    if (why) {
        t->refused++;
        t->last = *why;
    } else {
        t->stored++;
    }
}

static void end_open(struct end *t, enum service s, const char *host, int serve)
{
    struct bus_opts o = nats_fixture_opts(&nats, s, host);
    struct err e = {0};

    memset(t, 0, sizeof(*t));
    o.arg = t;
    o.on_event = on_event;
    o.on_msg = on_msg;
    o.on_puback = on_puback;
    if (bus_new(&o, loop, &t->bus, &e) < 0 || (serve && bus_serve(t->bus, &e) < 0) ||
        bus_wait_connected(t->bus, 10000, &e) < 0) {
        fail_msg("%s", e.msg);
    }
}

static void end_close(struct end *t)
{
    for (size_t i = 0; i < t->n; i++) {
        bus_msg_free(t->got[i]);
    }
    bus_free(t->bus);
    memset(t, 0, sizeof(*t));
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

#define WAIT_FOR(cond, ms)                                                                         \
    do {                                                                                           \
        int64_t until_ = test_now_ms() + (ms);                                                     \
        while (!(cond) && test_now_ms() < until_) {                                                \
            run_ms(10);                                                                            \
        }                                                                                          \
        assert_true(cond);                                                                         \
    } while (0)

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
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    nats_fixture_stop(&nats);
    ev_loop_destroy(loop);
    return 0;
}

/* ---- requests ----------------------------------------------------------------------------------
 */

static void test_request_reply(void **state)
{
    struct end verifier, worker;
    Coffer__V1__ChallengeRequest q = COFFER__V1__CHALLENGE_REQUEST__INIT;
    Coffer__V1__Reply *r = NULL;
    struct err e = {0};

    (void)state;
    end_open(&verifier, SVC_VERIFIER, NULL, 1);
    end_open(&worker, SVC_WORKER, NULL, 0);
    verifier.answer = 1;
    run_ms(50); /* the subscription is at the server */
    q.job = (char *)(uintptr_t) "jx";
    assert_int_equal(bus_request(worker.bus, SUBJ_EVIDENCE_CHALLENGE, NULL, &q.base, 2000, &r, &e),
                     0);
    assert_int_equal(r->body_case, COFFER__V1__REPLY__BODY_CHALLENGE);
    coffer__v1__reply__free_unpacked(r, NULL);
    /* Nobody answers any more. */
    end_close(&verifier);
    run_ms(50);
    int64_t t0 = test_now_ms();
    assert_int_equal(bus_request(worker.bus, SUBJ_EVIDENCE_CHALLENGE, NULL, &q.base, 2000, &r, &e),
                     -1);
    assert_int_equal(e.code, ERR_BUSY);
    assert_non_null(strstr(e.msg, "nobody answers"));
    assert_true(test_now_ms() - t0 < 1000);
    /* The table is asked before the server is. */
    Coffer__V1__JobQuery jq = COFFER__V1__JOB_QUERY__INIT;
    assert_int_equal(bus_request(worker.bus, SUBJ_JOB_QUERY, NULL, &jq.base, 2000, &r, &e), -1);
    assert_int_equal(e.code, ERR_DENIED);
    end_close(&worker);
}

static void test_request_timeout(void **state)
{
    struct end verifier, worker;
    Coffer__V1__ChallengeRequest q = COFFER__V1__CHALLENGE_REQUEST__INIT;
    Coffer__V1__Reply *r = NULL;
    struct err e = {0};

    (void)state;
    end_open(&verifier, SVC_VERIFIER, NULL, 1); /* takes it and says nothing */
    end_open(&worker, SVC_WORKER, NULL, 0);
    run_ms(50);
    assert_int_equal(bus_request(worker.bus, SUBJ_EVIDENCE_CHALLENGE, NULL, &q.base, 200, &r, &e),
                     -1);
    assert_int_equal(e.code, ERR_TIMEOUT);
    assert_int_equal(verifier.n, 1);
    end_close(&verifier);
    end_close(&worker);
}

static void raw_publish(struct bus *b, const char *subject, const char *reply, const void *p,
                        size_t n)
{
    natsMsg *msg = NULL;
    struct err e = {0};

    assert_int_equal(natsMsg_Create(&msg, subject, reply, p, (int)n), NATS_OK);
    assert_int_equal(conn_publish(b, msg, &e), 0);
    natsMsg_Destroy(msg);
}

/* A request over its cap is answered with a refusal and never reaches the service; one whose reply
 * address is not the asker's, or that has none, is dropped. */
static void test_request_over_cap(void **state)
{
    struct end verifier, worker;
    static char big[5000];
    struct err e = {0};
    char inbox[256];

    (void)state;
    end_open(&verifier, SVC_VERIFIER, NULL, 1);
    end_open(&worker, SVC_WORKER, NULL, 0);
    run_ms(50);
    const char *subject = subjects[SUBJ_EVIDENCE_CHALLENGE].name;
    Coffer__V1__ChallengeRequest q = COFFER__V1__CHALLENGE_REQUEST__INIT;
    memset(big, 'a', sizeof(big) - 1);
    q.job = big;
    assert_int_equal(
        bus_request_async(worker.bus, SUBJ_EVIDENCE_CHALLENGE, NULL, &q.base, 1000, NULL, NULL, &e),
        -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_non_null(strstr(e.msg, "at most 4096"));

    snprintf(inbox, sizeof(inbox), "%s.r.0.0", worker.bus->inbox);
    raw_publish(worker.bus, subject, inbox, big, sizeof(big));
    WAIT_FOR(verifier.events[BUS_DROPPED] == 1, 5000);
    assert_int_equal(verifier.last.code, ERR_TOO_LARGE);
    assert_string_equal(verifier.last.actual, "5000 bytes");
    raw_publish(worker.bus, subject, "_INBOX_kbs.abc", "x", 1);
    WAIT_FOR(verifier.events[BUS_DROPPED] == 2, 5000);
    assert_non_null(strstr(verifier.last.msg, "nobody who may ask"));
    raw_publish(worker.bus, subject, NULL, "x", 1);
    WAIT_FOR(verifier.events[BUS_DROPPED] == 3, 5000);
    assert_non_null(strstr(verifier.last.msg, "without a reply address"));
    assert_int_equal(verifier.n, 0);
    assert_int_equal(bus_stats(verifier.bus)->dropped, 3);
    assert_int_equal(bus_stats(verifier.bus)->too_large, 1);
    end_close(&verifier);
    end_close(&worker);
}

/* ---- durable
 * ------------------------------------------------------------------------------------- */

static void send_verdict(struct end *t, const char *job, const char *id, int64_t tag)
{
    Coffer__V1__Verdict v = COFFER__V1__VERDICT__INIT;
    struct err e = {0};

    v.job = (char *)(uintptr_t)job;
    if (bus_send(t->bus, SUBJ_VERDICT, job, id, &v.base,
                 "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", tag, &e) < 0) {
        fail_msg("%s", e.msg);
    }
}

static void test_durable(void **state)
{
    struct end kbs, verifier;

    (void)state;
    end_open(&kbs, SVC_KBS, NULL, 1);
    end_open(&verifier, SVC_VERIFIER, NULL, 0);
    kbs.settle = 1; /* first delivery is refused for 100 ms */
    send_verdict(&verifier, "jdur", "jdur.3.verdict.1", 5);
    send_verdict(&verifier, "jdur", "jdur.3.verdict.1", 5); /* still in flight: not sent twice */
    assert_int_equal(bus_in_flight(verifier.bus), 1);
    WAIT_FOR(kbs.n == 2, 5000);
    assert_int_equal(verifier.stored, 1);
    const struct bus_msg *m = kbs.got[1];
    assert_int_equal(m->m.subject, SUBJ_VERDICT);
    assert_string_equal(m->m.key, "jdur");
    assert_string_equal(m->m.msg_id, "jdur.3.verdict.1");
    assert_string_equal(m->m.traceparent,
                        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert_string_equal(m->job, "jdur");
    assert_int_equal(m->attempt, 3);
    assert_int_equal(m->m.deliveries, 2);
    assert_int_equal(kbs.got[0]->m.deliveries, 1);
    /* The stream drops a repeated id, and says stored all the same. */
    send_verdict(&verifier, "jdur", "jdur.3.verdict.1", 6);
    WAIT_FOR(verifier.stored == 2, 5000);
    run_ms(200);
    assert_int_equal(kbs.n, 2);
    end_close(&kbs);
    end_close(&verifier);
}

static void test_durable_over_cap(void **state)
{
    struct end launcher, scheduler;
    static char big[5000];
    struct err e = {0};

    (void)state;
    end_open(&launcher, SVC_LAUNCHER, "h1", 1);
    end_open(&scheduler, SVC_SCHEDULER, NULL, 0);
    /* destroy's cap is 4096; the stream would take as much as launch's. */
    struct bus_out o = {.subject = "coffer.v1.cvm.destroy.h1",
                        .payload = BYTES(big, sizeof(big)),
                        .msg_id = "jbig.1.destroy.1"};
    assert_int_equal(bus_publish_durable(scheduler.bus, &o, 1, &e), 0);
    WAIT_FOR(launcher.events[BUS_DROPPED] == 1, 5000);
    assert_int_equal(launcher.last.code, ERR_TOO_LARGE);
    assert_int_equal(launcher.n, 0);
    /* Terminated: it does not come again. */
    run_ms(300);
    assert_int_equal(launcher.events[BUS_DROPPED], 1);
    assert_int_equal(scheduler.stored, 1);
    /* Larger than the stream takes: the PubAck says never. */
    static char huge[200000];
    o.payload = BYTES(huge, sizeof(huge));
    o.msg_id = "jbig.1.destroy.2";
    assert_int_equal(bus_publish_durable(scheduler.bus, &o, 2, &e), 0);
    WAIT_FOR(scheduler.refused == 1, 5000);
    assert_non_null(strstr(scheduler.last.msg, "refuses coffer.v1.cvm.destroy.h1"));
    assert_int_equal(bus_in_flight(scheduler.bus), 0);
    o.msg_id = "bad id";
    assert_int_equal(bus_publish_durable(scheduler.bus, &o, 3, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    end_close(&launcher);
    end_close(&scheduler);
}

static int seen_all(const struct end *t, const char *job, uint32_t n)
{
    unsigned char seen[1024] = {0};
    uint32_t different = 0;

    for (size_t i = 0; i < t->n; i++) {
        const struct bus_msg *m = t->got[i];
        if (streq(m->job, job) && m->attempt < sizeof(seen) && !seen[m->attempt]) {
            seen[m->attempt] = 1;
            different++;
        }
    }
    return different == n;
}

/* Everything that was handed to the bus arrives, whatever happens to the server. */
static void test_reconnect(void **state)
{
    struct end kbs, verifier;
    struct err e = {0};
    char id[64];

    (void)state;
    end_open(&kbs, SVC_KBS, NULL, 1);
    end_open(&verifier, SVC_VERIFIER, NULL, 0);
    for (int i = 0; i < 200; i++) {
        if (i % 50 == 25) {
            /* Else one that is still on its way back would not lose it a second time. */
            WAIT_FOR(bus_connected(verifier.bus) && bus_connected(kbs.bus), 10000);
            nats_fixture_kill(&nats);
            WAIT_FOR(!bus_connected(verifier.bus) && !bus_connected(kbs.bus), 5000);
            assert_int_equal(nats_fixture_restart(&nats, &e), 0);
        }
        snprintf(id, sizeof(id), "jrec.%d.verdict.1", i + 1);
        send_verdict(&verifier, "jrec", id, i + 1);
        run_ms(2);
    }
    WAIT_FOR(verifier.stored == 200, 20000);
    WAIT_FOR(seen_all(&kbs, "jrec", 200), 20000);
    assert_true(kbs.events[BUS_LOST] >= 4);
    assert_true(bus_stats(kbs.bus)->connects >= 5);
    end_close(&kbs);
    end_close(&verifier);
}

/* Published while there is no server: goes out when there is one. */
static void test_publish_unconnected(void **state)
{
    struct bus_opts o = nats_fixture_opts(&nats, SVC_VERIFIER, NULL);
    struct end t = {0};
    struct err e = {0};

    (void)state;
    nats_fixture_kill(&nats);
    o.arg = &t;
    o.on_event = on_event;
    o.on_puback = on_puback;
    assert_int_equal(bus_new(&o, loop, &t.bus, &e), 0);
    send_verdict(&t, "joff", "joff.1.verdict.1", 1);
    assert_int_equal(bus_wait_connected(t.bus, 300, &e), -1);
    assert_int_equal(e.code, ERR_TIMEOUT);
    assert_non_null(strstr(e.msg, "cannot connect to tls://127.0.0.1"));
    assert_int_equal(bus_flush(t.bus, 100), -1);
    assert_int_equal(nats_fixture_restart(&nats, &e), 0);
    WAIT_FOR(t.stored == 1, 10000);
    assert_int_equal(bus_flush(t.bus, 1000), 0);
    end_close(&t);
}

static void test_window(void **state)
{
    struct end verifier;
    struct err e = {0};
    char id[64];

    (void)state;
    end_open(&verifier, SVC_VERIFIER, NULL, 0);
    for (int i = 0; i < BUS_WINDOW; i++) {
        snprintf(id, sizeof(id), "jwin.%d.verdict.1", i + 1);
        send_verdict(&verifier, "jwin", id, i + 1);
    }
    assert_int_equal(bus_room(verifier.bus), 0);
    struct bus_out o = {.subject = "coffer.v1.verdict.jwin", .msg_id = "jwin.999.verdict.1"};
    assert_int_equal(bus_publish_durable(verifier.bus, &o, 999, &e), -1);
    assert_int_equal(e.code, ERR_BUSY);
    WAIT_FOR(verifier.stored == BUS_WINDOW, 5000);
    assert_int_equal(bus_room(verifier.bus), BUS_WINDOW);
    end_close(&verifier);
}

static size_t count_of(const struct end *t, enum subject s)
{
    size_t n = 0;

    for (size_t i = 0; i < t->n; i++) {
        n += t->got[i]->m.subject == s;
    }
    return n;
}

static void test_fact(void **state)
{
    struct end scheduler, launcher, client;
    Coffer__V1__HostReport r = COFFER__V1__HOST_REPORT__INIT;
    struct err e = {0};

    (void)state;
    end_open(&scheduler, SVC_SCHEDULER, NULL, 1);
    end_open(&launcher, SVC_LAUNCHER, "h1", 0);
    end_open(&client, SVC_CLIENT, NULL, 0);
    assert_int_equal(bus_subscribe(client.bus, SUBJ_JOB_EVENT, "jfact", &e), 0);
    assert_int_equal(bus_subscribe(client.bus, SUBJ_JOB_EVENT, "jfact", &e), 0);
    assert_int_equal(bus_subscribe(client.bus, SUBJ_JOB_EVENT, "a.b", &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(bus_subscribe(client.bus, SUBJ_VERDICT, NULL, &e), -1);
    assert_int_equal(e.code, ERR_DENIED);
    run_ms(50);
    assert_int_equal(bus_send(launcher.bus, SUBJ_HOST_REPORT, "h1", NULL, &r.base, NULL, 0, &e), 0);
    WAIT_FOR(count_of(&scheduler, SUBJ_HOST_REPORT) == 1, 5000);
    /* A durable fact, as those who only listen see it. */
    Coffer__V1__JobEvent ev = COFFER__V1__JOB_EVENT__INIT;
    assert_int_equal(
        bus_send(scheduler.bus, SUBJ_JOB_EVENT, "jfact", "jfact.e1", &ev.base, NULL, 1, &e), 0);
    assert_int_equal(
        bus_send(scheduler.bus, SUBJ_JOB_EVENT, "jother", "jother.e1", &ev.base, NULL, 2, &e), 0);
    WAIT_FOR(client.n == 1 && scheduler.stored == 2, 5000);
    assert_string_equal(client.got[0]->m.msg_id, "jfact.e1");
    end_close(&scheduler);
    end_close(&launcher);
    end_close(&client);
}

/* ---- who may connect
 * -------------------------------------------------------------------------------- */

static void expect_no_connection(struct bus_opts *o, const char *why)
{
    struct end t = {0};
    struct err e = {0};

    o->arg = &t;
    o->on_event = on_event;
    assert_int_equal(bus_new(o, loop, &t.bus, &e), 0);
    assert_int_equal(bus_wait_connected(t.bus, 500, &e), -1);
    if (!strcasestr(e.msg, why)) {
        fail_msg("expected \"%s\" in \"%s\"", why, e.msg);
    }
    assert_true(t.events[BUS_CONNECT_FAILED] > 0);
    assert_int_equal(t.events[BUS_CONNECTED], 0);
    bus_free(t.bus);
}

static void test_wrong_ca(void **state)
{
    struct natsconf_opts other = {.listen_host = "127.0.0.1", .port = 1};
    _cleanup_free_ char *dir = xasprintf("%s/other", nats.dir);
    _cleanup_free_ char *ca = xasprintf("%s/ca.pem", dir);
    struct bus_opts o = nats_fixture_opts(&nats, SVC_KBS, NULL);
    struct err e = {0};

    (void)state;
    other.dir = dir;
    assert_int_equal(natsconf_write(&other, &e), 0);
    o.ca_file = ca;
    expect_no_connection(&o, "certificate");
}

static void test_wrong_name(void **state)
{
    struct bus_opts o = nats_fixture_opts(&nats, SVC_KBS, NULL);

    (void)state;
    o.tls_name = "nats.example";
    expect_no_connection(&o, "mismatch");
    o.tls_name = "localhost";
    struct end t = {0};
    struct err e = {0};
    assert_int_equal(bus_new(&o, loop, &t.bus, &e), 0);
    assert_int_equal(bus_wait_connected(t.bus, 5000, &e), 0);
    bus_free(t.bus);
}

static void test_wrong_seed(void **state)
{
    struct bus_opts o = nats_fixture_opts(&nats, SVC_KBS, NULL);
    _cleanup_secret_ struct secret *seed = nkey_new_user_seed();
    struct bus *b = NULL;
    struct err e = {0};

    (void)state;
    o.seed_file = NULL;
    o.seed = seed;
    expect_no_connection(&o, "authorization");
    o.seed = NULL;
    assert_int_equal(bus_new(&o, loop, &b, &e), -1);
    assert_non_null(strstr(e.msg, "nats-seed: missing"));
    o = nats_fixture_opts(&nats, SVC_KBS, NULL);
    assert_int_equal(chmod(nats.seed, 0644), 0);
    assert_int_equal(bus_new(&o, loop, &b, &e), -1);
    assert_int_equal(e.code, ERR_DENIED);
    assert_int_equal(chmod(nats.seed, 0600), 0);
}

static void test_options(void **state)
{
    struct bus_opts o = nats_fixture_opts(&nats, SVC_LAUNCHER, "h1");
    struct bus *b = NULL;
    struct err e = {0};

    (void)state;
    o.url = "http://x";
    assert_int_equal(bus_new(&o, loop, &b, &e), -1);
    assert_non_null(strstr(e.msg, "nats-url: expected \"tls://host:port\""));
    o.url = "tls://user:secret@host:1";
    assert_int_equal(bus_new(&o, loop, &b, &e), -1);
    assert_null(strstr(e.msg, "secret"));
    o.url = nats.url;
    o.host = "a.b";
    assert_int_equal(bus_new(&o, loop, &b, &e), -1);
    assert_non_null(strstr(e.msg, "host: expected"));
    o.host = "h1";
    o.ca_file = NULL;
    assert_int_equal(bus_new(&o, loop, &b, &e), -1);
    assert_non_null(strstr(e.msg, "nats-ca"));
}

/* ---- provisioning
 * -------------------------------------------------------------------------------- */

static void test_provision_again(void **state)
{
    static const char *const hosts[] = {"h1", "h2"};
    struct bus_opts o = nats_fixture_opts(&nats, SVC_CLIENT, NULL);
    struct err e = {0};

    (void)state;
    snprintf(nats.seed, sizeof(nats.seed), "%s/admin.seed", nats.conf);
    if (bus_provision(&o, hosts, 2, &e) < 0 || bus_provision(&o, hosts, 2, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    static const char *const bad[] = {"a b"};
    assert_int_equal(bus_provision(&o, bad, 1, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    /* Only the admin may. */
    o = nats_fixture_opts(&nats, SVC_CLIENT, NULL);
    assert_int_equal(bus_provision(&o, hosts, 1, &e), -1);
    assert_int_equal(e.code, ERR_DENIED);
}

static void test_missing_consumer(void **state)
{
    struct bus_opts o = nats_fixture_opts(&nats, SVC_LAUNCHER, "h1");
    struct end t = {0};
    struct err e = {0};

    (void)state;
    /* h1's user, as a host that nobody provisioned: the server refuses the pull, and it is said. */
    o.host = "h9";
    o.arg = &t;
    o.on_event = on_event;
    assert_int_equal(bus_new(&o, loop, &t.bus, &e), 0);
    assert_int_equal(bus_serve(t.bus, &e), 0);
    assert_int_equal(bus_wait_connected(t.bus, 5000, &e), 0);
    WAIT_FOR(t.events[BUS_CONSUMER_SILENT] == 2, 6000); /* launch and destroy */
    assert_true(t.events[BUS_REFUSED] > 0);
    bus_free(t.bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request_reply),
        cmocka_unit_test(test_request_timeout),
        cmocka_unit_test(test_request_over_cap),
        cmocka_unit_test(test_durable),
        cmocka_unit_test(test_durable_over_cap),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_fact),
        cmocka_unit_test(test_reconnect),
        cmocka_unit_test(test_publish_unconnected),
        cmocka_unit_test(test_wrong_ca),
        cmocka_unit_test(test_wrong_name),
        cmocka_unit_test(test_wrong_seed),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_provision_again),
        cmocka_unit_test(test_missing_consumer),
    };

    if (!nats_fixture_available()) {
        return 77;
    }
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}

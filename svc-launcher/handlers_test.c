#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "svc-launcher/launcher.h"

#define T0 1700000000000ll
#define JOB "jaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define KIND(k) COFFER__V1__CVM_EVENT_KIND__CVM_##k

struct fix {
    struct engine *g;
    struct config *c;
    int64_t now;
    const char *path;
    struct err why;
    /* What left since the last clear(). */
    struct {
        Coffer__V1__CvmEventKind kind;
        unsigned attempt;
        char detail[33], code[32], clause[64], msg_id[128];
    } ev[32];
    size_t n_ev, n_launch, n_destroy, n_adopt, n_reports;
    Coffer__V1__HostReport *report;
};

static int64_t fix_clock(void *arg)
{
    return ((struct fix *)arg)->now;
}

static void clear(struct fix *f)
{
    f->n_ev = f->n_launch = f->n_destroy = f->n_adopt = f->n_reports = 0;
}

static void collect(struct fix *f)
{
    struct outgoing o;
    struct bytes data;
    int kind;

    while (engine_next_out(f->g, &o)) {
        enum subject s;
        const char *key;
        assert_int_equal(subject_parse(o.subject, &s, &key), 0);
        if (s == SUBJ_HOST_REPORT) {
            coffer__v1__host_report__free_unpacked(f->report, NULL);
            f->report = coffer__v1__host_report__unpack(NULL, o.payload.n, o.payload.p);
            assert_non_null(f->report);
            f->n_reports++;
        } else if (s == SUBJ_CVM_EVENT) {
            Coffer__V1__CvmEvent *m = coffer__v1__cvm_event__unpack(NULL, o.payload.n, o.payload.p);
            assert_non_null(m);
            assert_true(f->n_ev < ARRAY_LEN(f->ev));
            assert_string_equal(m->host, "h1");
            assert_string_equal(m->job, key);
            f->ev[f->n_ev].kind = m->kind;
            f->ev[f->n_ev].attempt = m->attempt;
            snprintf(f->ev[f->n_ev].detail, 33, "%s", m->detail);
            snprintf(f->ev[f->n_ev].code, 32, "%s", m->reason ? m->reason->code : "");
            snprintf(f->ev[f->n_ev].clause, 64, "%s", m->reason ? m->reason->clause : "");
            snprintf(f->ev[f->n_ev].msg_id, 128, "%s", o.msg_id);
            f->n_ev++;
            coffer__v1__cvm_event__free_unpacked(m, NULL);
        }
    }
    while (engine_next_action(f->g, &kind, &data)) {
        f->n_launch += kind == LAUNCHER_ACT_LAUNCH;
        f->n_destroy += kind == LAUNCHER_ACT_DESTROY;
        f->n_adopt += kind == LAUNCHER_ACT_ADOPT;
    }
}

static void commit(struct fix *f)
{
    struct err e = {0};

    if (engine_commit(f->g, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    collect(f);
}

static void set_facts(struct fix *f)
{
    struct host_facts h = {.cpu_millis = 4000,
                           .memory_bytes = 1ull << 30,
                           .slots = 2,
                           .n_backends = 2,
                           .backends = {{.name = "process", .tee = "sample", .available = 1},
                                        {.name = "vtpm", .tee = "vtpm", .why = "no swtpm"}}};

    launcher_set_facts(engine_svc(f->g), &h);
}

static void open_it(struct fix *f)
{
    struct engine_opts o = {.db_path = f->path, .clock = fix_clock, .clock_arg = f, .config = f->c};
    struct err e = {0};

    if (engine_open(&launcher_service, &o, &f->g, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    collect(f);
    set_facts(f);
}

static struct fix *make(const char *path)
{
    struct fix *f = xcalloc(1, sizeof(*f));

    f->c = config_make(launcher_service.config, launcher_service.n_config, "host", "h1", NULL);
    f->now = T0;
    f->path = path;
    open_it(f);
    return f;
}

static void drop(struct fix *f)
{
    engine_close(f->g);
    config_free(f->c);
    coffer__v1__host_report__free_unpacked(f->report, NULL);
    free(f);
}

static void handle(struct fix *f, enum subject s, const char *key, const ProtobufCMessage *m)
{
    uint8_t p[4096];
    size_t n = protobuf_c_message_pack(m, p);
    struct msg msg = {.subject = s,
                      .key = key,
                      .payload = BYTES(p, n),
                      .msg_id = "",
                      .reply_to = "",
                      .traceparent = "",
                      .deliveries = 1};
    enum disposition d;
    struct err e = {0};
    int delay;

    clear(f);
    err_clear(&f->why);
    if (engine_begin(f->g, &e) < 0 || engine_handle(f->g, &msg, &d, &delay, &f->why, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    commit(f);
}

static void launch_to(struct fix *f, const char *host, unsigned attempt, const char *backend,
                      int64_t deadline_ms)
{
    Coffer__V1__LaunchCvm m = COFFER__V1__LAUNCH_CVM__INIT;

    m.job = JOB;
    m.attempt = attempt;
    m.backend = (char *)backend;
    m.spec_jws = "a.b.c";
    m.deadline_ms = deadline_ms;
    handle(f, SUBJ_CVM_LAUNCH, host, &m.base);
}

static void launch(struct fix *f, unsigned attempt)
{
    launch_to(f, "h1", attempt, "process", f->now + 60000);
}

static void destroy(struct fix *f, unsigned attempt)
{
    Coffer__V1__DestroyCvm m = COFFER__V1__DESTROY_CVM__INIT;

    m.job = JOB;
    m.attempt = attempt;
    handle(f, SUBJ_CVM_DESTROY, "h1", &m.base);
}

static void backend_says_nr(struct fix *f, unsigned attempt, int64_t seq,
                            enum backend_event_kind kind, const char *detail)
{
    Coffer__V1__Refusal r = COFFER__V1__REFUSAL__INIT;
    struct backend_event ev = {.kind = kind,
                               .job = JOB,
                               .attempt = attempt,
                               .seq = seq,
                               .detail = detail,
                               .pid = 77,
                               .pid_start = 88,
                               .boot_id = "boot"};
    struct err e = {0};

    if (kind == BACKEND_REFUSED || kind == BACKEND_FAILED) {
        r.code = "denied";
        r.clause = (char *)detail;
        r.by = "kbs";
        ev.refusal = &r;
    }
    clear(f);
    if (engine_begin(f->g, &e) < 0 || engine_call(f->g, launcher_on_backend_event, &ev, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    commit(f);
}

static void backend_says(struct fix *f, unsigned attempt, enum backend_event_kind kind,
                         const char *detail)
{
    backend_says_nr(f, attempt, 0, kind, detail);
}

static void tick(struct fix *f)
{
    struct err e = {0};

    clear(f);
    if (engine_begin(f->g, &e) < 0 || engine_tick(f->g, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    commit(f);
}

/* ---- the table ------------------------------------------------------------------------------- */

static void every_pair(void **state)
{
    (void)state;
    static const enum cvm_state want[CVM_STATE_N][RUN_CAUSE_N] = {
        {CVM_RUNNING, CVM_STOPPING, CVM_GONE, CVM_GONE},
        {CVM_RUNNING, CVM_STOPPING, CVM_GONE, CVM_GONE},
        {CVM_STOPPING, CVM_STOPPING, CVM_GONE, CVM_GONE},
        {CVM_GONE, CVM_GONE, CVM_GONE, CVM_GONE},
    };
    for (int s = 0; s < CVM_STATE_N; s++) {
        for (int c = 0; c < RUN_CAUSE_N; c++) {
            assert_int_equal(cvm_next((enum cvm_state)s, (enum cvm_cause)c), want[s][c]);
        }
    }
    assert_string_equal(cvm_state_name(CVM_STOPPING), "stopping");
}

/* ---- a life ---------------------------------------------------------------------------------- */

static void the_straight_way(void **state)
{
    struct fix *f = make(":memory:");

    (void)state;
    launch(f, 1);
    assert_int_equal(f->n_launch, 1);
    launch(f, 1); /* again starts nothing */
    assert_int_equal(f->n_launch, 0);
    assert_int_equal(f->n_ev, 0);
    backend_says(f, 1, BACKEND_STARTED, NULL);
    backend_says(f, 1, BACKEND_BOOTED, NULL);
    assert_int_equal(f->ev[0].kind, KIND(BOOTED));
    assert_string_equal(f->ev[0].msg_id, JOB ".1.cvm.1");
    backend_says(f, 1, BACKEND_BOOTED, NULL);
    assert_int_equal(f->n_ev, 0);
    backend_says(f, 1, BACKEND_PHASE, "attest");
    assert_int_equal(f->ev[0].kind, KIND(PHASE));
    assert_string_equal(f->ev[0].detail, "attest");
    backend_says(f, 1, BACKEND_PHASE, "not a Phase");
    assert_int_equal(f->n_ev, 0);
    backend_says(f, 1, BACKEND_DONE, NULL);
    backend_says(f, 1, BACKEND_GONE, NULL);
    assert_int_equal(f->n_ev, 2);
    assert_int_equal(f->ev[0].kind, KIND(EXITED));
    assert_int_equal(f->ev[1].kind, KIND(DESTROYED));
    assert_string_equal(f->ev[0].detail, "done");
    assert_string_equal(f->ev[1].detail, "done");
    backend_says(f, 1, BACKEND_GONE, NULL);
    assert_int_equal(f->n_ev, 0);
    destroy(f, 1); /* is answered, as often as it is asked */
    assert_int_equal(f->ev[0].kind, KIND(DESTROYED));
    assert_string_equal(f->ev[0].msg_id, JOB ".1.cvm.5");
    drop(f);
}

static void ends_that_were_not_asked_for(void **state)
{
    struct fix *f = make(":memory:");

    (void)state;
    launch(f, 1);
    backend_says(f, 1, BACKEND_GONE, NULL); /* never booted */
    assert_int_equal(f->n_ev, 1);
    assert_int_equal(f->ev[0].kind, KIND(LAUNCH_FAILED));
    assert_string_equal(f->ev[0].clause, "launch");
    launch(f, 2);
    backend_says(f, 2, BACKEND_FAILED, "worker");
    assert_int_equal(f->ev[0].kind, KIND(LAUNCH_FAILED));
    assert_string_equal(f->ev[0].clause, "worker");
    launch(f, 3);
    backend_says(f, 3, BACKEND_PHASE, "keys"); /* proves that it booted */
    assert_int_equal(f->ev[0].kind, KIND(BOOTED));
    backend_says(f, 3, BACKEND_REFUSED, "grant.images");
    backend_says(f, 3, BACKEND_REFUSED, "another");
    backend_says(f, 3, BACKEND_GONE, NULL);
    assert_int_equal(f->ev[0].kind, KIND(EXITED));
    assert_string_equal(f->ev[0].clause, "grant.images");
    assert_string_equal(f->ev[1].clause, "grant.images");
    drop(f);
}

static void refused_launches(void **state)
{
    struct fix *f = make(":memory:");

    (void)state;
    launch_to(f, "h2", 1, "process", T0 + 60000);
    assert_string_equal(f->why.msg, "host: expected h1, got \"h2\"");
    launch_to(f, "h1", 0, "process", T0 + 60000);
    assert_string_equal(f->why.clause, "attempt");
    launch_to(f, "h1", 1, "tdx", T0 + 60000);
    assert_int_equal(f->ev[0].kind, KIND(LAUNCH_FAILED));
    assert_string_equal(f->ev[0].clause, "backend");
    assert_int_equal(f->n_launch, 0);
    launch_to(f, "h1", 2, "vtpm", T0 + 60000);
    assert_string_equal(f->ev[0].code, "unsupported");
    launch_to(f, "h1", 3, "process", T0);
    assert_string_equal(f->ev[0].code, "expired");
    launch_to(f, "h1", 4, "process", T0 + 9ll * 86400000);
    assert_string_equal(f->ev[0].clause, "deadline_ms");
    launch(f, 6);
    assert_int_equal(f->n_launch, 1);
    launch(f, 5); /* older than one seen */
    assert_string_equal(f->ev[0].code, "stale-attempt");
    assert_int_equal(f->ev[0].attempt, 5);
    assert_int_equal(f->n_launch, 0);
    drop(f);
}

static void a_newer_attempt_ends_the_older(void **state)
{
    struct fix *f = make(":memory:");

    (void)state;
    launch(f, 1);
    launch(f, 2);
    assert_int_equal(f->n_launch, 1);
    assert_int_equal(f->n_destroy, 1);
    launch(f, 3);
    assert_string_equal(f->ev[0].clause, "slots"); /* the first is not gone yet */
    backend_says(f, 1, BACKEND_GONE, NULL);
    assert_int_equal(f->n_ev, 1);
    assert_int_equal(f->ev[0].kind, KIND(DESTROYED));
    drop(f);
}

static void destroy_overtakes_launch(void **state)
{
    struct fix *f = make(":memory:");

    (void)state;
    destroy(f, 1);
    assert_int_equal(f->ev[0].kind, KIND(DESTROYED));
    launch(f, 1);
    assert_int_equal(f->n_launch, 0);
    assert_int_equal(f->ev[0].kind, KIND(DESTROYED));
    drop(f);
}

static void deadline_and_repeats(void **state)
{
    struct fix *f = make(":memory:");

    (void)state;
    launch(f, 1);
    backend_says(f, 1, BACKEND_BOOTED, NULL);
    f->now += 59999;
    tick(f);
    assert_int_equal(f->n_destroy, 0);
    f->now += 1;
    tick(f);
    assert_int_equal(f->n_destroy, 1);
    f->now += 10000;
    tick(f);
    assert_int_equal(f->n_destroy, 1);
    backend_says(f, 1, BACKEND_GONE, NULL);
    assert_int_equal(f->ev[0].kind, KIND(EXITED));
    assert_string_equal(f->ev[0].code, "timeout");
    assert_int_equal(f->ev[1].kind, KIND(DESTROYED));
    f->now += 10000;
    tick(f);
    assert_int_equal(f->n_destroy, 0);
    drop(f);
}

/* A database in a file, for services that start again. */
struct disk {
    char dir[40], path[64];
};

static struct fix *make_on(struct disk *d)
{
    snprintf(d->dir, sizeof(d->dir), "/tmp/coffer-launcher-XXXXXX");
    assert_non_null(mkdtemp(d->dir));
    snprintf(d->path, sizeof(d->path), "%s/db", d->dir);
    return make(d->path);
}

static void drop_on(struct fix *f, const struct disk *d)
{
    char cmd[80];

    drop(f);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", d->dir);
    assert_int_equal(system(cmd), 0);
}

static void start_again(struct fix *f)
{
    engine_close(f->g);
    clear(f);
    open_it(f);
}

static void a_restart_adopts_what_was_running(void **state)
{
    struct disk d;
    struct cvm c;
    struct err e;

    (void)state;
    struct fix *f = make_on(&d);
    launch(f, 1);
    backend_says(f, 1, BACKEND_STARTED, NULL);
    backend_says_nr(f, 1, 1, BACKEND_BOOTED, NULL);
    backend_says_nr(f, 1, 2, BACKEND_PHASE, "attest");
    start_again(f);
    assert_int_equal(f->n_adopt, 1);
    assert_int_equal(f->n_destroy, 0);
    assert_int_equal(f->n_ev, 0);
    assert_int_equal(launcher_cvm(engine_svc(f->g), JOB, 1, &c, &e), 1);
    assert_int_equal(c.process.pid, 77);
    assert_int_equal(c.process.pid_start, 88);
    assert_string_equal(c.process.boot_id, "boot");
    assert_int_equal(c.seq, 2);
    tick(f);
    assert_int_equal(f->report->running, 1); /* it counts from the start */
    backend_says_nr(f, 1, 1, BACKEND_BOOTED, NULL);
    backend_says_nr(f, 1, 2, BACKEND_PHASE, "attest"); /* said again */
    assert_int_equal(f->n_ev, 0);
    backend_says_nr(f, 1, 3, BACKEND_PHASE, "keys");
    assert_int_equal(f->n_ev, 1);
    assert_string_equal(f->ev[0].msg_id, JOB ".1.cvm.3");
    backend_says_nr(f, 1, 4, BACKEND_DONE, NULL);
    backend_says_nr(f, 1, 5, BACKEND_REFUSED, "grant"); /* not after a result */
    backend_says_nr(f, 1, 6, BACKEND_GONE, NULL);
    assert_int_equal(f->n_ev, 2);
    assert_int_equal(f->ev[0].kind, KIND(EXITED));
    assert_string_equal(f->ev[0].detail, "done");
    assert_string_equal(f->ev[0].code, "");
    assert_int_equal(launcher_cvm(engine_svc(f->g), JOB, 1, &c, &e), 0);
    start_again(f);
    assert_int_equal(f->n_adopt, 0);
    drop_on(f, &d);
}

static void what_cannot_be_adopted_is_lost(void **state)
{
    struct disk d;

    (void)state;
    struct fix *f = make_on(&d);
    launch(f, 1);
    backend_says(f, 1, BACKEND_BOOTED, NULL);
    start_again(f);
    backend_says(f, 1, BACKEND_LOST, NULL);
    assert_int_equal(f->n_ev, 2);
    assert_int_equal(f->ev[0].kind, KIND(LOST));
    assert_int_equal(f->ev[1].kind, KIND(DESTROYED));
    launch(f, 2);
    backend_says(f, 2, BACKEND_BOOTED, NULL);
    destroy(f, 2);
    start_again(f);
    assert_int_equal(f->n_adopt, 0); /* it was being destroyed, and is still */
    assert_int_equal(f->n_destroy, 1);
    backend_says(f, 2, BACKEND_LOST, NULL);
    assert_int_equal(f->n_ev, 1);
    assert_int_equal(f->ev[0].kind, KIND(DESTROYED));
    launch(f, 3);
    backend_says(f, 3, BACKEND_DONE, NULL);
    backend_says(f, 3, BACKEND_LOST, NULL); /* not its result */
    assert_int_equal(f->ev[0].kind, KIND(EXITED));
    assert_string_equal(f->ev[0].detail, "done");
    drop_on(f, &d);
}

static void an_orderly_end_stops_all(void **state)
{
    struct fix *f = make(":memory:");
    struct err e = {0};

    (void)state;
    launch(f, 1);
    backend_says(f, 1, BACKEND_BOOTED, NULL);
    clear(f);
    assert_int_equal(engine_begin(f->g, &e), 0);
    assert_int_equal(engine_call(f->g, launcher_stop_all, NULL, &e), 0);
    commit(f);
    assert_int_equal(f->n_destroy, 1);
    backend_says(f, 1, BACKEND_GONE, NULL);
    assert_int_equal(f->ev[0].kind, KIND(LOST)); /* not its own doing: it may be tried again */
    drop(f);
}

static void reports(void **state)
{
    struct fix *f = make(":memory:");

    (void)state;
    launch(f, 1);
    tick(f);
    assert_int_equal(f->n_reports, 1);
    assert_string_equal(f->report->host, "h1");
    assert_int_equal(f->report->running, 1);
    assert_int_equal(f->report->slots, 2);
    assert_int_equal(f->report->n_backends, 2);
    assert_int_equal(f->report->backends[1]->available, 0);
    assert_string_equal(f->report->backends[1]->why, "no swtpm");
    f->now += 4999;
    tick(f);
    assert_int_equal(f->n_reports, 0);
    f->now += 1;
    tick(f);
    assert_int_equal(f->n_reports, 1);
    set_facts(f);
    tick(f);
    assert_int_equal(f->n_reports, 1); /* news are told at once */
    drop(f);
}

static void a_bad_host_name_does_not_start(void **state)
{
    struct fix f = {.now = T0, .path = ":memory:"};
    struct engine_opts o = {.db_path = f.path, .clock = fix_clock, .clock_arg = &f};
    struct err e = {0};

    (void)state;
    f.c = config_make(launcher_service.config, launcher_service.n_config, "host", "a.b", NULL);
    o.config = f.c;
    assert_int_equal(engine_open(&launcher_service, &o, &f.g, &e), -1);
    assert_string_equal(e.msg, "host: expected 1..64 of [A-Za-z0-9_-], got \"a.b\"");
    config_free(f.c);
}

static void a_bad_on_stop_does_not_start(void **state)
{
    struct fix f = {.now = T0, .path = ":memory:"};
    struct engine_opts o = {.db_path = f.path, .clock = fix_clock, .clock_arg = &f};
    struct err e = {0};

    (void)state;
    f.c = config_make(launcher_service.config, launcher_service.n_config, "host", "h1", "on-stop",
                      "stay", NULL);
    o.config = f.c;
    assert_int_equal(engine_open(&launcher_service, &o, &f.g, &e), -1);
    assert_string_equal(e.msg, "on-stop: expected destroy or keep, got \"stay\"");
    config_free(f.c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair),
        cmocka_unit_test(the_straight_way),
        cmocka_unit_test(ends_that_were_not_asked_for),
        cmocka_unit_test(refused_launches),
        cmocka_unit_test(a_newer_attempt_ends_the_older),
        cmocka_unit_test(destroy_overtakes_launch),
        cmocka_unit_test(deadline_and_repeats),
        cmocka_unit_test(a_restart_adopts_what_was_running),
        cmocka_unit_test(what_cannot_be_adopted_is_lost),
        cmocka_unit_test(an_orderly_end_stops_all),
        cmocka_unit_test(reports),
        cmocka_unit_test(a_bad_host_name_does_not_start),
        cmocka_unit_test(a_bad_on_stop_does_not_start),
    };
    return cmocka_run_group_tests_name("launcher handlers", tests, NULL, NULL);
}

/* The engine with a service of its own: what is durable, what leaves and when, what is handled
 * once. */
#include "common/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static int64_t now_ms = 1000000;

static int64_t test_clock(void *arg)
{
    (void)arg;
    return now_ms;
}

enum behaviour { DO_COUNT, DO_REFUSE, DO_BUSY, DO_PUBLISH, DO_TOO_LARGE, DO_FOREIGN };
static enum behaviour behaviour;
static int resumed;

static const char sql_add[] = "UPDATE counter SET n = n + 1";
static const char sql_get[] = "SELECT n FROM counter";

static int publish_verdict(struct effects *fx, const char *job, size_t ear_bytes, struct err *e)
{
    Coffer__V1__Verdict v = COFFER__V1__VERDICT__INIT;
    _cleanup_free_ char *ear = xcalloc(1, ear_bytes + 1);

    memset(ear, 'x', ear_bytes);
    v.job = (char *)job;
    v.ear = ear;
    return fx_publish(fx, SUBJ_VERDICT, job, "j1.1.verdict.0", &v.base, e);
}

static int on_submit(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    (void)m;
    if (db_run(s->db, e, sql_add, "") < 0) {
        return -1;
    }
    switch (behaviour) {
    case DO_COUNT:
        return 0;
    case DO_REFUSE:
        return err_refuse(e, ERR_DENIED, "test.clause", "this", "%s", "that");
    case DO_BUSY:
        return err_set(e, ERR_BUSY, "later");
    case DO_PUBLISH:
        fx_action(fx, 7, BYTES_STR("act"));
        return publish_verdict(fx, "j1", 3, e);
    case DO_TOO_LARGE:
        return publish_verdict(fx, "j1", subjects[SUBJ_VERDICT].max_bytes, e);
    case DO_FOREIGN: {
        Coffer__V1__JobEvent ev = COFFER__V1__JOB_EVENT__INIT;
        return fx_publish(fx, SUBJ_JOB_EVENT, "j1", "id", &ev.base, e);
    }
    }
    return -1;
}

static int on_challenge(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    Coffer__V1__Reply r = COFFER__V1__REPLY__INIT;
    Coffer__V1__Challenge c = COFFER__V1__CHALLENGE__INIT;

    (void)s;
    if (behaviour == DO_REFUSE) {
        return err_refuse(e, ERR_DENIED, "test.clause", "this", "%s", "that");
    }
    r.body_case = COFFER__V1__REPLY__BODY_CHALLENGE;
    r.challenge = &c;
    return fx_reply(fx, m, &r, e);
}

static int on_resume(struct svc *s, struct effects *fx, struct err *e)
{
    (void)s;
    (void)fx;
    (void)e;
    resumed++;
    return 0;
}

static const char *const migrations[] = {
    "CREATE TABLE counter(n INTEGER NOT NULL); INSERT INTO counter VALUES (0)"};
static const struct handler handlers[] = {{SUBJ_EVIDENCE_SUBMIT, on_submit},
                                          {SUBJ_EVIDENCE_CHALLENGE, on_challenge}};
static const struct service_def def = {.id = SVC_VERIFIER,
                                       .migrations = migrations,
                                       .n_migrations = 1,
                                       .handlers = handlers,
                                       .n_handlers = 2,
                                       .resume = on_resume};

static char db_path[64];

static struct engine *reopen(void)
{
    struct engine_opts o = {.db_path = db_path, .clock = test_clock};
    struct engine *g = NULL;
    struct err e = {0};

    if (engine_open(&def, &o, &g, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    return g;
}

static int setup(void **state)
{
    (void)state;
    snprintf(db_path, sizeof(db_path), "/tmp/coffer-engine-XXXXXX");
    int fd = mkstemp(db_path);
    assert_true(fd >= 0);
    close(fd);
    behaviour = DO_COUNT;
    return 0;
}

static int teardown(void **state)
{
    char path[80];

    (void)state;
    unlink(db_path);
    snprintf(path, sizeof(path), "%s-wal", db_path);
    unlink(path);
    return 0;
}

static int64_t counter(struct engine *g)
{
    int64_t n = -1;
    assert_int_equal(0, db_get_int(engine_svc(g)->db, NULL, -1, &n, sql_get, ""));
    return n;
}

static enum disposition deliver(struct engine *g, enum subject s, const char *id,
                                uint32_t deliveries, const char *reply_to, struct err *why)
{
    struct msg m = {.subject = s,
                    .key = "",
                    .payload = BYTES("", 0),
                    .msg_id = id,
                    .reply_to = reply_to,
                    .traceparent = "",
                    .deliveries = deliveries};
    enum disposition d = DISP_NAK;
    int delay = 0;

    assert_int_equal(0, engine_handle(g, &m, &d, &delay, why, NULL));
    return d;
}

static void test_effects_leave_only_after_commit(void **state)
{
    struct engine *g = reopen();
    struct outgoing out;
    struct bytes data;
    int kind;

    (void)state;
    behaviour = DO_PUBLISH;
    assert_int_equal(0, engine_begin(g, NULL));
    assert_int_equal(DISP_ACK, deliver(g, SUBJ_EVIDENCE_SUBMIT, "a", 1, "", NULL));
    assert_int_equal(0, engine_next_out(g, &out));
    assert_int_equal(0, engine_next_action(g, &kind, &data));
    assert_int_equal(0, engine_commit(g, NULL));
    assert_int_equal(1, engine_next_out(g, &out));
    assert_string_equal("coffer.v1.verdict.j1", out.subject);
    assert_string_equal("j1.1.verdict.0", out.msg_id);
    assert_int_equal(TRACEPARENT_LEN, strlen(out.traceparent));
    assert_true(out.outbox_id > 0);
    assert_int_equal(1, engine_next_action(g, &kind, &data));
    assert_int_equal(7, kind);
    assert_memory_equal("act", data.p, 3);
    assert_int_equal(0, engine_next_out(g, &out));
    assert_int_equal(1, engine_unpublished(g));
    engine_close(g);
}

static void test_duplicate_is_handled_once_even_after_a_restart(void **state)
{
    struct engine *g = reopen();

    (void)state;
    for (int round = 0; round < 2; round++) {
        assert_int_equal(0, engine_begin(g, NULL));
        assert_int_equal(DISP_ACK, deliver(g, SUBJ_EVIDENCE_SUBMIT, "same", 1, "", NULL));
        assert_int_equal(DISP_ACK, deliver(g, SUBJ_EVIDENCE_SUBMIT, "same", 2, "", NULL));
        assert_int_equal(0, engine_commit(g, NULL));
        assert_int_equal(1, counter(g));
        engine_close(g);
        g = reopen();
    }
    engine_close(g);
}

/* Ids are the senders' choice, and many may send on one subject. */
static void test_an_id_of_another_message_suppresses_nothing(void **state)
{
    struct engine *g = reopen();
    struct msg forged = {.subject = SUBJ_EVIDENCE_SUBMIT,
                         .key = "",
                         .payload = BYTES_STR("anything that is taken"),
                         .msg_id = "victim",
                         .reply_to = "",
                         .traceparent = "",
                         .deliveries = 1};
    enum disposition d;
    int delay;

    (void)state;
    assert_int_equal(0, engine_begin(g, NULL));
    assert_int_equal(0, engine_handle(g, &forged, &d, &delay, NULL, NULL));
    assert_int_equal(1, counter(g));
    assert_int_equal(DISP_ACK, deliver(g, SUBJ_EVIDENCE_SUBMIT, "victim", 1, "", NULL));
    assert_int_equal(2, counter(g));
    assert_int_equal(DISP_ACK, deliver(g, SUBJ_EVIDENCE_SUBMIT, "victim", 2, "", NULL));
    assert_int_equal(2, counter(g));
    assert_int_equal(0, engine_commit(g, NULL));
    engine_close(g);
}

static void test_inbox_forgets_only_after_a_whole_period(void **state)
{
    struct engine *g = reopen();

    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(0, engine_begin(g, NULL));
        assert_int_equal(0, engine_tick(g, NULL));
        deliver(g, SUBJ_EVIDENCE_SUBMIT, "same", 1, "", NULL);
        assert_int_equal(0, engine_commit(g, NULL));
        assert_int_equal(i < 2 ? 1 : 2, counter(g));
        now_ms += i == 0 ? ENGINE_INBOX_KEEP_MS / 2 : 3 * ENGINE_INBOX_KEEP_MS;
        if (i == 1) {
            /* Two turns: the table that holds the id is emptied at the second one. */
            assert_int_equal(0, engine_begin(g, NULL));
            assert_int_equal(0, engine_tick(g, NULL));
            assert_int_equal(0, engine_commit(g, NULL));
            now_ms += 3 * ENGINE_INBOX_KEEP_MS;
        }
    }
    engine_close(g);
}

static int refuse_commit(void *arg)
{
    (void)arg;
    return 1;
}

/* A turn of the inbox that was not committed did not happen: else marks go into the table that the
 * next start believes to be the old one, and empties. */
static void test_an_undone_turn_of_the_inbox_forgets_nothing(void **state)
{
    struct engine *g = reopen();
    sqlite3 *h = db_handle(engine_svc(g)->db);

    (void)state;
    sqlite3_commit_hook(h, refuse_commit, NULL);
    assert_int_equal(0, engine_begin(g, NULL));
    deliver(g, SUBJ_EVIDENCE_SUBMIT, "lost", 1, "", NULL);
    assert_int_equal(0, engine_tick(g, NULL));
    assert_int_equal(-1, engine_commit(g, NULL));
    engine_rollback(g);
    sqlite3_commit_hook(h, NULL, NULL);

    assert_int_equal(0, engine_begin(g, NULL));
    deliver(g, SUBJ_EVIDENCE_SUBMIT, "same", 1, "", NULL);
    assert_int_equal(0, engine_commit(g, NULL));
    engine_rollback(g); /* outside of a transaction it changes nothing */
    assert_int_equal(1, counter(g));
    engine_close(g);

    g = reopen();
    assert_int_equal(0, engine_begin(g, NULL));
    assert_int_equal(0, engine_tick(g, NULL)); /* turns */
    deliver(g, SUBJ_EVIDENCE_SUBMIT, "same", 2, "", NULL);
    assert_int_equal(0, engine_commit(g, NULL));
    assert_int_equal(1, counter(g));
    engine_close(g);
}

static void test_crash_before_commit_changes_nothing(void **state)
{
    struct engine *g = reopen();
    struct outgoing out;

    (void)state;
    behaviour = DO_PUBLISH;
    assert_int_equal(0, engine_begin(g, NULL));
    deliver(g, SUBJ_EVIDENCE_SUBMIT, "a", 1, "", NULL);
    engine_close(g);
    g = reopen();
    assert_int_equal(0, counter(g));
    assert_int_equal(0, engine_requeue_outbox(g, 1, NULL));
    assert_int_equal(0, engine_next_out(g, &out));
    assert_int_equal(0, engine_begin(g, NULL));
    deliver(g, SUBJ_EVIDENCE_SUBMIT, "a", 2, "", NULL);
    assert_int_equal(0, engine_commit(g, NULL));
    assert_int_equal(1, counter(g));
    engine_close(g);
}

static void test_outbox_survives_a_crash_and_is_sent_again(void **state)
{
    struct engine *g = reopen();
    struct outgoing out;

    (void)state;
    behaviour = DO_PUBLISH;
    assert_int_equal(0, engine_begin(g, NULL));
    deliver(g, SUBJ_EVIDENCE_SUBMIT, "a", 1, "", NULL);
    assert_int_equal(0, engine_commit(g, NULL));
    engine_close(g);

    g = reopen();
    assert_int_equal(1, engine_unpublished(g));
    assert_int_equal(0, engine_requeue_outbox(g, 1, NULL));
    assert_int_equal(1, engine_next_out(g, &out));
    assert_string_equal("j1.1.verdict.0", out.msg_id);
    assert_true(out.payload.n > 3);
    engine_published(g, out.outbox_id);
    assert_int_equal(0, engine_begin(g, NULL));
    assert_int_equal(0, engine_commit(g, NULL));
    assert_int_equal(0, engine_unpublished(g));

    /* A reconnect sends only what has no PubAck; a start also what was acknowledged lately. */
    assert_int_equal(0, engine_requeue_outbox(g, 0, NULL));
    assert_int_equal(0, engine_next_out(g, &out));
    assert_int_equal(0, engine_requeue_outbox(g, 1, NULL));
    assert_int_equal(1, engine_next_out(g, &out));
    engine_close(g);
}

static void test_outbox_is_pruned(void **state)
{
    struct engine *g = reopen();
    struct outgoing out;

    (void)state;
    behaviour = DO_PUBLISH;
    assert_int_equal(0, engine_begin(g, NULL));
    deliver(g, SUBJ_EVIDENCE_SUBMIT, "a", 1, "", NULL);
    assert_int_equal(0, engine_commit(g, NULL));
    assert_int_equal(1, engine_next_out(g, &out));
    engine_published(g, out.outbox_id);
    assert_true(engine_next_tick_ms(g) <= now_ms + 1000);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(0, engine_begin(g, NULL));
        assert_int_equal(0, engine_tick(g, NULL));
        assert_int_equal(0, engine_commit(g, NULL));
        now_ms += ENGINE_OUTBOX_KEEP_MS + 1;
    }
    int64_t rows = -1;
    assert_int_equal(
        0, db_get_int(engine_svc(g)->db, NULL, -1, &rows, "SELECT count(*) FROM outbox", ""));
    assert_int_equal(0, rows);
    assert_true(engine_next_tick_ms(g) == INT64_MAX);
    engine_close(g);
}

static void test_transient_failure_comes_again_with_backoff_then_dies(void **state)
{
    struct engine *g = reopen();
    struct msg m = {.subject = SUBJ_EVIDENCE_SUBMIT,
                    .key = "",
                    .msg_id = "a",
                    .reply_to = "",
                    .traceparent = ""};
    struct outgoing out;
    struct err why = {0};
    int last = 0;

    (void)state;
    behaviour = DO_BUSY;
    assert_int_equal(0, engine_begin(g, NULL));
    for (m.deliveries = 1; m.deliveries < ENGINE_MAX_DELIVERIES; m.deliveries++) {
        enum disposition d;
        int delay;
        assert_int_equal(0, engine_handle(g, &m, &d, &delay, &why, NULL));
        assert_int_equal(DISP_NAK, d);
        assert_true(delay > last && delay <= 30000);
        last = delay;
    }
    assert_int_equal(DISP_ACK,
                     deliver(g, SUBJ_EVIDENCE_SUBMIT, "a", ENGINE_MAX_DELIVERIES, "", &why));
    assert_int_equal(0, engine_commit(g, NULL));
    assert_int_equal(0, counter(g)); /* every try was rolled back */
    assert_int_equal(1, engine_next_out(g, &out));
    assert_string_equal("coffer.v1.dead.verifier", out.subject);
    engine_close(g);
}

static void test_poison_goes_to_the_dead_letter_subject_and_leaves_no_mark(void **state)
{
    struct engine *g = reopen();
    struct outgoing out;
    struct err why = {0};

    (void)state;
    behaviour = DO_REFUSE;
    assert_int_equal(0, engine_begin(g, NULL));
    assert_int_equal(DISP_ACK, deliver(g, SUBJ_EVIDENCE_SUBMIT, "a", 1, "", &why));
    assert_int_equal(ERR_DENIED, why.code);
    assert_int_equal(0, engine_commit(g, NULL));
    assert_int_equal(0, counter(g));
    assert_int_equal(1, engine_next_out(g, &out));
    Coffer__V1__DeadLetter *d = coffer__v1__dead_letter__unpack(NULL, out.payload.n, out.payload.p);
    assert_non_null(d);
    assert_string_equal("coffer.v1.evidence.submit", d->subject);
    assert_string_equal("test.clause", d->reason->clause);
    assert_string_equal("this", d->reason->expected);
    assert_string_equal("that", d->reason->actual);
    assert_string_equal("verifier", d->reason->by);
    coffer__v1__dead_letter__free_unpacked(d, NULL);

    /* The true message with the same id is not taken for a duplicate of the poison. */
    behaviour = DO_COUNT;
    assert_int_equal(0, engine_begin(g, NULL));
    deliver(g, SUBJ_EVIDENCE_SUBMIT, "a", 1, "", NULL);
    assert_int_equal(0, engine_commit(g, NULL));
    assert_int_equal(1, counter(g));
    engine_close(g);
}

static void test_requests_are_answered(void **state)
{
    struct engine *g = reopen();
    struct outgoing out;

    (void)state;
    assert_int_equal(0, engine_begin(g, NULL));
    deliver(g, SUBJ_EVIDENCE_CHALLENGE, "", 1, "_INBOX_worker.x", NULL);
    behaviour = DO_REFUSE;
    deliver(g, SUBJ_EVIDENCE_CHALLENGE, "", 1, "_INBOX_worker.y", NULL);
    behaviour = DO_COUNT;
    deliver(g, SUBJ_EVIDENCE_CHALLENGE, "", 1, "coffer.v1.verdict.j1", NULL); /* not an inbox */
    deliver(g, SUBJ_EVIDENCE_CHALLENGE, "", 1, "_INBOX_worker.>", NULL);
    assert_int_equal(0, engine_commit(g, NULL));
    assert_int_equal(1, engine_next_out(g, &out));
    assert_string_equal("_INBOX_worker.x", out.subject);
    assert_int_equal(1, out.is_reply);
    assert_int_equal(1, engine_next_out(g, &out));
    assert_string_equal("_INBOX_worker.y", out.subject);
    Coffer__V1__Reply *r = coffer__v1__reply__unpack(NULL, out.payload.n, out.payload.p);
    assert_int_equal(COFFER__V1__REPLY__BODY_REFUSAL, r->body_case);
    assert_string_equal("denied", r->refusal->code);
    coffer__v1__reply__free_unpacked(r, NULL);
    assert_int_equal(0, engine_next_out(g, &out));
    engine_close(g);
}

static void test_caps_and_rights_are_kept(void **state)
{
    struct engine *g = reopen();
    size_t cap = subjects[SUBJ_EVIDENCE_SUBMIT].max_bytes;
    _cleanup_free_ uint8_t *big = xcalloc(1, cap + 1);
    struct msg m = {.subject = SUBJ_EVIDENCE_SUBMIT,
                    .key = "",
                    .payload = BYTES(big, cap + 1),
                    .msg_id = "big",
                    .reply_to = "",
                    .traceparent = "",
                    .deliveries = 1};
    enum disposition d;
    struct err why = {0};
    int delay;

    (void)state;
    assert_int_equal(0, engine_begin(g, NULL));
    assert_int_equal(0, engine_handle(g, &m, &d, &delay, &why, NULL));
    assert_int_equal(ERR_TOO_LARGE, why.code);
    assert_non_null(strstr(why.msg, "524289 bytes, the cap is 524288"));
    behaviour = DO_TOO_LARGE;
    deliver(g, SUBJ_EVIDENCE_SUBMIT, "b", 1, "", &why);
    assert_int_equal(ERR_TOO_LARGE, why.code);
    behaviour = DO_FOREIGN;
    deliver(g, SUBJ_EVIDENCE_SUBMIT, "c", 1, "", &why);
    assert_int_equal(ERR_INTERNAL, why.code);
    assert_non_null(strstr(why.msg, "verifier may not publish"));
    deliver(g, SUBJ_JOB_QUERY, "", 1, "", &why);
    assert_non_null(strstr(why.msg, "does not take"));
    assert_int_equal(0, engine_commit(g, NULL));
    assert_int_equal(0, counter(g));
    engine_close(g);
}

static void test_large_outbox_is_loaded_in_parts_and_in_order(void **state)
{
    struct engine *g = reopen();
    struct outgoing out;
    int64_t last = 0;
    int n = 0;

    (void)state;
    behaviour = DO_PUBLISH;
    assert_int_equal(0, engine_begin(g, NULL));
    for (int i = 0; i < 2500; i++) {
        char id[16];
        snprintf(id, sizeof(id), "%d", i);
        deliver(g, SUBJ_EVIDENCE_SUBMIT, id, 1, "", NULL);
    }
    assert_int_equal(0, engine_commit(g, NULL));
    engine_close(g);
    g = reopen();
    assert_int_equal(0, engine_requeue_outbox(g, 1, NULL));
    while (engine_next_out(g, &out)) {
        if (n == 500) { /* new rows while the backlog is still in the database */
            assert_int_equal(0, engine_begin(g, NULL));
            deliver(g, SUBJ_EVIDENCE_SUBMIT, "late", 1, "", NULL);
            assert_int_equal(0, engine_commit(g, NULL));
        } else {
            assert_true(out.outbox_id > last);
            last = out.outbox_id;
        }
        n++;
    }
    assert_int_equal(2501, n);
    engine_close(g);
}

static void test_newer_database_is_refused(void **state)
{
    struct engine *g = reopen();
    struct engine_opts o = {.db_path = db_path, .clock = test_clock};
    struct service_def older = def;
    struct err e = {0};

    (void)state;
    assert_true(resumed > 0);
    engine_close(g);
    older.n_migrations = 0;
    assert_int_equal(-1, engine_open(&older, &o, &g, &e));
    assert_int_equal(ERR_UNSUPPORTED, e.code);
    assert_non_null(strstr(e.msg, "newer release"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_effects_leave_only_after_commit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_duplicate_is_handled_once_even_after_a_restart, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_an_id_of_another_message_suppresses_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_inbox_forgets_only_after_a_whole_period, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_an_undone_turn_of_the_inbox_forgets_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_crash_before_commit_changes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_outbox_survives_a_crash_and_is_sent_again, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_outbox_is_pruned, setup, teardown),
        cmocka_unit_test_setup_teardown(test_transient_failure_comes_again_with_backoff_then_dies,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_poison_goes_to_the_dead_letter_subject_and_leaves_no_mark, setup, teardown),
        cmocka_unit_test_setup_teardown(test_requests_are_answered, setup, teardown),
        cmocka_unit_test_setup_teardown(test_caps_and_rights_are_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_outbox_is_loaded_in_parts_and_in_order, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_newer_database_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "svc-scheduler/sched_test.h"

static const Coffer__V1__Refusal *refusal_of(struct fix *f)
{
    Coffer__V1__Reply *r = fix_reply_of(f);

    assert_int_equal(r->body_case, COFFER__V1__REPLY__BODY_REFUSAL);
    return r->refusal;
}

/* ---- schedule -------------------------------------------------------------------------------- */

static void accepted_once(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    _cleanup_free_ char *jws = fix_spec(f, &WANT);

    (void)state;
    fix_send_jws(f, jws);
    Coffer__V1__JobAccepted *a = fix_reply_of(f)->job_accepted;
    assert_int_equal(a->duplicate, 0);
    assert_int_equal(strlen(a->digest), 64);
    char id[JOB_ID_LEN + 1];
    snprintf(id, sizeof(id), "%s", a->job);
    assert_string_equal(fix_last(f, SUBJ_JOB_EVENT)->key, id);
    assert_int_equal(strncmp(fix_last(f, SUBJ_JOB_EVENT)->msg_id + JOB_ID_LEN, ".e1", 4), 0);
    fix_forget(f);
    fix_send_jws(f, jws);
    a = fix_reply_of(f)->job_accepted;
    assert_string_equal(a->job, id);
    assert_int_equal(a->duplicate, 1);
    assert_int_equal(fix_count(f, SUBJ_JOB_EVENT), 0);
    fix_free(f);
}

static void bad_specs_are_refused(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    _cleanup_free_ char *jws = fix_spec(f, &WANT);

    (void)state;
    fix_send_jws(f, "not a jws");
    assert_true(refusal_of(f)->message[0]);
    assert_string_equal(refusal_of(f)->by, "scheduler");
    char *c = jws + strlen(jws) - 10;
    *c = *c == 'A' ? 'B' : 'A'; /* still base64url */
    fix_send_jws(f, jws);
    assert_string_equal(refusal_of(f)->code, "bad-signature");
    assert_int_equal(fix_count(f, SUBJ_JOB_EVENT), 0);
    assert_int_equal(fix_count(f, SUBJ_DEAD), 0); /* told, so dealt with */

    Coffer__V1__ScheduleJob m = COFFER__V1__SCHEDULE_JOB__INIT;
    _cleanup_free_ char *large = xmalloc(SPEC_JWS_MAX_BYTES + 2);
    memset(large, 'a', SPEC_JWS_MAX_BYTES + 1);
    large[SPEC_JWS_MAX_BYTES + 1] = '\0';
    m.spec_jws = large;
    fix_handle(f, SUBJ_JOB_SCHEDULE, "", &m.base, "");
    assert_string_equal(refusal_of(f)->message,
                        "spec_jws: expected at most 96 KiB, got 98305 bytes");
    fix_free(f);
}

static void anothers_job_is_not_taken_over(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    _cleanup_free_ char *jws = fix_spec(f, &WANT), *again = NULL;
    _cleanup_jkey_ struct jkey *other = NULL, *signer = NULL;
    _cleanup_spec_ struct spec *spec = NULL;
    struct err e;

    (void)state;
    fix_send_jws(f, jws);
    assert_int_equal(jkey_generate(&other, &e), 0);
    assert_int_equal(spec_verify(jws, &spec, &signer, &e), 0);
    assert_int_equal(spec_sign(spec, other, &again, &e), 0);
    fix_send_jws(f, again);
    assert_string_equal(refusal_of(f)->clause, "spec.signer");
    assert_string_equal(refusal_of(f)->code, "denied");
    fix_free(f);
}

static void the_queue_is_bounded(void **state)
{
    struct fix *f = fix_new(":memory:", "max-queued", "3", NULL);
    char id[JOB_ID_LEN + 1], first[JOB_ID_LEN + 1];

    (void)state;
    fix_schedule(f, &WANT, first);
    fix_schedule(f, &WANT, id);
    fix_schedule(f, &WANT, id);
    _cleanup_free_ char *jws = fix_spec(f, &WANT);
    fix_send_jws(f, jws);
    assert_string_equal(refusal_of(f)->code, "busy");
    assert_string_equal(refusal_of(f)->clause, "queue full");
    fix_cancel_by(f, f->consumer, first, f->now / 1000);
    f->now += 200;
    fix_send_jws(f, jws);
    assert_int_equal(fix_reply_of(f)->body_case, COFFER__V1__REPLY__BODY_JOB_ACCEPTED);
    fix_free(f);
}

/* ---- a run ----------------------------------------------------------------------------------- */

static void the_straight_way(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    char id[JOB_ID_LEN + 1], want[64];

    (void)state;
    fix_launching(f, &WANT, id);
    const struct sent *l = fix_last(f, SUBJ_CVM_LAUNCH);
    const Coffer__V1__LaunchCvm *launch = (const Coffer__V1__LaunchCvm *)l->m;
    assert_string_equal(l->key, "h1");
    snprintf(want, sizeof(want), "%s.1.launch", id);
    assert_string_equal(l->msg_id, want);
    assert_int_equal(launch->attempt, 1);
    assert_string_equal(launch->backend, "process");
    assert_int_equal(launch->deadline_ms, T0 + 3 * 60000 + 60000 + 30000 + 120000);
    fix_cvm(f, id, 1, "h1", CVM(BOOTED), "");
    assert_state(f, id, "booted");
    fix_cvm(f, id, 1, "h1", CVM(PHASE), "attest");
    fix_verdict(f, id, 1, 1);
    assert_state(f, id, "attested");
    fix_keys(f, id, 1, 1);
    assert_state(f, id, "running");
    fix_cvm(f, id, 1, "h1", CVM(PHASE), "run");
    fix_cvm(f, id, 1, "h1", CVM(PHASE), "run"); /* a phase is told once */
    fix_cvm(f, id, 1, "h1", CVM(PHASE), "rubbish");
    fix_cvm(f, id, 1, "h1", CVM(EXITED), "done");
    fix_cvm(f, id, 1, "h1", CVM(DESTROYED), "done");
    assert_state(f, id, "running");
    fix_decision(f, id, 1, GATE(RELEASED), 1);
    assert_state(f, id, "released");
    assert_int_equal(fix_count(f, SUBJ_CVM_DESTROY), 0); /* it was gone */
    /* accepted, launching, booted, attest, attested, running, run, result sent, released */
    assert_int_equal(fix_job(f, id).last_seq, 9);
    assert_int_equal(fix_count(f, SUBJ_JOB_EVENT), 9);
    fix_decision(f, id, 1, GATE(REJECTED), 2);
    assert_state(f, id, "released");
    assert_int_equal(fix_job(f, id).last_seq, 9);
    fix_free(f);
}

static void facts_overtake(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    char id[JOB_ID_LEN + 1];

    (void)state;
    fix_launching(f, &WANT, id);
    fix_forget(f);
    fix_decision(f, id, 1, GATE(HELD), 1);
    assert_state(f, id, "held");
    static const char *const order[] = {"booted", "attested", "running", "held"};
    size_t k = 0;
    for (size_t i = 0; i < f->n_sent; i++) {
        if (f->sent[i].subject == SUBJ_JOB_EVENT && !f->sent[i].is_reply) {
            assert_string_equal(((Coffer__V1__JobEvent *)f->sent[i].m)->state, order[k]);
            assert_int_equal(((Coffer__V1__JobEvent *)f->sent[i].m)->seq, 3 + k);
            k++;
        }
    }
    assert_int_equal(k, 4);
    assert_int_equal(fix_count(f, SUBJ_CVM_DESTROY), 1); /* a held result needs no CVM */
    fix_cvm(f, id, 1, "h1", CVM(BOOTED), "");
    fix_verdict(f, id, 1, 1);
    fix_keys(f, id, 1, 0);
    assert_state(f, id, "held");
    fix_pass(f, 3600 * 1000);
    assert_state(f, id, "held");
    fix_decision(f, id, 1, GATE(RELEASED), 2);
    assert_state(f, id, "released");
    fix_free(f);
}

/* DESIGN §1.7: that a preferred TEE was not had stands in the job and in each of its events from
 * then on; a job that got what it asked for says nothing of the kind. */
static void a_downgrade_is_recorded(void **state)
{
    static const struct {
        const char *types;
        int downgraded;
    } cases[] = {{"[\"tdx\"]", 1}, {"[\"sample\"]", 0}};

    (void)state;
    for (size_t c = 0; c < ARRAY_LEN(cases); c++) {
        struct fix *f = fix_new(":memory:", NULL);
        struct want want = {"preferred", cases[c].types, 1000, 2, 64 << 20};
        char id[JOB_ID_LEN + 1];

        fix_launching(f, &want, id);
        assert_int_equal(fix_job(f, id).downgraded, cases[c].downgraded);
        fix_cvm(f, id, 1, "h1", CVM(BOOTED), "");
        fix_decision(f, id, 1, GATE(RELEASED), 1);
        assert_state(f, id, "released");
        for (size_t i = 0; i < f->n_sent; i++) {
            const Coffer__V1__JobEvent *ev = (const Coffer__V1__JobEvent *)f->sent[i].m;
            if (f->sent[i].subject == SUBJ_JOB_EVENT && !f->sent[i].is_reply) {
                assert_int_equal(ev->downgraded, cases[c].downgraded && ev->attempt > 0);
            }
        }
        assert_int_equal(fix_job(f, id).downgraded, cases[c].downgraded);
        fix_free(f);
    }
}

static void refusals_end_it(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    char a[JOB_ID_LEN + 1], b[JOB_ID_LEN + 1], c[JOB_ID_LEN + 1];

    (void)state;
    fix_launching(f, &WANT, a);
    fix_verdict(f, a, 1, 0);
    assert_state(f, a, "refused");
    assert_string_equal(fix_job(f, a).reason.by, "verifier");
    assert_int_equal(fix_count(f, SUBJ_CVM_DESTROY), 1);
    fix_launching(f, &WANT, b);
    fix_verdict(f, b, 1, 1);
    fix_keys(f, b, 1, 0);
    assert_state(f, b, "refused");
    assert_string_equal(fix_job(f, b).reason.message, "no grant");
    /* The worker's exit may say it first. */
    fix_launching(f, &WANT, c);
    Coffer__V1__CvmEvent m = COFFER__V1__CVM_EVENT__INIT;
    Coffer__V1__Refusal r = COFFER__V1__REFUSAL__INIT;
    r.by = "kbs";
    r.message = "revoked\n\x01";
    m.job = c;
    m.attempt = 1;
    m.host = "h1";
    m.kind = CVM(EXITED);
    m.reason = &r;
    fix_handle(f, SUBJ_CVM_EVENT, c, &m.base, "");
    assert_state(f, c, "refused");
    assert_string_equal(fix_job(f, c).reason.message, "revoked??");
    fix_free(f);
}

static void exit_refused(struct fix *f, char *id, Coffer__V1__CvmEventKind kind)
{
    Coffer__V1__CvmEvent m = COFFER__V1__CVM_EVENT__INIT;
    Coffer__V1__Refusal r = COFFER__V1__REFUSAL__INIT;

    r.code = "denied";
    r.message = "as the worker heard it";
    m.job = id;
    m.attempt = 1;
    m.host = "h1";
    m.kind = kind;
    m.exit_code = 3;
    m.reason = &r;
    fix_handle(f, SUBJ_CVM_EVENT, id, &m.base, "");
}

static void a_refused_worker_may_end_before_the_refusal_comes(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    char a[JOB_ID_LEN + 1], b[JOB_ID_LEN + 1];

    (void)state;
    fix_launching(f, &WANT, a);
    fix_launching(f, &WANT, b);
    fix_verdict(f, a, 1, 1);
    fix_cvm(f, b, 1, "h1", CVM(BOOTED), "");
    exit_refused(f, a, CVM(EXITED));
    exit_refused(f, a, CVM(DESTROYED));
    exit_refused(f, b, CVM(EXITED));
    assert_state(f, a, "attested");
    fix_keys(f, a, 1, 0);
    assert_state(f, a, "refused");
    assert_string_equal(fix_job(f, a).reason.message, "no grant");
    f->now += 2999;
    fix_tick(f);
    assert_state(f, b, "booted");
    f->now += 1;
    fix_forget(f);
    fix_tick(f);
    assert_int_equal(fix_job(f, b).attempt, 2); /* none came: a failure like any other */
    const struct sent *x = NULL;
    for (size_t i = 0; i < f->n_sent; i++) {
        const Coffer__V1__JobEvent *ev = (const Coffer__V1__JobEvent *)f->sent[i].m;
        if (f->sent[i].subject == SUBJ_JOB_EVENT && streq(ev->state, "queued")) {
            assert_string_equal(ev->reason->message, "as the worker heard it");
            x = &f->sent[i];
        }
    }
    assert_non_null(x);
    fix_free(f);
}

static void retries_are_fenced(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    char id[JOB_ID_LEN + 1];

    (void)state;
    fix_launching(f, &WANT, id);
    fix_cvm(f, id, 1, "h1", CVM(BOOTED), "");
    fix_report(f, "h2", 1, "process:sample");
    fix_forget(f);
    fix_cvm(f, id, 1, "h1", CVM(EXITED), "");
    assert_state(f, id, "queued");
    assert_string_equal(fix_last(f, SUBJ_CVM_DESTROY)->key, "h1");
    fix_tick(f);
    assert_state(f, id, "launching");
    assert_string_equal(fix_last(f, SUBJ_CVM_LAUNCH)->key, "h2"); /* elsewhere */
    assert_int_equal(fix_job(f, id).attempt, 2);
    int64_t seq = fix_job(f, id).last_seq;
    fix_decision(f, id, 1, GATE(RELEASED), 1);
    fix_verdict(f, id, 1, 0);
    fix_keys(f, id, 1, 1);
    fix_cvm(f, id, 1, "h1", CVM(DESTROYED), "");
    assert_state(f, id, "launching");
    assert_int_equal(fix_job(f, id).last_seq, seq);
    fix_cvm(f, id, 2, "h2", CVM(LAUNCH_FAILED), "");
    assert_state(f, id, "failed"); /* two attempts are all */
    assert_string_equal(fix_job(f, id).reason.message,
                        "cvm: expected a result, got launch failed on host h2, exit code 0");
    fix_free(f);
}

/* The host was only cut off: while no newer attempt exists the result counts. */
static void a_decision_after_the_attempt_was_given_up(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    char id[JOB_ID_LEN + 1];

    (void)state;
    fix_launching(f, &WANT, id);
    fix_pass(f, 20000);
    assert_state(f, id, "queued");
    fix_decision(f, id, 1, GATE(RELEASED), 1);
    assert_state(f, id, "released");
    fix_free(f);
}

static void wrong_facts_change_nothing(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    char id[JOB_ID_LEN + 1];

    (void)state;
    fix_launching(f, &WANT, id);
    fix_verdict(f, id, 2, 1);
    assert_string_equal(f->why.msg, "attempt: expected an attempt that was launched, got 2 of 1");
    fix_verdict(f, id, 0, 1);
    assert_int_equal(f->why.code, ERR_INVALID);
    assert_true(fix_count(f, SUBJ_DEAD) > 0);
    fix_cvm(f, id, 1, "h2", CVM(DESTROYED), "");
    assert_string_equal(f->why.msg,
                        "host: expected the host that the attempt was placed on, got \"h2\"");
    fix_cvm(f, id, 1, "h1", CVM(UNKNOWN), "");
    assert_string_equal(f->why.clause, "kind");
    fix_decision(f, id, 1, GATE(UNKNOWN), 1);
    assert_string_equal(f->why.clause, "outcome");
    fix_verdict(f, "jaaaaaaaaaaaaaaaaaaaaaaaaaa", 1, 1);
    assert_int_equal(f->why.code, ERR_NOT_FOUND);
    Coffer__V1__Verdict v = COFFER__V1__VERDICT__INIT;
    v.job = id;
    v.attempt = 1;
    fix_handle(f, SUBJ_VERDICT, id, &v.base, "");
    assert_string_equal(f->why.msg,
                        "coffer.v1.verdict: expected a token or a refusal, got neither");
    v.ear = "e.a.r";
    fix_handle(f, SUBJ_VERDICT, "jaaaaaaaaaaaaaaaaaaaaaaaaaa", &v.base, "");
    assert_string_equal(f->why.clause, "job");
    assert_state(f, id, "launching");
    fix_free(f);
}

/* ---- time ------------------------------------------------------------------------------------ */

static void stage_deadlines(void **state)
{
    struct fix *f = fix_new(":memory:", "host-timeout-ms", "100000000", NULL);
    char id[JOB_ID_LEN + 1];

    (void)state;
    fix_launching(f, &WANT, id);
    f->now += 59999;
    fix_tick(f);
    assert_int_equal(fix_job(f, id).attempt, 1);
    f->now += 1;
    fix_tick(f);
    assert_state(f, id, "launching");
    assert_int_equal(fix_job(f, id).attempt, 2);
    fix_cvm(f, id, 2, "h1", CVM(BOOTED), "");
    f->now += 60000;
    fix_tick(f);
    assert_state(f, id, "failed");
    assert_string_equal(
        fix_job(f, id).reason.message,
        "attest-timeout-ms: expected the next stage in time, got still booted after "
        "60000 ms on host h1");
    fix_launching(f, &WANT, id);
    fix_keys(f, id, 1, 1);
    f->now += 60000 + 30000 + 120000;
    fix_tick(f);
    assert_state(f, id, "timed-out");
    fix_launching(f, &WANT, id);
    fix_cvm(f, id, 1, "h1", CVM(EXITED), "done");
    f->now += 899999;
    fix_tick(f);
    assert_state(f, id, "running");
    f->now += 1;
    fix_tick(f);
    assert_state(f, id, "timed-out");
    fix_free(f);
}

static void held_has_a_deadline(void **state)
{
    struct fix *f = fix_new(":memory:", "host-timeout-ms", "600000000", NULL);
    char id[JOB_ID_LEN + 1];

    (void)state;
    fix_launching(f, &WANT, id);
    fix_decision(f, id, 1, GATE(HELD), 1);
    f->now += 8ll * 86400000 - 1;
    fix_tick(f);
    assert_state(f, id, "held");
    f->now += 1;
    fix_tick(f);
    assert_state(f, id, "timed-out");
    assert_string_equal(fix_job(f, id).reason.message,
                        "held-timeout-ms: expected a review, or the gate's own end to it, got "
                        "neither within 691200000 ms");
    fix_free(f);
}

static void the_queue_has_a_deadline(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    struct want w = WANT;
    char id[JOB_ID_LEN + 1];

    (void)state;
    w.types = "[\"tdx\"]";
    fix_report(f, "h1", 4, "process:sample");
    fix_schedule(f, &w, id);
    f->now += 599999;
    fix_report(f, "h1", 4, "process:sample");
    fix_tick(f);
    assert_state(f, id, "queued");
    f->now += 1;
    fix_tick(f);
    assert_state(f, id, "timed-out");
    assert_string_equal(
        fix_job(f, id).reason.message,
        "not placed within 600000 ms: tee: expected tdx, got no such backend on 1 hosts");
    fix_free(f);
}

static void a_silent_host_is_lost(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    char id[JOB_ID_LEN + 1];

    (void)state;
    fix_launching(f, &WANT, id);
    f->now += 14999;
    fix_report(f, "h2", 4, "process:sample");
    fix_tick(f);
    assert_int_equal(fix_job(f, id).attempt, 1);
    fix_forget(f);
    f->now += 1;
    fix_tick(f);
    assert_state(f, id, "launching");
    assert_string_equal(fix_job(f, id).host, "h2");
    assert_int_equal(fix_job(f, id).attempt, 2);
    assert_string_equal(fix_last(f, SUBJ_CVM_DESTROY)->key, "h1");
    /* Back again: the DestroyCvm is repeated at once. */
    fix_forget(f);
    f->now += 1000;
    fix_report(f, "h1", 4, "process:sample");
    fix_tick(f);
    assert_non_null(fix_last(f, SUBJ_CVM_DESTROY));
    assert_true(strstr(fix_last(f, SUBJ_CVM_DESTROY)->msg_id, ".1.destroy.2") != NULL);
    fix_free(f);
}

static void destroy_is_repeated_until_it_is_true(void **state)
{
    struct fix *f = fix_new(":memory:", "host-timeout-ms", "100000000", NULL);
    char id[JOB_ID_LEN + 1];

    (void)state;
    fix_launching(f, &WANT, id);
    fix_forget(f);
    fix_cancel_by(f, f->consumer, id, f->now / 1000);
    assert_state(f, id, "cancelled");
    assert_int_equal(fix_count(f, SUBJ_CVM_DESTROY), 1);
    fix_pass(f, 4999);
    assert_int_equal(fix_count(f, SUBJ_CVM_DESTROY), 1);
    fix_pass(f, 1);
    assert_int_equal(fix_count(f, SUBJ_CVM_DESTROY), 2);
    fix_pass(f, 10000);
    assert_int_equal(fix_count(f, SUBJ_CVM_DESTROY), 3);
    fix_cvm(f, id, 1, "h1", CVM(DESTROYED), "");
    fix_pass(f, 3600 * 1000);
    assert_int_equal(fix_count(f, SUBJ_CVM_DESTROY), 3);
    fix_free(f);
}

static void a_host_that_never_comes_back(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    struct want w = WANT;
    char id[JOB_ID_LEN + 1];

    (void)state;
    w.attempts = 1;
    fix_launching(f, &w, id);
    fix_pass(f, 20000);
    assert_state(f, id, "failed");
    fix_pass(f, 3600 * 1000);
    fix_forget(f);
    fix_pass(f, 3600 * 1000);
    assert_int_equal(fix_count(f, SUBJ_CVM_DESTROY), 0); /* written off */
    fix_free(f);
}

static void a_restart_judges_nobody_before_reading_the_facts(void **state)
{
    char path[] = "/tmp/coffer-sched-XXXXXX";
    char id[JOB_ID_LEN + 1], db[64];
    (void)state;
    assert_non_null(mkdtemp(path));
    snprintf(db, sizeof(db), "%s/db", path);
    struct fix *f = fix_new(db, NULL);
    fix_launching(f, &WANT, id);
    engine_close(f->g);
    f->now += 120000;
    fix_open(f);
    fix_tick(f);
    assert_state(f, id, "launching");
    fix_cvm(f, id, 1, "h1", CVM(BOOTED), "");
    assert_state(f, id, "booted");
    fix_free(f);
    char *cmd = xasprintf("rm -rf '%s'", path);
    assert_int_equal(system(cmd), 0);
    free(cmd);
}

/* ---- cancel ---------------------------------------------------------------------------------- */

static void cancel_is_the_consumers(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    _cleanup_jkey_ struct jkey *other = NULL;
    char id[JOB_ID_LEN + 1];
    struct err e;

    (void)state;
    assert_int_equal(jkey_generate(&other, &e), 0);
    fix_schedule(f, &WANT, id);
    fix_cancel_by(f, other, id, f->now / 1000);
    assert_string_equal(refusal_of(f)->clause, "cancel.signer");
    fix_cancel_by(f, f->consumer, id, f->now / 1000 - 301);
    assert_string_equal(refusal_of(f)->message, "cancel.iat: expected within 5 minutes of the "
                                                "scheduler's clock, got -301 s away");
    fix_cancel_by(f, f->consumer, id, f->now / 1000 + 301);
    assert_string_equal(refusal_of(f)->code, "expired");
    fix_cancel_by(f, f->consumer, "jaaaaaaaaaaaaaaaaaaaaaaaaaa", f->now / 1000);
    assert_string_equal(refusal_of(f)->code, "not-found");
    fix_cancel_by(f, f->consumer, "bad", f->now / 1000);
    assert_string_equal(refusal_of(f)->clause, "cancel.job");
    assert_state(f, id, "queued");
    fix_cancel_by(f, f->consumer, id, f->now / 1000 - 299);
    assert_string_equal(fix_reply_of(f)->job_cancelled->state, "cancelled");
    fix_cancel_by(f, f->consumer, id, f->now / 1000); /* again: as it is */
    assert_string_equal(fix_reply_of(f)->job_cancelled->state, "cancelled");
    assert_int_equal(fix_job(f, id).last_seq, 2);
    fix_free(f);
}

/* ---- queries --------------------------------------------------------------------------------- */

static Coffer__V1__QueryReply *query(struct fix *f, Coffer__V1__JobQuery *q)
{
    fix_handle(f, SUBJ_JOB_QUERY, "", &q->base, "");
    Coffer__V1__Reply *r = fix_reply_of(f);
    return r->body_case == COFFER__V1__REPLY__BODY_QUERY ? r->query : NULL;
}

static void queries(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    Coffer__V1__JobQuery q = COFFER__V1__JOB_QUERY__INIT;
    Coffer__V1__ListJobs l = COFFER__V1__LIST_JOBS__INIT;
    Coffer__V1__JobEventsFrom from = COFFER__V1__JOB_EVENTS_FROM__INIT;
    char id[3][JOB_ID_LEN + 1];

    (void)state;
    for (int i = 0; i < 3; i++) {
        fix_schedule(f, &WANT, id[i]);
    }
    fix_report(f, "h1", 1, "process:sample");
    fix_tick(f);
    q.what_case = COFFER__V1__JOB_QUERY__WHAT_LIST;
    q.list = &l;
    assert_int_equal(query(f, &q)->n_jobs, 3);
    assert_string_equal(query(f, &q)->jobs[0]->job, id[2]); /* newest first */
    l.state = "launching";
    assert_int_equal(query(f, &q)->n_jobs, 1);
    assert_string_equal(query(f, &q)->jobs[0]->host, "h1");
    l.consumer = (char *)jkey_thumbprint(f->consumer);
    assert_int_equal(query(f, &q)->n_jobs, 1);
    l.state = "";
    l.limit = 2;
    assert_int_equal(query(f, &q)->n_jobs, 2);
    l.consumer = "nobody";
    assert_int_equal(query(f, &q)->n_jobs, 0);
    l.limit = 501;
    assert_null(query(f, &q));
    assert_string_equal(refusal_of(f)->message,
                        "list.limit: expected 1..500, or 0 for 50, got 501");
    l.limit = 0;
    l.state = "lost";
    assert_null(query(f, &q));
    assert_string_equal(refusal_of(f)->clause, "list.state");

    q.what_case = COFFER__V1__JOB_QUERY__WHAT_STATUS;
    q.status = id[0];
    assert_string_equal(query(f, &q)->jobs[0]->state, "launching");
    assert_null(query(f, &q)->jobs[0]->reason);
    q.status = "jaaaaaaaaaaaaaaaaaaaaaaaaaa";
    assert_null(query(f, &q));
    assert_string_equal(refusal_of(f)->code, "not-found");

    q.what_case = COFFER__V1__JOB_QUERY__WHAT_EVENTS;
    q.events = &from;
    from.job = id[0];
    assert_int_equal(query(f, &q)->n_events, 2);
    from.from_seq = 2;
    assert_int_equal(query(f, &q)->n_events, 1);
    assert_string_equal(query(f, &q)->events[0]->state, "launching");
    from.from_seq = UINT64_MAX;
    assert_null(query(f, &q));

    q.what_case = COFFER__V1__JOB_QUERY__WHAT_HOSTS;
    q.hosts = 1;
    assert_int_equal(query(f, &q)->n_hosts, 1);
    assert_int_equal(query(f, &q)->hosts[0]->placed, 1);
    assert_int_equal(query(f, &q)->hosts[0]->alive, 1);
    q.what_case = COFFER__V1__JOB_QUERY__WHAT__NOT_SET;
    assert_null(query(f, &q));
    assert_string_equal(refusal_of(f)->clause, "query");
    fix_free(f);
}

static void reports_are_checked(void **state)
{
    struct fix *f = fix_new(":memory:", "max-hosts", "2", NULL);
    Coffer__V1__HostReport r = COFFER__V1__HOST_REPORT__INIT;

    (void)state;
    fix_report(f, "h1", 5000, "process:sample");
    assert_string_equal(f->why.msg, "slots: expected at most 4096, got 5000");
    fix_report(f, "h1", 1, "Process:sample");
    assert_string_equal(f->why.clause, "backends");
    r.host = "h2";
    fix_handle(f, SUBJ_HOST_REPORT, "h1", &r.base, "");
    assert_string_equal(f->why.clause, "host");
    fix_report(f, "h1", 1, "process:sample");
    fix_report(f, "h2", 1, "process:sample");
    assert_int_equal(f->why.code, ERR_NONE);
    fix_report(f, "h3", 1, "process:sample");
    assert_string_equal(f->why.clause, "hosts");
    fix_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepted_once),
        cmocka_unit_test(bad_specs_are_refused),
        cmocka_unit_test(anothers_job_is_not_taken_over),
        cmocka_unit_test(the_queue_is_bounded),
        cmocka_unit_test(the_straight_way),
        cmocka_unit_test(facts_overtake),
        cmocka_unit_test(a_downgrade_is_recorded),
        cmocka_unit_test(refusals_end_it),
        cmocka_unit_test(a_refused_worker_may_end_before_the_refusal_comes),
        cmocka_unit_test(retries_are_fenced),
        cmocka_unit_test(a_decision_after_the_attempt_was_given_up),
        cmocka_unit_test(wrong_facts_change_nothing),
        cmocka_unit_test(stage_deadlines),
        cmocka_unit_test(held_has_a_deadline),
        cmocka_unit_test(the_queue_has_a_deadline),
        cmocka_unit_test(a_silent_host_is_lost),
        cmocka_unit_test(destroy_is_repeated_until_it_is_true),
        cmocka_unit_test(a_host_that_never_comes_back),
        cmocka_unit_test(a_restart_judges_nobody_before_reading_the_facts),
        cmocka_unit_test(cancel_is_the_consumers),
        cmocka_unit_test(queries),
        cmocka_unit_test(reports_are_checked),
    };
    return cmocka_run_group_tests_name("scheduler handlers", tests, NULL, NULL);
}

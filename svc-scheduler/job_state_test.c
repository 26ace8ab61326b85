#include "svc-scheduler/sched_test.h"

/* ---- the table, pair by pair ----------------------------------------------------------------- */

#define X(id, name) name,
static const char *const names[JOB_STATE_N] = {JOB_STATES(X)};
#undef X

/* docs/PROTOCOL.md written once more, by cause: for the states queued, launching, booted, attested,
 * running, held. "-": nothing, "retry", or a state. Terminal states ignore everything. */
static const char *const wanted[CAUSE_N][6] = {
    [CAUSE_PLACED] = {"launching", "-", "-", "-", "-", "-"},
    [CAUSE_BOOTED] = {"-", "booted", "-", "-", "-", "-"},
    [CAUSE_VERDICT] = {"-", "attested", "attested", "-", "-", "-"},
    [CAUSE_VERDICT_REFUSED] = {"-", "refused", "refused", "-", "-", "-"},
    [CAUSE_KEYS] = {"-", "running", "running", "running", "-", "-"},
    [CAUSE_KEYS_REFUSED] = {"-", "refused", "refused", "refused", "-", "-"},
    [CAUSE_RESULT_SENT] = {"-", "running", "running", "running", "-", "-"},
    [CAUSE_GATE_RELEASED] = {"released", "released", "released", "released", "released",
                             "released"},
    [CAUSE_GATE_HELD] = {"held", "held", "held", "held", "held", "-"},
    [CAUSE_GATE_REJECTED] = {"rejected", "rejected", "rejected", "rejected", "rejected",
                             "rejected"},
    [CAUSE_GATE_FAILED] = {"failed", "failed", "failed", "failed", "failed", "failed"},
    [CAUSE_LAUNCH_FAILED] = {"-", "retry", "retry", "retry", "retry", "-"},
    [CAUSE_EXITED] = {"-", "retry", "retry", "retry", "retry", "-"},
    [CAUSE_LOST] = {"-", "retry", "retry", "retry", "retry", "-"},
    [CAUSE_DEADLINE] = {"timed-out", "retry", "retry", "retry", "timed-out", "timed-out"},
    [CAUSE_CANCEL] = {"cancelled", "cancelled", "cancelled", "cancelled", "cancelled", "cancelled"},
};

static void every_pair(void **state)
{
    (void)state;
    for (int c = 0; c < CAUSE_N; c++) {
        for (int s = 0; s < JOB_STATE_N; s++) {
            uint8_t got = job_next((enum job_state)s, (enum job_cause)c);
            const char *want = s < 6 ? wanted[c][s] : "-";
            const char *found = got == NEXT_STAY    ? "-"
                                : got == NEXT_RETRY ? "retry"
                                                    : names[got - 2];
            if (!streq(found, want)) {
                fail_msg("%s, cause %d: %s, expected %s", names[s], c, found, want);
            }
        }
    }
}

static void names_and_back(void **state)
{
    enum job_state s;

    (void)state;
    for (int i = 0; i < JOB_STATE_N; i++) {
        assert_int_equal(job_state_parse(names[i], &s), 0);
        assert_int_equal((int)s, i);
        assert_int_equal(job_state_terminal(s), i >= JOB_RELEASED);
    }
    assert_int_equal(job_state_parse("QUEUED", &s), -1);
    assert_int_equal(job_state_parse("", &s), -1);
    assert_string_equal(job_state_name(JOB_STATE_N), "unknown");
}

/* ---- random histories ------------------------------------------------------------------------ */

#define MAX_JOBS 6
#define MAX_ATTEMPTS 16

struct history {
    char id[JOB_ID_LEN + 1];
    uint64_t seq;
    unsigned attempt; /* highest seen in an event */
    int terminals;
    struct {
        int launched,
            destroyed; /* LaunchCvm and DestroyCvm sent, or the launcher said it is gone */
        char host[80];
    } a[MAX_ATTEMPTS];
};

struct world {
    struct fix *f;
    struct history h[MAX_JOBS];
    size_t n;
    uint64_t rng;
};

static unsigned rnd(struct world *w, unsigned n)
{
    w->rng ^= w->rng << 13;
    w->rng ^= w->rng >> 7;
    w->rng ^= w->rng << 17;
    return (unsigned)((w->rng >> 11) % n);
}

static struct history *history_of(struct world *w, const char *id)
{
    for (size_t i = 0; i < w->n; i++) {
        if (streq(w->h[i].id, id)) {
            return &w->h[i];
        }
    }
    return NULL;
}

static void check_event(struct world *w, const Coffer__V1__JobEvent *ev)
{
    struct history *h = history_of(w, ev->job);

    if (!h) {
        h = &w->h[w->n++];
        snprintf(h->id, sizeof(h->id), "%s", ev->job);
    }
    assert_int_equal(ev->seq, h->seq + 1);
    h->seq = ev->seq;
    assert_int_equal(h->terminals, 0); /* nothing after the end */
    assert_true(ev->attempt >= h->attempt);
    h->attempt = ev->attempt;
    h->terminals += ev->terminal;
}

static void check_sent(struct world *w)
{
    for (size_t i = 0; i < w->f->n_sent; i++) {
        const struct sent *x = &w->f->sent[i];
        if (x->is_reply) {
            continue;
        }
        if (x->subject == SUBJ_JOB_EVENT) {
            check_event(w, (const Coffer__V1__JobEvent *)x->m);
        } else if (x->subject == SUBJ_CVM_LAUNCH) {
            const Coffer__V1__LaunchCvm *l = (const Coffer__V1__LaunchCvm *)x->m;
            struct history *h = history_of(w, l->job);
            assert_true(h && l->attempt >= 1 && l->attempt < MAX_ATTEMPTS);
            assert_false(h->a[l->attempt].launched);
            assert_true(l->attempt == 1 || h->a[l->attempt - 1].destroyed);
            assert_true(strlen(l->spec_jws) > 100);
            h->a[l->attempt].launched = 1;
            snprintf(h->a[l->attempt].host, sizeof(h->a[0].host), "%s", x->key);
        } else if (x->subject == SUBJ_CVM_DESTROY) {
            const Coffer__V1__DestroyCvm *d = (const Coffer__V1__DestroyCvm *)x->m;
            struct history *h = history_of(w, d->job);
            assert_true(h && h->a[d->attempt].launched);
            assert_string_equal(h->a[d->attempt].host, x->key);
            h->a[d->attempt].destroyed = 1;
        }
    }
    fix_forget(w->f);
}

static void random_cvm(struct world *w, struct history *h, unsigned attempt)
{
    static const char *const details[] = {"", "done", "attest", "run", "nonsense"};
    Coffer__V1__CvmEventKind kind = (Coffer__V1__CvmEventKind)rnd(w, 8);
    const char *host = h->a[attempt].launched ? h->a[attempt].host : "h1";

    if (rnd(w, 10) == 0) {
        host = "h2";
    }
    if (h->a[attempt].launched && streq(host, h->a[attempt].host) &&
        (kind == CVM(LOST) || kind == CVM(DESTROYED) || kind == CVM(LAUNCH_FAILED))) {
        h->a[attempt].destroyed = 1; /* what the launcher says */
    }
    fix_cvm(w->f, h->id, attempt, host, kind, details[rnd(w, 5)]);
}

static void random_fact(struct world *w)
{
    struct history *h = &w->h[rnd(w, (unsigned)w->n)];
    unsigned latest = (unsigned)fix_job(w->f, h->id).attempt;
    unsigned attempt = rnd(w, 4) ? latest : rnd(w, 4);

    switch (rnd(w, 10)) {
    case 0:
    case 1:
    case 2:
    case 3:
        random_cvm(w, h, attempt);
        break;
    case 4:
        fix_verdict(w->f, h->id, attempt, rnd(w, 5) != 0);
        break;
    case 5:
        fix_keys(w->f, h->id, attempt, rnd(w, 5) != 0);
        break;
    case 6:
        fix_decision(w->f, h->id, attempt, (Coffer__V1__GateOutcome)rnd(w, 6), rnd(w, 3));
        break;
    case 7:
        if (rnd(w, 4) == 0) {
            fix_cancel_by(w->f, w->f->consumer, h->id, w->f->now / 1000);
        }
        break;
    default:
        fix_cvm(w->f, h->id, attempt, h->a[attempt].launched ? h->a[attempt].host : "h1",
                CVM(BOOTED), "");
        break;
    }
}

static void random_step(struct world *w)
{
    struct want want = WANT;
    char id[JOB_ID_LEN + 1];
    struct err e;

    switch (rnd(w, 8)) {
    case 0:
        if (w->n < MAX_JOBS) {
            want.attempts = 1 + (int)rnd(w, 3);
            fix_schedule(w->f, &want, id);
        }
        break;
    case 1:
        fix_report(w->f, rnd(w, 2) ? "h1" : "h3", 1 + rnd(w, 3), "process:sample");
        break;
    case 2:
        w->f->now += rnd(w, 4) ? rnd(w, 2000) : rnd(w, 70000);
        fix_tick(w->f);
        break;
    case 3: /* a crash loses the transaction that runs */
        if (w->n && rnd(w, 4) == 0) {
            assert_int_equal(engine_begin(w->f->g, &e), 0);
            assert_int_equal(engine_tick(w->f->g, &e), 0);
            engine_rollback(w->f->g);
        }
        break;
    default:
        if (w->n) {
            random_fact(w);
        }
        break;
    }
    fix_tick(w->f);
    check_sent(w);
}

/* From here on the world is kind: hosts report, destroyed is answered, and held is reviewed. */
static void settle(struct world *w)
{
    for (int i = 0; i < 400; i++) {
        int open = 0;
        fix_report(w->f, "h1", 4, "process:sample");
        fix_tick(w->f);
        check_sent(w);
        for (size_t k = 0; k < w->n; k++) {
            struct history *h = &w->h[k];
            open += h->terminals == 0;
            if (fix_job(w->f, h->id).state == JOB_HELD) {
                fix_decision(w->f, h->id, h->attempt, GATE(REJECTED), 9);
            }
        }
        check_sent(w);
        if (!open) {
            return;
        }
        w->f->now += 10000;
        fix_tick(w->f);
        check_sent(w);
    }
    fail_msg("a job never ends");
}

static void random_histories(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 300; seed++) {
        struct world *w = xcalloc(1, sizeof(*w));
        w->rng = seed * 0x9e3779b97f4a7c15ull;
        w->f = fix_new(":memory:", NULL);
        for (int i = 0; i < 120; i++) {
            random_step(w);
        }
        settle(w);
        for (size_t i = 0; i < w->n; i++) {
            assert_int_equal(w->h[i].terminals, 1);
            for (unsigned a = 1; a < MAX_ATTEMPTS; a++) {
                assert_int_equal(w->h[i].a[a].launched,
                                 w->h[i].a[a].launched & w->h[i].a[a].destroyed);
            }
        }
        fix_free(w->f);
        free(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair),
        cmocka_unit_test(names_and_back),
        cmocka_unit_test(random_histories),
    };
    return cmocka_run_group_tests_name("scheduler states", tests, NULL, NULL);
}

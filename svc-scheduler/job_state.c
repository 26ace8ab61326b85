#include "svc-scheduler/scheduler.h"

/* The job's states as one table, and the one function that changes a state. */

#define X(id, name) [JOB_##id] = name,
static const char *const state_names[JOB_STATE_N] = {JOB_STATES(X)};
#undef X

#define TO(s) NEXT_TO(JOB_##s)

/* Every way on from a stage in which the attempt's CVM is needed. */
#define STAGE                                                                                      \
    [CAUSE_GATE_RELEASED] = TO(RELEASED), [CAUSE_GATE_HELD] = TO(HELD),                            \
    [CAUSE_GATE_REJECTED] = TO(REJECTED), [CAUSE_GATE_FAILED] = TO(FAILED),                        \
    [CAUSE_LAUNCH_FAILED] = NEXT_RETRY, [CAUSE_EXITED] = NEXT_RETRY, [CAUSE_LOST] = NEXT_RETRY,    \
    [CAUSE_CANCEL] = TO(CANCELLED)

static const uint8_t next[JOB_STATE_N][CAUSE_N] = {
    /* A queued job that had an attempt may still get that attempt's decision: its host was only
     * cut off. No newer attempt exists, so it counts. */
    [JOB_QUEUED] = {[CAUSE_PLACED] = TO(LAUNCHING),
                    [CAUSE_GATE_RELEASED] = TO(RELEASED),
                    [CAUSE_GATE_HELD] = TO(HELD),
                    [CAUSE_GATE_REJECTED] = TO(REJECTED),
                    [CAUSE_GATE_FAILED] = TO(FAILED),
                    [CAUSE_DEADLINE] = TO(TIMED_OUT),
                    [CAUSE_CANCEL] = TO(CANCELLED)},
    [JOB_LAUNCHING] = {STAGE, [CAUSE_BOOTED] = TO(BOOTED), [CAUSE_VERDICT] = TO(ATTESTED),
                       [CAUSE_VERDICT_REFUSED] = TO(REFUSED), [CAUSE_KEYS] = TO(RUNNING),
                       [CAUSE_KEYS_REFUSED] = TO(REFUSED), [CAUSE_RESULT_SENT] = TO(RUNNING),
                       [CAUSE_DEADLINE] = NEXT_RETRY},
    [JOB_BOOTED] = {STAGE, [CAUSE_VERDICT] = TO(ATTESTED), [CAUSE_VERDICT_REFUSED] = TO(REFUSED),
                    [CAUSE_KEYS] = TO(RUNNING), [CAUSE_KEYS_REFUSED] = TO(REFUSED),
                    [CAUSE_RESULT_SENT] = TO(RUNNING), [CAUSE_DEADLINE] = NEXT_RETRY},
    /* A refusal of other evidence does not undo a verdict that the KBS may act on. */
    [JOB_ATTESTED] = {STAGE, [CAUSE_KEYS] = TO(RUNNING), [CAUSE_KEYS_REFUSED] = TO(REFUSED),
                      [CAUSE_RESULT_SENT] = TO(RUNNING), [CAUSE_DEADLINE] = NEXT_RETRY},
    [JOB_RUNNING] = {STAGE, [CAUSE_DEADLINE] = TO(TIMED_OUT)},
    [JOB_HELD] = {[CAUSE_GATE_RELEASED] = TO(RELEASED),
                  [CAUSE_GATE_REJECTED] = TO(REJECTED),
                  [CAUSE_GATE_FAILED] = TO(FAILED),
                  [CAUSE_DEADLINE] = TO(TIMED_OUT),
                  [CAUSE_CANCEL] = TO(CANCELLED)},
    /* The rest is terminal: no entry, no change. */
};

/* The stage that an attempt must have reached for a fact to exist, whatever has been heard of it.
 */
static const enum job_state proves[CAUSE_N] = {
    [CAUSE_BOOTED] = JOB_BOOTED,          [CAUSE_VERDICT] = JOB_ATTESTED,
    [CAUSE_VERDICT_REFUSED] = JOB_BOOTED, [CAUSE_KEYS] = JOB_RUNNING,
    [CAUSE_KEYS_REFUSED] = JOB_ATTESTED,  [CAUSE_RESULT_SENT] = JOB_RUNNING,
    [CAUSE_GATE_RELEASED] = JOB_RUNNING,  [CAUSE_GATE_HELD] = JOB_RUNNING,
    [CAUSE_GATE_REJECTED] = JOB_RUNNING,  [CAUSE_GATE_FAILED] = JOB_RUNNING,
};

const char *job_state_name(enum job_state s)
{
    return (unsigned)s < JOB_STATE_N ? state_names[s] : "unknown";
}

int job_state_parse(const char *name, enum job_state *ret)
{
    for (int i = 0; i < JOB_STATE_N; i++) {
        if (streq(state_names[i], name)) {
            *ret = (enum job_state)i;
            return 0;
        }
    }
    return -1;
}

int job_state_terminal(enum job_state s)
{
    return s >= JOB_RELEASED;
}

uint8_t job_next(enum job_state s, enum job_cause c)
{
    return next[s][c];
}

static int in_stage(enum job_state s)
{
    return s >= JOB_LAUNCHING && s <= JOB_RUNNING;
}

/* ---- reasons --------------------------------------------------------------------------------- */

void text_clean(char *out, size_t size, const char *in)
{
    size_t n = 0;

    for (; in && in[n] && n + 1 < size; n++) {
        out[n] = in[n] >= 0x20 && in[n] < 0x7f ? in[n] : '?';
    }
    out[n] = '\0';
}

void reason_from_err(struct reason *ret, const struct err *why)
{
    Coffer__V1__Refusal r = COFFER__V1__REFUSAL__INIT;

    refusal_from_err(&r, why, SVC_SCHEDULER);
    reason_from_refusal(ret, &r);
}

void reason_from_refusal(struct reason *ret, const Coffer__V1__Refusal *r)
{
    text_clean(ret->code, sizeof(ret->code), r->code);
    text_clean(ret->clause, sizeof(ret->clause), r->clause);
    text_clean(ret->expected, sizeof(ret->expected), r->expected);
    text_clean(ret->actual, sizeof(ret->actual), r->actual);
    text_clean(ret->message, sizeof(ret->message), r->message);
    text_clean(ret->by, sizeof(ret->by), r->by);
}

void reason_fill(Coffer__V1__Refusal *ret, const struct reason *why)
{
    coffer__v1__refusal__init(ret);
    ret->code = (char *)why->code;
    ret->clause = (char *)why->clause;
    ret->expected = (char *)why->expected;
    ret->actual = (char *)why->actual;
    ret->message = (char *)why->message;
    ret->by = (char *)why->by;
}

/* ---- events ---------------------------------------------------------------------------------- */

/* The next event of a job: stored and published. Raises last_seq in `j` only. */
static int append_event(struct svc *s, struct effects *fx, struct job *j, enum job_state previous,
                        const struct reason *why, const char *detail, struct err *e)
{
    Coffer__V1__JobEvent ev = COFFER__V1__JOB_EVENT__INIT;
    Coffer__V1__Refusal refusal;
    char clean[256], id[JOB_ID_LEN + 32];
    uint8_t packed[8192];

    text_clean(clean, sizeof(clean), detail);
    ev.job = j->job;
    ev.seq = (uint64_t)++j->last_seq;
    ev.state = (char *)job_state_name(j->state);
    ev.previous = previous == JOB_STATE_N ? ev.previous : (char *)job_state_name(previous);
    ev.attempt = (uint32_t)j->attempt;
    ev.at_ms = s->now_ms;
    ev.host = j->host;
    ev.backend = j->backend;
    ev.downgraded = j->downgraded;
    ev.terminal = job_state_terminal(j->state);
    ev.detail = clean;
    ev.name = j->name;
    if (why) {
        reason_fill(&refusal, why);
        ev.reason = &refusal;
    }
    /* All texts are bounded: about 2 KiB at most. */
    if (coffer__v1__job_event__get_packed_size(&ev) > sizeof(packed)) {
        return err_set(e, ERR_INTERNAL, "event of job %s is too large", j->job);
    }
    size_t n = coffer__v1__job_event__pack(&ev, packed);
    snprintf(id, sizeof(id), "%s.e%lld", j->job, (long long)j->last_seq);
    if (store_event_add(s->db, j->id, j->last_seq, BYTES(packed, n), e) < 0) {
        return -1;
    }
    return fx_publish(fx, SUBJ_JOB_EVENT, j->job, id, &ev.base, e);
}

/* ---- deadlines ------------------------------------------------------------------------------- */

static int64_t run_ms(const struct svc *s, const struct job *j)
{
    return j->timeout_ms + config_int(s->config, "run-grace-ms") +
           config_int(s->config, "seal-timeout-ms");
}

static int64_t state_deadline(const struct svc *s, const struct job *j)
{
    switch (j->state) {
    case JOB_QUEUED:
        return s->now_ms + config_int(s->config, "queue-timeout-ms");
    case JOB_LAUNCHING:
        return s->now_ms + config_int(s->config, "launch-timeout-ms");
    case JOB_BOOTED:
        return s->now_ms + config_int(s->config, "attest-timeout-ms");
    case JOB_ATTESTED:
        return s->now_ms + config_int(s->config, "keys-timeout-ms");
    case JOB_RUNNING:
        return s->now_ms + run_ms(s, j);
    case JOB_HELD:
        /* The gate rejects what nobody reviews, long before. But it says nothing of a result that
         * keys for an attempt nobody asked us for have superseded. */
        return s->now_ms + config_int(s->config, "held-timeout-ms");
    case JOB_RELEASED:
    case JOB_REJECTED:
    case JOB_FAILED:
    case JOB_REFUSED:
    case JOB_TIMED_OUT:
    case JOB_CANCELLED:
    case JOB_STATE_N:
        break;
    }
    return 0;
}

/* After this an attempt cannot do anything useful, whatever the scheduler still hears of it. */
static int64_t cvm_deadline(const struct svc *s, const struct job *j)
{
    return s->now_ms + config_int(s->config, "launch-timeout-ms") +
           config_int(s->config, "attest-timeout-ms") + config_int(s->config, "keys-timeout-ms") +
           run_ms(s, j);
}

/* ---- CVMs ------------------------------------------------------------------------------------ */

static int launch(struct svc *s, struct effects *fx, const struct job *j, struct err *e)
{
    Coffer__V1__LaunchCvm m = COFFER__V1__LAUNCH_CVM__INIT;
    _cleanup_free_ char *jws = NULL;
    char id[JOB_ID_LEN + 32];

    if (store_spec(s->db, j->id, &jws, e) < 0) {
        return -1;
    }
    m.job = (char *)j->job;
    m.attempt = (uint32_t)j->attempt;
    m.backend = (char *)j->backend;
    m.spec_jws = jws;
    m.deadline_ms = cvm_deadline(s, j);
    snprintf(id, sizeof(id), "%s.%lld.launch", j->job, (long long)j->attempt);
    if (store_attempt_add(s->db, j, m.deadline_ms, e) < 0) {
        return -1;
    }
    return fx_publish(fx, SUBJ_CVM_LAUNCH, j->host, id, &m.base, e);
}

#define DESTROY_MAX_DOUBLINGS 4

int attempt_destroy(struct svc *s, struct effects *fx, int64_t job_id, const char *job,
                    int64_t attempt, const char *host, int64_t n, const char *why, struct err *e)
{
    Coffer__V1__DestroyCvm m = COFFER__V1__DESTROY_CVM__INIT;
    int64_t wait = config_int(s->config, "destroy-retry-ms")
                   << (n - 1 < DESTROY_MAX_DOUBLINGS ? n - 1 : DESTROY_MAX_DOUBLINGS);
    char id[JOB_ID_LEN + 48];
    int live = 0;

    if (store_attempt_destroy(s->db, job_id, attempt, n, s->now_ms + wait, &live, e) < 0) {
        return -1;
    }
    if (!live) {
        return 0;
    }
    m.job = (char *)job;
    m.attempt = (uint32_t)attempt;
    m.reason = (char *)why;
    snprintf(id, sizeof(id), "%s.%lld.destroy.%lld", job, (long long)attempt, (long long)n);
    return fx_publish(fx, SUBJ_CVM_DESTROY, host, id, &m.base, e);
}

/* ---- the one writer -------------------------------------------------------------------------- */

static void mark_dirty(struct svc *s)
{
    struct scheduler *p = s->priv;
    p->dirty = 1;
}

static void entered(struct svc *s, struct job *j, enum job_state to)
{
    j->state = to;
    j->updated_ms = s->now_ms;
    if (to == JOB_QUEUED) {
        struct scheduler *p = s->priv;
        j->queued_ms = s->now_ms;
        if (p->queued_at_most >= 0) {
            p->queued_at_most++;
        }
        mark_dirty(s);
    }
    j->deadline_ms = state_deadline(s, j);
}

int job_create(struct svc *s, struct effects *fx, struct job *j, const char *spec_jws,
               struct err *e)
{
    j->created_ms = s->now_ms;
    j->attempt = 0;
    j->last_seq = 1; /* the event below, so that the row is written once */
    entered(s, j, JOB_QUEUED);
    if (store_job_add(s->db, j, spec_jws, e) < 0) {
        return -1;
    }
    j->last_seq = 0;
    return append_event(s, fx, j, JOB_STATE_N, NULL, "accepted", e);
}

static int step(struct svc *s, struct effects *fx, struct job *j, enum job_state to,
                const struct happening *h, struct err *e)
{
    enum job_state from = j->state;

    entered(s, j, to);
    return append_event(s, fx, j, from, h->reason, h->detail, e);
}

static void apply_placement(struct job *j, const struct placement *p)
{
    j->attempt++;
    j->host_id = p->host_id;
    snprintf(j->host, sizeof(j->host), "%s", p->host);
    snprintf(j->backend, sizeof(j->backend), "%s", p->backend);
    j->downgraded = p->downgraded;
}

int job_transition(struct svc *s, struct effects *fx, struct job *j, const struct happening *h,
                   struct err *e)
{
    static const struct happening passed = {.detail = "known from a later stage"};
    enum job_state was = j->state;
    uint8_t entry = next[was][h->cause];

    if (entry == NEXT_STAY) {
        return 0;
    }
    enum job_state to = entry != NEXT_RETRY        ? (enum job_state)(entry - 2)
                        : j->attempt < j->attempts ? JOB_QUEUED
                                                   : JOB_FAILED;
    if (h->cause == CAUSE_PLACED) {
        if (j->attempt >= j->attempts || !h->placement) {
            return err_set(e, ERR_INTERNAL, "job %s cannot be placed for attempt %lld of %lld",
                           j->job, (long long)j->attempt + 1, (long long)j->attempts);
        }
        apply_placement(j, h->placement);
    }
    while (in_stage(j->state) && j->state < proves[h->cause] && j->state + 1 != to) {
        if (step(s, fx, j, j->state + 1, &passed, e) < 0) {
            return -1;
        }
    }
    j->has_reason = h->reason != NULL;
    if (h->reason) {
        j->reason = *h->reason;
    }
    if (step(s, fx, j, to, h, e) < 0 || store_job_update(s->db, j, e) < 0) {
        return -1;
    }
    if (to == JOB_LAUNCHING) {
        return launch(s, fx, j, e);
    }
    if (in_stage(was) && !in_stage(to) &&
        attempt_destroy(s, fx, j->id, j->job, j->attempt, j->host, 1, job_state_name(to), e) < 0) {
        return -1;
    }
    return job_state_terminal(to) ? store_spec_drop(s->db, j->id, e) : 0;
}

int job_note(struct svc *s, struct effects *fx, struct job *j, const char *detail,
             int64_t deadline_ms, struct err *e)
{
    if (job_state_terminal(j->state)) {
        return err_set(e, ERR_INTERNAL, "job %s is over", j->job);
    }
    if (deadline_ms) {
        j->deadline_ms = deadline_ms;
    }
    j->updated_ms = s->now_ms;
    if (append_event(s, fx, j, j->state, NULL, detail, e) < 0) {
        return -1;
    }
    return store_job_update(s->db, j, e);
}

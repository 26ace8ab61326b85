#include "svc-launcher/launcher.h"

/* A CVM's states as one table, and the one function that changes a state. */

#define DESTROY_AGAIN_MS 10000

#define X(id, name) [CVM_##id] = name,
static const char *const state_names[CVM_STATE_N] = {CVM_STATES(X)};
#undef X

static const enum cvm_state next[CVM_STATE_N][RUN_CAUSE_N] = {
    [CVM_STARTING] = {[RUN_BOOTED] = CVM_RUNNING,
                      [RUN_STOP] = CVM_STOPPING,
                      [RUN_FAILED] = CVM_GONE,
                      [RUN_ENDED] = CVM_GONE},
    [CVM_RUNNING] = {[RUN_BOOTED] = CVM_RUNNING,
                     [RUN_STOP] = CVM_STOPPING,
                     [RUN_FAILED] = CVM_GONE,
                     [RUN_ENDED] = CVM_GONE},
    [CVM_STOPPING] = {[RUN_BOOTED] = CVM_STOPPING,
                      [RUN_STOP] = CVM_STOPPING,
                      [RUN_FAILED] = CVM_GONE,
                      [RUN_ENDED] = CVM_GONE},
    [CVM_GONE] = {[RUN_BOOTED] = CVM_GONE,
                  [RUN_STOP] = CVM_GONE,
                  [RUN_FAILED] = CVM_GONE,
                  [RUN_ENDED] = CVM_GONE},
};

const char *cvm_state_name(enum cvm_state s)
{
    return (unsigned)s < CVM_STATE_N ? state_names[s] : "unknown";
}

enum cvm_state cvm_next(enum cvm_state s, enum cvm_cause c)
{
    return next[s][c];
}

static void clean(char *out, size_t size, const char *in)
{
    size_t n = 0;

    for (; in[n] && n + 1 < size; n++) {
        out[n] = in[n] >= 0x20 && in[n] < 0x7f ? in[n] : '?';
    }
    out[n] = '\0';
}

void cvm_set_reason(struct cvm *c, const Coffer__V1__Refusal *r)
{
    c->has_reason = 1;
    clean(c->code, sizeof(c->code), r->code);
    clean(c->clause, sizeof(c->clause), r->clause);
    clean(c->expected, sizeof(c->expected), r->expected);
    clean(c->actual, sizeof(c->actual), r->actual);
    clean(c->message, sizeof(c->message), r->message);
    clean(c->by, sizeof(c->by), r->by);
}

void cvm_set_reason_err(struct cvm *c, const struct err *why)
{
    Coffer__V1__Refusal r = COFFER__V1__REFUSAL__INIT;

    refusal_from_err(&r, why, SVC_LAUNCHER);
    cvm_set_reason(c, &r);
}

/* Publishes one event; raises n_events in `c` only. */
static int tell(struct svc *s, struct effects *fx, struct cvm *c, Coffer__V1__CvmEventKind kind,
                const char *detail, int exit_code, struct err *e)
{
    Coffer__V1__CvmEvent m = COFFER__V1__CVM_EVENT__INIT;
    Coffer__V1__Refusal r = COFFER__V1__REFUSAL__INIT;
    char id[JOB_ID_LEN + 64];

    m.job = c->job;
    m.attempt = c->attempt;
    m.host = (char *)config_str(s->config, "host");
    m.kind = kind;
    m.at_ms = s->now_ms;
    m.detail = (char *)(detail ? detail : "");
    m.exit_code = exit_code;
    if (c->has_reason && kind != COFFER__V1__CVM_EVENT_KIND__CVM_PHASE) {
        r.code = c->code;
        r.clause = c->clause;
        r.expected = c->expected;
        r.actual = c->actual;
        r.message = c->message;
        r.by = c->by;
        m.reason = &r;
    }
    snprintf(id, sizeof(id), "%s.%u.cvm.%lld", c->job, c->attempt, (long long)++c->n_events);
    return fx_publish(fx, SUBJ_CVM_EVENT, c->job, id, &m.base, e);
}

int cvm_tell(struct svc *s, struct effects *fx, struct cvm *c, Coffer__V1__CvmEventKind kind,
             const char *detail, int exit_code, struct err *e)
{
    if (tell(s, fx, c, kind, detail, exit_code, e) < 0) {
        return -1;
    }
    return store_cvm_update(s->db, c, s->now_ms, e);
}

/* The action's data: which CVM, and why. */
static void act_on(struct effects *fx, const struct cvm *c, enum launcher_action kind,
                   const char *why)
{
    Coffer__V1__DestroyCvm m = COFFER__V1__DESTROY_CVM__INIT;
    uint8_t packed[256];

    m.job = (char *)(uintptr_t)c->job;
    m.attempt = c->attempt;
    m.reason = (char *)(uintptr_t)why;
    size_t n = coffer__v1__destroy_cvm__pack(&m, packed);
    fx_action(fx, (int)kind, BYTES(packed, n));
}

static void ask_destroy(struct svc *s, struct effects *fx, struct cvm *c)
{
    static const char *const whys[] = {[STOP_NONE] = "",
                                       [STOP_ASKED] = "asked",
                                       [STOP_DEADLINE] = "deadline",
                                       [STOP_LOST] = "lost"};

    act_on(fx, c, LAUNCHER_ACT_DESTROY, whys[c->stop]);
    c->due_ms = s->now_ms + DESTROY_AGAIN_MS;
}

void cvm_adopt(struct effects *fx, const struct cvm *c)
{
    act_on(fx, c, LAUNCHER_ACT_ADOPT, "");
}

int cvm_destroy_again(struct svc *s, struct effects *fx, struct cvm *c, struct err *e)
{
    ask_destroy(s, fx, c);
    return store_cvm_update(s->db, c, s->now_ms, e);
}

static void stop_reason(struct cvm *c, enum stop_why why)
{
    struct err r;

    if (why == STOP_DEADLINE && !c->has_reason && !c->done) {
        err_refuse(&r, ERR_TIMEOUT, "deadline", "the CVM's end before its deadline",
                   "still there at it");
        cvm_set_reason_err(c, &r);
    }
}

/* What the scheduler is told at the end: how it ended, unless that was asked for, and that nothing
 * is left. The second event repeats what matters of the first, so that their order does not matter.
 */
static int tell_end(struct svc *s, struct effects *fx, struct cvm *c, int exit_code, struct err *e)
{
    const char *detail = c->done ? "done" : "";

    if (c->stop == STOP_LOST && !c->done) {
        if (tell(s, fx, c, COFFER__V1__CVM_EVENT_KIND__CVM_LOST, detail, exit_code, e) < 0) {
            return -1;
        }
    } else if (c->stop == STOP_NONE && !c->booted) {
        struct err why;
        if (!c->has_reason) {
            err_refuse(&why, ERR_IO, "launch", "a worker that starts", "exit code %d", exit_code);
            cvm_set_reason_err(c, &why);
        }
        return tell(s, fx, c, COFFER__V1__CVM_EVENT_KIND__CVM_LAUNCH_FAILED, detail, exit_code, e);
    } else if (c->stop != STOP_ASKED) {
        if (tell(s, fx, c, COFFER__V1__CVM_EVENT_KIND__CVM_EXITED, detail, exit_code, e) < 0) {
            return -1;
        }
    }
    return tell(s, fx, c, COFFER__V1__CVM_EVENT_KIND__CVM_DESTROYED, detail, exit_code, e);
}

int cvm_transition(struct svc *s, struct effects *fx, struct cvm *c, enum cvm_cause cause,
                   enum stop_why why, int exit_code, struct err *e)
{
    enum cvm_state to = next[c->state][cause];
    int rc = 0;

    if (to == c->state) {
        return 0;
    }
    c->state = to;
    switch (to) {
    case CVM_STARTING:
        break;
    case CVM_RUNNING:
        c->booted = 1;
        rc = tell(s, fx, c, COFFER__V1__CVM_EVENT_KIND__CVM_BOOTED, "", 0, e);
        break;
    case CVM_STOPPING:
        c->stop = why;
        stop_reason(c, why);
        ask_destroy(s, fx, c);
        break;
    case CVM_GONE:
        c->due_ms = 0;
        rc = tell_end(s, fx, c, exit_code, e);
        break;
    case CVM_STATE_N:
        return err_set(e, ERR_INTERNAL, "no such state");
    }
    return rc < 0 ? -1 : store_cvm_update(s->db, c, s->now_ms, e);
}

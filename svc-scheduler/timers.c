#include "svc-scheduler/scheduler.h"

/* What happens because time passes: deadlines of states, silent hosts, DestroyCvm again, placement.
 * Everything is read from the database, so a restart forgets no timer. */

#define BATCH 256
#define RESCAN_MS 1000
#define HOST_FORGET_MS (24ll * 60 * 60 * 1000)
#define CVM_DEADLINE_SLACK_MS 60000

static const char *stage_setting(enum job_state s)
{
    switch (s) {
    case JOB_LAUNCHING:
        return "launch-timeout-ms";
    case JOB_BOOTED:
        return "attest-timeout-ms";
    case JOB_ATTESTED:
        return "keys-timeout-ms";
    case JOB_QUEUED:
    case JOB_RUNNING:
    case JOB_HELD:
    case JOB_RELEASED:
    case JOB_REJECTED:
    case JOB_FAILED:
    case JOB_REFUSED:
    case JOB_TIMED_OUT:
    case JOB_CANCELLED:
    case JOB_STATE_N:
        break;
    }
    return NULL;
}

static int deadline_reason(struct svc *s, const struct job *j, struct reason *ret, struct err *e)
{
    const char *setting = stage_setting(j->state);
    struct err why = {0};

    if (j->state != JOB_QUEUED && j->has_reason) {
        *ret = j->reason; /* the worker had said why it ends */
        return 0;
    }
    if (j->state == JOB_QUEUED) {
        if (place_explain(s, j, &why, e) < 0) {
            return -1;
        }
        why.code = ERR_TIMEOUT;
        err_wrap(&why, "not placed within %lld ms",
                 (long long)config_int(s->config, "queue-timeout-ms"));
    } else if (j->state == JOB_HELD) {
        err_refuse(&why, ERR_TIMEOUT, "held-timeout-ms", "a review, or the gate's own end to it",
                   "neither within %lld ms", (long long)config_int(s->config, "held-timeout-ms"));
    } else if (setting) {
        err_refuse(&why, ERR_TIMEOUT, setting, "the next stage in time",
                   "still %s after %lld ms on host %s", job_state_name(j->state),
                   (long long)config_int(s->config, setting), j->host);
    } else {
        err_refuse(&why, ERR_TIMEOUT, "spec.timeoutMs", "a result in time",
                   "none within %lld ms and the time to prepare and seal",
                   (long long)j->timeout_ms);
    }
    reason_from_err(ret, &why);
    return 0;
}

static int due_deadlines(struct svc *s, struct effects *fx, struct err *e)
{
    int64_t ids[BATCH];
    int n = store_due_jobs(s->db, s->now_ms, ids, BATCH, e);

    for (int i = 0; i < n; i++) {
        struct reason reason;
        struct job j;
        int rc = store_job_by_id(s->db, ids[i], &j, e);
        if (rc <= 0) {
            return rc < 0 ? -1 : err_set(e, ERR_INTERNAL, "job %lld is gone", (long long)ids[i]);
        }
        struct happening h = {.cause = CAUSE_DEADLINE, .reason = &reason};
        if (deadline_reason(s, &j, &reason, e) < 0 || job_transition(s, fx, &j, &h, e) < 0) {
            return -1;
        }
    }
    return n < 0 ? -1 : 0;
}

/* ---- hosts ----------------------------------------------------------------------------------- */

static int attempt_lost(struct svc *s, struct effects *fx, const struct due_attempt *d,
                        struct err *e)
{
    struct reason reason;
    struct err why;
    struct job j;

    int rc = store_job_by_id(s->db, d->job_id, &j, e);
    if (rc <= 0) {
        return rc < 0 ? -1 : err_set(e, ERR_INTERNAL, "job %s is gone", d->job);
    }
    if (j.attempt != d->attempt || d->a.done) {
        return 0;
    }
    err_refuse(&why, ERR_TIMEOUT, "host", "a report every few seconds",
               "silence of host %s for %lld ms", d->a.host,
               (long long)(s->now_ms - d->host_seen_ms));
    reason_from_err(&reason, &why);
    struct happening h = {.cause = CAUSE_LOST, .reason = &reason};
    return job_transition(s, fx, &j, &h, e);
}

/* A host stays alive until all of its attempts are given up, so that a bounded batch is enough. */
static int silent_hosts(struct svc *s, struct effects *fx, struct err *e)
{
    int64_t hosts[16];
    int n = store_hosts_silent(s->db, s->now_ms - config_int(s->config, "host-timeout-ms"), hosts,
                               ARRAY_LEN(hosts), e);

    for (int i = 0; i < n; i++) {
        _cleanup_free_ struct due_attempt *due = xcalloc(HOST_MAX_SLOTS, sizeof(*due));
        int m = store_host_attempts(s->db, hosts[i], due, HOST_MAX_SLOTS, e);
        for (int k = 0; k < m; k++) {
            if (attempt_lost(s, fx, &due[k], e) < 0) {
                return -1;
            }
        }
        if (m < 0 || store_host_set_dead(s->db, hosts[i], e) < 0) {
            return -1;
        }
    }
    return n < 0 ? -1 : 0;
}

/* ---- CVMs ------------------------------------------------------------------------------------ */

/* The host has been away so long, and the CVM's own deadline has passed, that nobody will ever
 * tell: its resources are counted as free. If the host comes back, the DestroyCvm is still in its
 * stream. */
static int written_off(const struct svc *s, const struct due_attempt *d)
{
    return !d->host_alive && d->host_seen_ms + config_int(s->config, "host-gone-ms") <= s->now_ms &&
           d->a.deadline_ms + CVM_DEADLINE_SLACK_MS <= s->now_ms;
}

static int due_destroys(struct svc *s, struct effects *fx, struct err *e)
{
    _cleanup_free_ struct due_attempt *due = xcalloc(BATCH, sizeof(*due));
    int n = store_due_destroys(s->db, s->now_ms, due, BATCH, e);

    for (int i = 0; i < n; i++) {
        const struct due_attempt *d = &due[i];
        int rc = written_off(s, d)
                     ? store_attempt_gone(s->db, d->job_id, d->attempt, &d->a, s->now_ms, e)
                     : attempt_destroy(s, fx, d->job_id, d->job, d->attempt, d->a.host,
                                       d->a.destroy_n + 1, d->why, e);
        if (rc < 0) {
            return -1;
        }
    }
    return n < 0 ? -1 : 0;
}

/* ---- all of it ------------------------------------------------------------------------------- */

int scheduler_tick(struct svc *s, struct effects *fx, struct err *e)
{
    struct scheduler *p = s->priv;

    if (due_deadlines(s, fx, e) < 0 || silent_hosts(s, fx, e) < 0 || due_destroys(s, fx, e) < 0) {
        return -1;
    }
    if (!p->dirty && s->now_ms < p->next_scan_ms) {
        return 0;
    }
    if (s->now_ms >= p->next_scan_ms &&
        store_hosts_forget(s->db, s->now_ms - HOST_FORGET_MS, e) < 0) {
        return -1;
    }
    int more = place_queue(s, fx, e);
    if (more < 0) {
        return -1;
    }
    /* Only a hint: should this transaction fail, the rescan finds what was missed. */
    p->dirty = more;
    p->next_scan_ms = s->now_ms + RESCAN_MS;
    return 0;
}

int64_t scheduler_next_tick_ms(struct svc *s)
{
    struct scheduler *p = s->priv;
    int64_t next = INT64_MAX, at = INT64_MAX;
    int queued = 0;
    struct err e;

    if (p->dirty) {
        return s->now_ms;
    }
    /* A database that fails now fails in the tick, too, and is reported there. */
    if (store_min_deadline(s->db, &next, &e) < 0 || store_min_destroy(s->db, &at, &e) < 0) {
        return s->now_ms;
    }
    next = at < next ? at : next;
    if (store_min_seen(s->db, &at, &e) < 0) {
        return s->now_ms;
    }
    if (at != INT64_MAX) {
        at += config_int(s->config, "host-timeout-ms");
        next = at < next ? at : next;
    }
    if (next > p->next_scan_ms) {
        if (store_any_queued(s->db, &queued, &e) < 0) {
            return s->now_ms;
        }
        next = queued ? p->next_scan_ms : next;
    }
    return next;
}

int scheduler_resume(struct svc *s, struct effects *fx, struct err *e)
{
    struct scheduler *p = s->priv;

    (void)fx;
    p->dirty = 1;
    return store_grace(s->db, s->now_ms + config_int(s->config, "resume-grace-ms"), s->now_ms, e);
}

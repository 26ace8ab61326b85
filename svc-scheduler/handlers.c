#include "svc-scheduler/scheduler.h"

/* One function per subject: decode, authorise, transition, effects. */

#define CANCEL_MAX_AGE_S 300
#define COUNT_EVERY_MS 100
#define WORKER_EXIT_REFUSED 3

/* ---- schedule -------------------------------------------------------------------------------- */

static int reply_accepted(struct effects *fx, const struct msg *m, const struct job *j,
                          int duplicate, struct err *e)
{
    Coffer__V1__Reply reply = COFFER__V1__REPLY__INIT;
    Coffer__V1__JobAccepted accepted = COFFER__V1__JOB_ACCEPTED__INIT;

    accepted.job = (char *)j->job;
    accepted.digest = (char *)j->digest;
    accepted.duplicate = duplicate;
    reply.body_case = COFFER__V1__REPLY__BODY_JOB_ACCEPTED;
    reply.job_accepted = &accepted;
    return fx_reply(fx, m, &reply, e);
}

/* The queue's length is bounded without counting it for every job: what was counted last plus what
 * came since is never less than what is there. */
static int check_queue(struct svc *s, struct err *e)
{
    struct scheduler *p = s->priv;
    int64_t max = config_int(s->config, "max-queued");

    if (p->queued_at_most < 0 ||
        (p->queued_at_most >= max && s->now_ms >= p->counted_ms + COUNT_EVERY_MS)) {
        if (store_count_queued(s->db, max, &p->queued_at_most, e) < 0) {
            return -1;
        }
        p->counted_ms = s->now_ms;
    }
    if (p->queued_at_most >= max) {
        return err_refuse(e, ERR_BUSY, "queue full", "fewer than max-queued jobs waiting", "%lld",
                          (long long)max);
    }
    return 0;
}

static int join_types(const struct spec *spec, char *out, size_t size, struct err *e)
{
    size_t n = 0;

    out[0] = '\0';
    for (size_t i = 0; i < spec->n_tee_types; i++) {
        n += (size_t)snprintf(out + n, size - n, "%s%s", n ? " " : "", spec->tee_types[i]);
        if (n >= size) {
            return err_refuse(e, ERR_TOO_LARGE, "tee.types", "fewer types", "%zu",
                              spec->n_tee_types);
        }
    }
    return 0;
}

static int job_from_spec(const struct spec *spec, const struct jkey *consumer, struct job *j,
                         struct err *e)
{
    memset(j, 0, sizeof(*j));
    snprintf(j->job, sizeof(j->job), "%s", spec->job_id);
    snprintf(j->digest, sizeof(j->digest), "%s", spec->digest_hex);
    text_clean(j->name, sizeof(j->name), spec->name);
    snprintf(j->consumer, sizeof(j->consumer), "%s", jkey_thumbprint(consumer));
    snprintf(j->image, sizeof(j->image), "%s", spec->image);
    j->attempts = spec->attempts;
    j->tee_mode = spec->tee_mode;
    j->cpu_millis = spec->cpu_millis;
    j->memory_bytes = spec->memory_bytes;
    j->timeout_ms = spec->timeout_ms;
    if (join_types(spec, j->tee_types, sizeof(j->tee_types), e) < 0) {
        return -1;
    }
    j->shape = place_shape(j->tee_mode, j->tee_types, j->cpu_millis, j->memory_bytes);
    return 0;
}

/* Everything that can be wrong with the request itself; nothing is written. 1: `j` was accepted
 * before. */
static int check_schedule(struct svc *s, const char *jws, struct job *j, struct err *e)
{
    _cleanup_spec_ struct spec *spec = NULL;
    _cleanup_jkey_ struct jkey *consumer = NULL;
    struct job known;

    if (strlen(jws) > SPEC_JWS_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "spec_jws", "at most 96 KiB", "%zu bytes", strlen(jws));
    }
    if (spec_verify(jws, &spec, &consumer, e) < 0 || job_from_spec(spec, consumer, j, e) < 0) {
        return -1;
    }
    int rc = store_job(s->db, j->job, 0, &known, NULL, e);
    if (rc == 0) {
        return check_queue(s, e);
    }
    /* The id does not cover who signed: nobody takes over another's job by signing its spec. */
    if (rc > 0 && !streq(known.consumer, j->consumer)) {
        return err_refuse(e, ERR_DENIED, "spec.signer", "the consumer who scheduled this job", "%s",
                          j->consumer);
    }
    return rc;
}

static int handle_schedule(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    struct err why = {0};
    struct job j;

    if (msg_unpack(m, &pb, e) < 0) {
        return -1;
    }
    const char *jws = ((const Coffer__V1__ScheduleJob *)pb)->spec_jws;
    int known = check_schedule(s, jws, &j, &why);
    if (known < 0) {
        /* Told to the one who waits it is dealt with. When nobody waits the engine keeps it as a
         * dead letter, or tries again while the queue is full. */
        int database = why.code == ERR_IO || why.code == ERR_INTERNAL;
        if (m->reply_to[0] && !database) {
            return fx_reply_refusal(fx, m, &why, e);
        }
        *e = why;
        return -1;
    }
    if (!known && job_create(s, fx, &j, jws, e) < 0) {
        return -1;
    }
    return reply_accepted(fx, m, &j, known, e);
}

/* ---- cancel ---------------------------------------------------------------------------------- */

struct cancel {
    struct buf text; /* what `claims` was parsed from */
    json_t *claims;
    struct jkey *signer;
    const char *job;
};

static void cancel_done(struct cancel *c)
{
    buf_done(&c->text);
    json_decref(c->claims);
    jkey_free(c->signer);
}

static int read_cancel(struct svc *s, const char *jws, struct cancel *c, struct err *e)
{
    static const char *const keys[] = {"v", "job", "iat", NULL};
    int64_t v, iat, now = s->now_ms / 1000;

    if (jws_verify_embedded(jws, CANCEL_JWS_TYP, 4096, &c->text, &c->signer, e) < 0 ||
        json_parse("cancel", buf_bytes(&c->text), 4096, &c->claims, e) < 0 ||
        json_only_keys(c->claims, "cancel", keys, e) < 0 ||
        json_get_int(c->claims, "cancel", "v", 1, 1, &v, e) < 0 ||
        json_get_str(c->claims, "cancel", "job", &c->job, e) < 0 ||
        json_get_int(c->claims, "cancel", "iat", 0, INT32_MAX * 4ll, &iat, e) < 0) {
        return -1;
    }
    if (!job_id_valid(c->job)) {
        return err_refuse(e, ERR_INVALID, "cancel.job", "a job id", "\"%.60s\"", c->job);
    }
    if (iat < now - CANCEL_MAX_AGE_S || iat > now + CANCEL_MAX_AGE_S) {
        return err_refuse(e, ERR_EXPIRED, "cancel.iat", "within 5 minutes of the scheduler's clock",
                          "%lld s away", (long long)(iat - now));
    }
    return 0;
}

static int handle_cancel(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    _cleanup_(cancel_done) struct cancel c = {.text = BUF_INIT(4096)};
    Coffer__V1__Reply reply = COFFER__V1__REPLY__INIT;
    Coffer__V1__JobCancelled cancelled = COFFER__V1__JOB_CANCELLED__INIT;
    struct job j;

    if (msg_unpack(m, &pb, e) < 0 ||
        read_cancel(s, ((const Coffer__V1__CancelJob *)pb)->cancel_jws, &c, e) < 0) {
        return -1;
    }
    int rc = store_job(s->db, c.job, 0, &j, NULL, e);
    if (rc <= 0) {
        return rc < 0 ? -1
                      : err_refuse(e, ERR_NOT_FOUND, "cancel.job", "a job that was accepted", "%s",
                                   c.job);
    }
    if (!streq(j.consumer, jkey_thumbprint(c.signer))) {
        return err_refuse(e, ERR_DENIED, "cancel.signer", "the job's consumer", "%s",
                          jkey_thumbprint(c.signer));
    }
    struct happening h = {.cause = CAUSE_CANCEL, .detail = "by its consumer"};
    if (job_transition(s, fx, &j, &h, e) < 0) {
        return -1;
    }
    cancelled.job = j.job;
    cancelled.state = (char *)job_state_name(j.state);
    reply.body_case = COFFER__V1__REPLY__BODY_JOB_CANCELLED;
    reply.job_cancelled = &cancelled;
    return fx_reply(fx, m, &reply, e);
}

/* ---- facts about an attempt ------------------------------------------------------------------ */

/* Finds what a fact is about. *ret_current: of the latest attempt of a job that is not over; only
 * such a fact can change anything. A fact of an attempt that never was is an error. */
static int load_fact(struct svc *s, const struct msg *m, const char *job, uint32_t attempt,
                     struct job *j, struct attempt *a, int *ret_current, struct err *e)
{
    if (!job_id_valid(job) || !streq(m->key, job)) {
        return err_refuse(e, ERR_INVALID, "job", "the job id that the subject ends in", "\"%.60s\"",
                          job);
    }
    int rc = store_job(s->db, job, attempt, j, a, e);
    if (rc <= 0) {
        return rc < 0 ? -1
                      : err_refuse(e, ERR_NOT_FOUND, "job", "a job that was accepted", "%s", job);
    }
    if (attempt == 0 || attempt > j->attempt) {
        return err_refuse(e, ERR_INVALID, "attempt", "an attempt that was launched", "%u of %lld",
                          attempt, (long long)j->attempt);
    }
    *ret_current = attempt == j->attempt && !job_state_terminal(j->state);
    return 0;
}

static int happened(struct svc *s, struct effects *fx, struct job *j, enum job_cause cause,
                    const Coffer__V1__Refusal *refusal, struct err *e)
{
    struct reason reason;
    struct happening h = {.cause = cause};

    if (refusal) {
        reason_from_refusal(&reason, refusal);
        h.reason = &reason;
    }
    return job_transition(s, fx, j, &h, e);
}

/* A verdict and a key release are alike: something good, or why not. */
static int good_or_refused(struct svc *s, const struct msg *m, struct effects *fx, const char *job,
                           uint32_t attempt, const char *good, const Coffer__V1__Refusal *refusal,
                           enum job_cause if_good, struct err *e)
{
    struct job j;
    struct attempt a;
    int current = 0;

    if (!good[0] && !refusal) {
        return err_refuse(e, ERR_INVALID, subjects[m->subject].name, "a token or a refusal",
                          "neither");
    }
    if (load_fact(s, m, job, attempt, &j, &a, &current, e) < 0) {
        return -1;
    }
    if (!current) {
        return 0;
    }
    enum job_cause if_refused =
        if_good == CAUSE_VERDICT ? CAUSE_VERDICT_REFUSED : CAUSE_KEYS_REFUSED;
    return happened(s, fx, &j, good[0] ? if_good : if_refused, good[0] ? NULL : refusal, e);
}

static int handle_verdict(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;

    if (msg_unpack(m, &pb, e) < 0) {
        return -1;
    }
    const Coffer__V1__Verdict *v = (const Coffer__V1__Verdict *)pb;
    return good_or_refused(s, m, fx, v->job, v->attempt, v->ear, v->refusal, CAUSE_VERDICT, e);
}

static int handle_release(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;

    if (msg_unpack(m, &pb, e) < 0) {
        return -1;
    }
    const Coffer__V1__ReleaseKey *r = (const Coffer__V1__ReleaseKey *)pb;
    return good_or_refused(s, m, fx, r->job, r->attempt, r->jwe, r->refusal, CAUSE_KEYS, e);
}

static int cause_of_outcome(Coffer__V1__GateOutcome o, enum job_cause *ret)
{
    switch (o) {
    case COFFER__V1__GATE_OUTCOME__GATE_RELEASED:
        *ret = CAUSE_GATE_RELEASED;
        return 0;
    case COFFER__V1__GATE_OUTCOME__GATE_HELD:
        *ret = CAUSE_GATE_HELD;
        return 0;
    case COFFER__V1__GATE_OUTCOME__GATE_REJECTED:
        *ret = CAUSE_GATE_REJECTED;
        return 0;
    case COFFER__V1__GATE_OUTCOME__GATE_FAILED:
        *ret = CAUSE_GATE_FAILED;
        return 0;
    case COFFER__V1__GATE_OUTCOME__GATE_UNKNOWN:
    case _COFFER__V1__GATE_OUTCOME_IS_INT_SIZE:
        break;
    }
    return -1;
}

static int handle_decision(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    enum job_cause cause;
    struct job j;
    struct attempt a;
    int current = 0;

    if (msg_unpack(m, &pb, e) < 0) {
        return -1;
    }
    const Coffer__V1__GateDecision *d = (const Coffer__V1__GateDecision *)pb;
    if (cause_of_outcome(d->outcome, &cause) < 0) {
        return err_refuse(e, ERR_INVALID, "outcome", "released, held, rejected or failed", "%d",
                          (int)d->outcome);
    }
    if (load_fact(s, m, d->job, d->attempt, &j, &a, &current, e) < 0) {
        return -1;
    }
    return current ? happened(s, fx, &j, cause, d->reason, e) : 0;
}

/* ---- CVM events ------------------------------------------------------------------------------ */

static const char *const phases[] = {"attest", "keys", "unpack", "run", "seal", "done"};

static int on_phase(struct svc *s, struct effects *fx, struct job *j, const struct attempt *a,
                    const char *detail, struct err *e)
{
    if (happened(s, fx, j, CAUSE_BOOTED, NULL, e) < 0) {
        return -1; /* a phase proves that it booted */
    }
    if (j->state < JOB_BOOTED || j->state > JOB_RUNNING) {
        return 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(phases); i++) {
        int64_t bit = (int64_t)1 << i;
        if (streq(phases[i], detail) && !(a->phases & bit)) {
            if (store_attempt_phases(s->db, j->id, j->attempt, a->phases | bit, e) < 0) {
                return -1;
            }
            return job_note(s, fx, j, detail, 0, e);
        }
    }
    return 0;
}

/* The worker ended with its result sent: what is left is the gate's work. */
static int on_done(struct svc *s, struct effects *fx, struct job *j, struct err *e)
{
    if (store_attempt_done(s->db, j->id, j->attempt, e) < 0 ||
        happened(s, fx, j, CAUSE_RESULT_SENT, NULL, e) < 0) {
        return -1;
    }
    if (j->state != JOB_RUNNING) {
        return 0;
    }
    return job_note(s, fx, j, "result sent",
                    s->now_ms + config_int(s->config, "decision-timeout-ms"), e);
}

/* A worker that was refused by verifier or KBS says so when it exits; this may come before the
 * refusal itself, and means the same. */
static enum job_cause cause_of_exit(const struct job *j, const Coffer__V1__Refusal *r)
{
    enum job_cause c = CAUSE_EXITED;

    if (r && streq(r->by, service_name(SVC_VERIFIER))) {
        c = CAUSE_VERDICT_REFUSED;
    } else if (r && streq(r->by, service_name(SVC_KBS))) {
        c = CAUSE_KEYS_REFUSED;
    }
    return job_next(j->state, c) == NEXT_STAY ? CAUSE_EXITED : c;
}

/* A worker that was refused ends, and its end may overtake the refusal, which comes from another
 * service. A little patience spares an attempt that would be refused alike. */
static int await_refusal(struct svc *s, struct effects *fx, struct job *j,
                         const Coffer__V1__Refusal *r, struct err *e)
{
    int64_t until = s->now_ms + config_int(s->config, "refusal-wait-ms");

    if (j->has_reason) {
        return 0; /* waiting already */
    }
    reason_from_refusal(&j->reason, r);
    j->has_reason = 1;
    return job_note(s, fx, j, "refused",
                    j->deadline_ms && j->deadline_ms < until ? j->deadline_ms : until, e);
}

static int on_end(struct svc *s, struct effects *fx, struct job *j, const struct attempt *a,
                  const Coffer__V1__CvmEvent *ev, enum job_cause cause, struct err *e)
{
    Coffer__V1__Refusal refusal = COFFER__V1__REFUSAL__INIT;
    const Coffer__V1__Refusal *r = ev->reason;
    struct err why;

    if (a->done) {
        return 0;
    }
    if (streq(ev->detail, "done")) {
        return on_done(s, fx, j, e);
    }
    if (!r) {
        err_refuse(&why, ERR_IO, "cvm", "a result", "%s on host %s, exit code %d",
                   cause == CAUSE_LOST            ? "lost"
                   : cause == CAUSE_LAUNCH_FAILED ? "launch failed"
                                                  : "ended without one",
                   ev->host, ev->exit_code);
        refusal_from_err(&refusal, &why, SVC_LAUNCHER);
        r = &refusal;
    }
    if (cause == CAUSE_EXITED) {
        cause = cause_of_exit(j, ev->reason);
    }
    if (cause == CAUSE_EXITED && ev->reason && ev->exit_code == WORKER_EXIT_REFUSED &&
        (j->state == JOB_BOOTED || j->state == JOB_ATTESTED)) {
        return await_refusal(s, fx, j, ev->reason, e);
    }
    return happened(s, fx, j, cause, r, e);
}

static int on_gone(struct svc *s, const struct job *j, uint32_t attempt, const struct attempt *a,
                   struct err *e)
{
    struct scheduler *p = s->priv;

    p->dirty = 1;
    return a->live ? store_attempt_gone(s->db, j->id, attempt, a, s->now_ms, e) : 0;
}

static int handle_cvm_event(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    struct job j;
    struct attempt a;
    int current = 0;

    if (msg_unpack(m, &pb, e) < 0) {
        return -1;
    }
    const Coffer__V1__CvmEvent *ev = (const Coffer__V1__CvmEvent *)pb;
    if (load_fact(s, m, ev->job, ev->attempt, &j, &a, &current, e) < 0) {
        return -1;
    }
    /* A host may speak about its own CVMs only. */
    if (!a.exists || !streq(ev->host, a.host)) {
        return err_refuse(e, ERR_DENIED, "host", "the host that the attempt was placed on",
                          "\"%.64s\"", ev->host);
    }
    switch (ev->kind) {
    case COFFER__V1__CVM_EVENT_KIND__CVM_BOOTED:
        return current ? happened(s, fx, &j, CAUSE_BOOTED, NULL, e) : 0;
    case COFFER__V1__CVM_EVENT_KIND__CVM_PHASE:
        return current ? on_phase(s, fx, &j, &a, ev->detail, e) : 0;
    case COFFER__V1__CVM_EVENT_KIND__CVM_EXITED:
        return current ? on_end(s, fx, &j, &a, ev, CAUSE_EXITED, e) : 0;
    case COFFER__V1__CVM_EVENT_KIND__CVM_LOST:
        return on_gone(s, &j, ev->attempt, &a, e) < 0 ? -1
               : current                              ? on_end(s, fx, &j, &a, ev, CAUSE_LOST, e)
                                                      : 0;
    case COFFER__V1__CVM_EVENT_KIND__CVM_DESTROYED:
        return on_gone(s, &j, ev->attempt, &a, e) < 0 ? -1
               : current                              ? on_end(s, fx, &j, &a, ev, CAUSE_EXITED, e)
                                                      : 0;
    case COFFER__V1__CVM_EVENT_KIND__CVM_LAUNCH_FAILED:
        return on_gone(s, &j, ev->attempt, &a, e) < 0 ? -1
               : current ? on_end(s, fx, &j, &a, ev, CAUSE_LAUNCH_FAILED, e)
                         : 0;
    case COFFER__V1__CVM_EVENT_KIND__CVM_UNKNOWN:
    case _COFFER__V1__CVM_EVENT_KIND_IS_INT_SIZE:
        break;
    }
    return err_refuse(e, ERR_INVALID, "kind", "a kind of CvmEvent", "%d", (int)ev->kind);
}

/* ---- hosts ----------------------------------------------------------------------------------- */

static int word_ok(const char *s, size_t max)
{
    size_t n = strlen(s);

    return n >= 1 && n <= max && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == n;
}

static int check_report(const struct msg *m, const Coffer__V1__HostReport *r, struct err *e)
{
    char name[128];

    if (!streq(m->key, r->host) || strlen(r->host) > HOST_NAME_MAX_BYTES ||
        subject_format(SUBJ_HOST_REPORT, r->host, name, sizeof(name)) < 0) {
        return err_refuse(e, ERR_INVALID, "host", "the host that the subject ends in", "\"%.80s\"",
                          r->host);
    }
    if (r->slots > HOST_MAX_SLOTS) {
        return err_refuse(e, ERR_INVALID, "slots", "at most 4096", "%u", r->slots);
    }
    if (r->memory_bytes > INT64_MAX) {
        return err_refuse(e, ERR_INVALID, "memory_bytes", "less than 2^63", "%llu",
                          (unsigned long long)r->memory_bytes);
    }
    if (r->n_backends > HOST_MAX_BACKENDS) {
        return err_refuse(e, ERR_INVALID, "backends", "at most 16", "%zu", r->n_backends);
    }
    for (size_t i = 0; i < r->n_backends; i++) {
        const Coffer__V1__BackendReport *b = r->backends[i];
        if (!word_ok(b->name, BACKEND_NAME_MAX_BYTES) || !word_ok(b->tee, BACKEND_NAME_MAX_BYTES)) {
            return err_refuse(e, ERR_INVALID, "backends", "names of [a-z0-9_-]",
                              "\"%.40s\" with tee \"%.40s\"", b->name, b->tee);
        }
    }
    return 0;
}

static int handle_host_report(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    struct scheduler *p = s->priv;
    int64_t id = 0;
    int back = 0;

    (void)fx;
    if (msg_unpack(m, &pb, e) < 0) {
        return -1;
    }
    const Coffer__V1__HostReport *r = (const Coffer__V1__HostReport *)pb;
    if (check_report(m, r, e) < 0 ||
        store_host_report(s->db, r, m->payload, s->now_ms, config_int(s->config, "max-hosts"), &id,
                          &back, e) < 0) {
        return -1;
    }
    p->dirty = 1;
    /* Its given-up CVMs need not wait for the next repeat of their DestroyCvm. */
    return back ? store_host_hurry(s->db, id, s->now_ms, e) : 0;
}

/* ---- the service ----------------------------------------------------------------------------- */

static int open_scheduler(struct svc *s, struct err *e)
{
    struct scheduler *p = xcalloc(1, sizeof(*p));

    (void)e;
    p->queued_at_most = -1;
    p->shape_cursor = -1;
    s->priv = p;
    return 0;
}

static void close_scheduler(struct svc *s)
{
    free(s->priv);
    s->priv = NULL;
}

#define MS(n, dflt_, help_)                                                                        \
    {                                                                                              \
        .name = n, .type = CONFIG_INT, .dflt = dflt_, .min = 1, .max = 604800000, .help = help_    \
    }

static const struct config_item items[] = {
    {.name = "max-queued",
     .type = CONFIG_INT,
     .dflt = "100000",
     .min = 1,
     .max = 10000000,
     .help = "jobs that may wait; more are refused (\"queue full\")"},
    {.name = "max-hosts",
     .type = CONFIG_INT,
     .dflt = "4096",
     .min = 1,
     .max = 100000,
     .help = "hosts that may report"},
    MS("queue-timeout-ms", "600000", "longest wait for a host"),
    MS("launch-timeout-ms", "60000", "from LaunchCvm to booted"),
    MS("attest-timeout-ms", "60000", "from booted to the verdict"),
    MS("keys-timeout-ms", "60000", "from the verdict to the keys"),
    MS("run-grace-ms", "30000", "added to the spec's timeout"),
    MS("seal-timeout-ms", "120000",
       "added to it again: unpacking before and sealing after the run"),
    MS("decision-timeout-ms", "900000", "from the worker's end to the gate's decision"),
    MS("refusal-wait-ms", "3000", "from a refused worker's end to the refusal itself"),
    {.name = "held-timeout-ms",
     .type = CONFIG_INT,
     .dflt = "691200000",
     .min = 1,
     .max = 34560000000,
     .help = "longest time held; keep it above the gate's hold-timeout-ms"},
    MS("host-timeout-ms", "15000", "a host that is silent for so long is lost"),
    MS("host-gone-ms", "600000", "and for so long, is not waited for to destroy its CVMs"),
    MS("destroy-retry-ms", "5000", "first repeat of DestroyCvm; doubles up to 16 times this"),
    MS("prefer-wait-ms", "30000", "tee preferred: how long to wait for a host that is in use"),
    MS("reserve-after-ms", "30000", "after so long in the queue a large job gets a host kept free"),
    MS("resume-grace-ms", "30000", "after a start, time to read the facts before deadlines count"),
};

static const struct handler handlers[] = {
    {SUBJ_JOB_SCHEDULE, handle_schedule}, {SUBJ_JOB_CANCEL, handle_cancel},
    {SUBJ_JOB_QUERY, scheduler_query},    {SUBJ_HOST_REPORT, handle_host_report},
    {SUBJ_CVM_EVENT, handle_cvm_event},   {SUBJ_VERDICT, handle_verdict},
    {SUBJ_KEY_RELEASE, handle_release},   {SUBJ_GATE_DECISION, handle_decision},
};

const struct service_def scheduler_service = {
    .id = SVC_SCHEDULER,
    .migrations = scheduler_migrations,
    .n_migrations = SCHEDULER_N_MIGRATIONS,
    .handlers = handlers,
    .n_handlers = ARRAY_LEN(handlers),
    .open = open_scheduler,
    .close = close_scheduler,
    .resume = scheduler_resume,
    .tick = scheduler_tick,
    .next_tick_ms = scheduler_next_tick_ms,
    .config = items,
    .n_config = ARRAY_LEN(items),
};

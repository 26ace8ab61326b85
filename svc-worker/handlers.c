/* One attempt, from the challenge to the sealed result. Everything here is memory of this process;
 * the engine's database holds what is being published, and that is sealed. */
#include "svc-worker/worker.h"

#define NONCE_BYTES 32u
#define SENDER_BYTES 8
#define CLOCK_MAX_OFF_MS 60000

struct worker {
    const struct worker_launch *launch; /* borrowed */
    enum exec_state state;
    struct jkey *tee;
    /* Part of every message id: all workers share one bus user, and the server drops what comes
     * with an id that it has just seen, whoever sent that. This one nobody else can know. */
    char sender[2 * SENDER_BYTES + 1];
    struct secret *release; /* as opened */
    struct worker_keys keys;
    void *attest;          /* the attester's own, between its two steps */
    struct buf attest_key; /* for the request of a challenge */
    struct buf evidence;
    char *runtime_data;
    uint32_t sent;   /* how often evidence was */
    int64_t next_ms; /* when to ask or send again */
    struct err refusal;
    const char *refused_by; /* static; NULL: nobody else */
};

static struct worker *worker_of(const struct svc *s)
{
    return s->priv;
}

static int move(struct worker *w, enum exec_event ev, struct err *e)
{
    return exec_next(w->state, ev, &w->state, e);
}

static int refused(struct worker *w, const struct err *why, struct effects *fx, struct err *e)
{
    if (move(w, XV_REFUSE, e)) {
        return -1;
    }
    w->refusal = *why;
    fx_action(fx, WORKER_ACT_REFUSED, BYTES("", 0));
    return 0;
}

/* What another service said; whoever hears of it is told who that was. */
static int refused_by(struct worker *w, const Coffer__V1__Refusal *r, struct effects *fx,
                      struct err *e)
{
    struct err why = {0};
    int by = service_from_name(r->by);

    err_from_refusal(&why, r);
    w->refused_by = by < 0 ? NULL : service_name((enum service)by);
    return refused(w, &why, fx, e);
}

/* ---- start and challenge --------------------------------------------------------------------- */

int worker_start(struct svc *s, void *start_args, struct effects *fx, struct err *e)
{
    const struct worker_start_args *a = start_args;
    struct worker *w = worker_of(s);
    uint8_t sender[SENDER_BYTES];
    struct err why = {0};

    if (w->launch) {
        return err_set(e, ERR_WRONG_STATE, "worker: started before");
    }
    if (jkey_generate(&w->tee, e)) {
        return -1;
    }
    random_bytes(sender, sizeof(sender));
    _cleanup_free_ char *hex = hex_encode(sender, sizeof(sender));
    snprintf(w->sender, sizeof(w->sender), "%s", hex);
    w->launch = a->launch;
    const struct attester *at = w->launch->attester;
    if (at->begin && at->begin(&w->attest, &w->attest_key, &why)) {
        return refused(w, &why, fx, e);
    }
    w->next_ms = s->now_ms + WORKER_REPEAT_MS;
    fx_action(fx, WORKER_ACT_CHALLENGE, BYTES("", 0));
    return 0;
}

void worker_challenge(const struct svc *s, Coffer__V1__ChallengeRequest *ret)
{
    const struct worker *w = worker_of(s);
    const Coffer__V1__LaunchConfig *c = w->launch->pb;

    coffer__v1__challenge_request__init(ret);
    ret->job = c->job;
    ret->attempt = c->attempt;
    ret->tee = c->tee;
    ret->attest_key = (ProtobufCBinaryData){.data = w->attest_key.p, .len = w->attest_key.n};
}

static int send_evidence(struct svc *s, struct effects *fx, struct err *e)
{
    struct worker *w = worker_of(s);
    const Coffer__V1__LaunchConfig *c = w->launch->pb;
    Coffer__V1__SubmitEvidence m = COFFER__V1__SUBMIT_EVIDENCE__INIT;
    char msg_id[128];

    m.job = c->job;
    m.attempt = c->attempt;
    m.tee = c->tee;
    m.evidence.data = w->evidence.p;
    m.evidence.len = w->evidence.n;
    m.runtime_data.data = (uint8_t *)w->runtime_data;
    m.runtime_data.len = strlen(w->runtime_data);
    m.spec_jws = c->spec_jws;
    snprintf(msg_id, sizeof(msg_id), "%s.%u.evidence.%s.%u", c->job, c->attempt, w->sender,
             w->sent + 1);
    if (fx_publish(fx, SUBJ_EVIDENCE_SUBMIT, "", msg_id, &m.base, e)) {
        return -1;
    }
    w->sent++;
    w->next_ms = s->now_ms + WORKER_REPEAT_MS;
    return 0;
}

/* A VM's clock is what its host made it. Deadlines and certificates are judged by it here, so a
 * host must not be able to turn it far, and one that is wrong by accident should hear of it. */
static int check_clock(const struct svc *s, int64_t verifier_ms, struct err *e)
{
    char expected[80];

    if (verifier_ms < 0) {
        return err_refuse(e, ERR_INVALID, "challenge.now_ms", "milliseconds since 1970", "%lld",
                          (long long)verifier_ms);
    }
    if (!verifier_ms || (s->now_ms <= verifier_ms ? verifier_ms - s->now_ms
                                                  : s->now_ms - verifier_ms) <= CLOCK_MAX_OFF_MS) {
        return 0;
    }
    snprintf(expected, sizeof(expected), "within %d ms of the verifier's %lld", CLOCK_MAX_OFF_MS,
             (long long)verifier_ms);
    return err_refuse(e, ERR_DENIED, "clock", expected, "%lld", (long long)s->now_ms);
}

static void attest_end(struct worker *w)
{
    if (w->attest) {
        w->launch->attester->end(TAKE_PTR(w->attest));
    }
}

static int attest(struct svc *s, const Coffer__V1__Challenge *c, struct effects *fx, struct err *e)
{
    struct worker *w = worker_of(s);
    const Coffer__V1__LaunchConfig *l = w->launch->pb;
    uint8_t report_data[64];

    if (c->nonce.len != NONCE_BYTES) {
        return err_refuse(e, ERR_INVALID, "challenge.nonce", "32 bytes", "%zu", c->nonce.len);
    }
    if (check_clock(s, c->now_ms, e)) {
        return -1;
    }
    if (move(w, XV_CHALLENGE, e) ||
        runtime_data_make(l->job, l->attempt, BYTES(c->nonce.data, c->nonce.len), w->tee,
                          &w->runtime_data, report_data, e) ||
        w->launch->attester->collect(w->attest, report_data,
                                     BYTES(c->credential.data, c->credential.len), &w->evidence,
                                     e) ||
        move(w, XV_EVIDENCE, e)) {
        return -1;
    }
    attest_end(w); /* sent again as it is */
    return send_evidence(s, fx, e);
}

int worker_on_reply(struct svc *s, const Coffer__V1__Reply *r, struct effects *fx, struct err *e)
{
    struct worker *w = worker_of(s);
    struct err why = {0};

    if (!r || w->state != EX_NEW) {
        return 0; /* the tick asks again; or the answer to a repeat came late */
    }
    if (r->body_case == COFFER__V1__REPLY__BODY_REFUSAL) {
        err_from_refusal(&why, r->refusal);
        return err_is_transient(why.code) ? 0 : refused_by(w, r->refusal, fx, e);
    }
    if (r->body_case != COFFER__V1__REPLY__BODY_CHALLENGE) {
        return 0;
    }
    if (attest(s, r->challenge, fx, &why)) {
        return refused(w, &why, fx, e);
    }
    return 0;
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* Anybody who may publish releases can send us one, and our public key is no secret. So one that
 * does not open, or is not whole, is an error of that message and changes nothing here. */
static int on_release(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    struct worker *w = worker_of(s);
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    _cleanup_secret_ struct secret *plain = NULL;
    struct worker_keys keys = {0};

    if (msg_unpack(m, &pb, e)) {
        return -1;
    }
    const Coffer__V1__ReleaseKey *r = (const Coffer__V1__ReleaseKey *)pb;
    if (w->state != EX_SUBMITTED || !streq(r->job, w->launch->pb->job) ||
        r->attempt != w->launch->pb->attempt) {
        return 0;
    }
    if (r->refusal) {
        return refused_by(w, r->refusal, fx, e);
    }
    if (jwe_decrypt(w->tee, r->jwe, WORKER_RELEASE_MAX_BYTES, &plain, e) ||
        worker_keys_parse(BYTES(secret_cp(plain), secret_n(plain)), w->launch, &keys, e)) {
        return err_wrap(e, "release");
    }
    if (move(w, XV_KEYS, e) || move(w, XV_RUN, e)) {
        worker_keys_done(&keys);
        return -1;
    }
    w->keys = keys;
    w->release = TAKE_PTR(plain);
    fx_action(fx, WORKER_ACT_RUN, BYTES("", 0));
    return 0;
}

/* ---- result ---------------------------------------------------------------------------------- */

static int publish_result(struct worker *w, Coffer__V1__Result *m, const char *part,
                          struct effects *fx, struct err *e)
{
    const Coffer__V1__LaunchConfig *c = w->launch->pb;
    char msg_id[128];

    m->job = c->job;
    m->attempt = c->attempt;
    snprintf(msg_id, sizeof(msg_id), "%s.%u.result.%s.%s", c->job, c->attempt, w->sender, part);
    return fx_publish(fx, SUBJ_RESULT, c->job, msg_id, &m->base, e);
}

static int publish_chunks(struct worker *w, struct bytes stream, struct effects *fx, struct err *e)
{
    uint32_t index = 0;

    for (size_t at = 0; at < stream.n; at += RESULT_CHUNK_BYTES, index++) {
        Coffer__V1__Result m = COFFER__V1__RESULT__INIT;
        Coffer__V1__ResultChunk c = COFFER__V1__RESULT_CHUNK__INIT;
        char part[16];
        c.index = index;
        c.data.data = (uint8_t *)(uintptr_t)(stream.p + at);
        c.data.len = result_chunk_bytes(stream.n, index);
        m.part_case = COFFER__V1__RESULT__PART_CHUNK;
        m.chunk = &c;
        snprintf(part, sizeof(part), "%u", index);
        if (publish_result(w, &m, part, fx, e)) {
            return -1;
        }
    }
    return 0;
}

int worker_run_done(struct svc *s, const struct worker_outcome *o, struct effects *fx,
                    struct err *e)
{
    struct worker *w = worker_of(s);
    _cleanup_(worker_sealed_done) struct worker_sealed sealed = {0};
    Coffer__V1__Result m = COFFER__V1__RESULT__INIT;
    enum exec_state to;

    if (exec_next(w->state, XV_OUTCOME, &to, e) ||
        worker_seal(w->launch, w->tee, w->keys.gate, w->keys.ear, o, &sealed, e)) {
        return -1;
    }
    m.part_case = COFFER__V1__RESULT__PART_MANIFEST_JWS;
    m.manifest_jws = sealed.manifest_jws;
    if (publish_result(w, &m, "manifest", fx, e) ||
        publish_chunks(w, buf_bytes(&sealed.stream), fx, e)) {
        return -1;
    }
    w->state = to;
    w->refusal = o->refusal;
    /* They have done their work. */
    secret_free(w->release);
    w->release = NULL;
    worker_keys_done(&w->keys);
    return 0;
}

int worker_published(struct svc *s, struct err *e)
{
    return move(worker_of(s), XV_PUBLISHED, e);
}

/* ---- time ------------------------------------------------------------------------------------ */

static int waiting(const struct worker *w)
{
    return w->launch &&
           (w->state == EX_NEW || w->state == EX_CHALLENGED || w->state == EX_SUBMITTED);
}

static int on_tick(struct svc *s, struct effects *fx, struct err *e)
{
    struct worker *w = worker_of(s);

    if (!waiting(w)) {
        return 0;
    }
    int64_t deadline = w->launch->pb->deadline_ms;
    if (deadline && s->now_ms >= deadline) {
        struct err why = {0};
        err_refuse(&why, ERR_TIMEOUT, "worker.deadline", "keys before the deadline",
                   "none, the worker is %s", exec_state_name(w->state));
        return refused(w, &why, fx, e);
    }
    if (s->now_ms < w->next_ms) {
        return 0;
    }
    if (w->state == EX_SUBMITTED) {
        return send_evidence(s, fx, e);
    }
    w->next_ms = s->now_ms + WORKER_REPEAT_MS;
    fx_action(fx, WORKER_ACT_CHALLENGE, BYTES("", 0));
    return 0;
}

static int64_t next_tick(struct svc *s)
{
    const struct worker *w = worker_of(s);

    if (!waiting(w)) {
        return INT64_MAX;
    }
    int64_t deadline = w->launch->pb->deadline_ms;
    return deadline && deadline < w->next_ms ? deadline : w->next_ms;
}

/* ---- the service ----------------------------------------------------------------------------- */

enum exec_state worker_state(const struct svc *s)
{
    return worker_of(s)->state;
}

const struct err *worker_refusal(const struct svc *s)
{
    return &worker_of(s)->refusal;
}

const char *worker_refused_by(const struct svc *s)
{
    return worker_of(s)->refused_by;
}

const struct secret *worker_release(const struct svc *s)
{
    return worker_of(s)->release;
}

const struct jkey *worker_tee_key(const struct svc *s)
{
    return worker_of(s)->tee;
}

static int worker_open(struct svc *s, struct err *e)
{
    struct worker *w = xcalloc(1, sizeof(*w));

    (void)e;
    w->attest_key = BUF_INIT(ATTEST_KEY_MAX_BYTES);
    w->evidence = BUF_INIT(subjects[SUBJ_EVIDENCE_SUBMIT].max_bytes / 2);
    s->priv = w;
    return 0;
}

static void worker_close(struct svc *s)
{
    struct worker *w = worker_of(s);

    if (!w) {
        return;
    }
    jkey_free(w->tee);
    secret_free(w->release);
    worker_keys_done(&w->keys);
    attest_end(w);
    buf_done(&w->attest_key);
    buf_done(&w->evidence);
    free(w->runtime_data);
    free(w);
    s->priv = NULL;
}

static const struct handler handlers[] = {
    {SUBJ_KEY_RELEASE, on_release},
};

const struct service_def worker_service = {
    .id = SVC_WORKER,
    .handlers = handlers,
    .n_handlers = ARRAY_LEN(handlers),
    .open = worker_open,
    .close = worker_close,
    .tick = on_tick,
    .next_tick_ms = next_tick,
};

/* The consumer who submits, cancels and fetches, the owner who revokes, the reviewer. */
#include <inttypes.h>

#include "common/result.h"
#include "svc-kbs/kbs.h"
#include "tests/sim/sim.h"

#define IMAGE "sha256:abababababababababababababababababababababababababababababababab"
#define OTHER_IMAGE "sha256:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"

struct sim_job *sim_job_find(struct sim *s, const char *job)
{
    for (size_t i = 0; i < s->n_jobs; i++) {
        if (streq(s->jobs[i].job, job)) {
            return &s->jobs[i];
        }
    }
    return NULL;
}

/* ---- plans ----------------------------------------------------------------------------------- */

enum { OTHER_IMAGE_ = 1, STRANGER = 2, CANCEL = 4, REVOKE = 8, IMAGE_KEY = 16, STRICT = 32 };

struct plan {
    const char *name, *expected; /* the end without faults; NULL: it depends */
    enum sim_dataset dataset;
    enum workload workload;
    enum review_plan review;
    const char *mode, *tee;
    unsigned flags;
};

#define SAMPLE "required", "sample"
static const struct plan plans[] = {
    {"good", "released", DS_GOOD, WL_OK, REVIEW_NEVER, SAMPLE, IMAGE_KEY},
    {"good, any TEE", "released", DS_GOOD, WL_OK, REVIEW_NEVER, "none", "sample", 0},
    {"fails", "failed", DS_GOOD, WL_FAIL, REVIEW_NEVER, SAMPLE, 0},
    {"held, approved", "released", DS_GOOD, WL_VERBATIM, REVIEW_APPROVE, SAMPLE, 0},
    {"held, rejected", "rejected", DS_GOOD, WL_VERBATIM, REVIEW_REJECT, SAMPLE, 0},
    {"held, not reviewed", "rejected", DS_GOOD, WL_VERBATIM, REVIEW_NEVER, SAMPLE, 0},
    {"verbatim, rejected", "rejected", DS_GOOD, WL_VERBATIM, REVIEW_NEVER, SAMPLE, STRICT},
    {"wrong type", "rejected", DS_GOOD, WL_BAD_TYPE, REVIEW_NEVER, SAMPLE, 0},
    {"never returns", "timed-out", DS_GOOD, WL_NEVER, REVIEW_NEVER, SAMPLE, 0},
    {"image not granted", "refused", DS_GOOD, WL_OK, REVIEW_NEVER, SAMPLE, OTHER_IMAGE_},
    {"consumer not granted", "refused", DS_GOOD, WL_OK, REVIEW_NEVER, SAMPLE, STRANGER},
    {"grant expires", NULL, DS_EXPIRING, WL_OK, REVIEW_NEVER, SAMPLE, 0},
    {"grant revoked", NULL, DS_REVOKED, WL_OK, REVIEW_NEVER, SAMPLE, REVOKE},
    {"unknown dataset", "refused", DS_UNKNOWN, WL_OK, REVIEW_NEVER, SAMPLE, 0},
    {"downgraded", "released", DS_GOOD, WL_OK, REVIEW_NEVER, "preferred", "tdx", 0},
    {"hardware data", "refused", DS_HARDWARE, WL_OK, REVIEW_NEVER, "preferred", "tdx", 0},
    {"no such host", "timed-out", DS_GOOD, WL_OK, REVIEW_NEVER, "required", "tdx", 0},
    {"cancelled", NULL, DS_GOOD, WL_OK, REVIEW_NEVER, SAMPLE, CANCEL},
    {"cancelled while held", NULL, DS_GOOD, WL_VERBATIM, REVIEW_NEVER, SAMPLE, CANCEL},
};

static char *sign_spec(const struct sim_job *j, const struct plan *p, char ret_job[JOB_ID_LEN + 1])
{
    _cleanup_spec_ struct spec *spec = NULL;
    char nonce[64];
    char *jws = NULL;

    snprintf(nonce, sizeof(nonce), "simulated-%" PRIu64 "-%zu-nonce", j->sim->seed, j->index);
    json_t *keys = p->flags & IMAGE_KEY ? json_pack("[s]", world.image_key) : json_array();
    _cleanup_json_ json_t *o = json_pack(
        "{s:s,s:s,s:{s:s,s:s},s:{s:s,s:b,s:o,s:[s],s:{},s:s},s:[{s:s,s:s}],s:{s:s,s:[s]},"
        "s:{s:i,s:i,s:i,s:i,s:i,s:b,s:s,s:i,s:b},s:i,s:I,s:s,s:{s:s,s:i,s:[{s:s,s:s}],s:[o]},s:{s:"
        "i,s:i,s:i}}",
        "apiVersion", "coffer/v1", "kind", "Job", "metadata", "name", "sim", "nonce", nonce,
        "workload", "image", p->flags & OTHER_IMAGE_ ? OTHER_IMAGE : IMAGE, "encrypted",
        p->flags & IMAGE_KEY ? 1 : 0, "imageKeys", keys, "args", "x", "env", "workdir", "/",
        "datasets", "id", world.dataset[p->dataset], "mount", "/data/in", "tee", "mode", p->mode,
        "types", p->tee, "resources", "cpuMillis", 1000, "memoryBytes", 268435456, "pids", 64,
        "tmpBytes", 0, "scratchBytes", 0, "lockMemory", 0, "hugepages", "none", "numaNode", -1,
        "cpuPinning", 0, "timeoutMs", 20000, "attempts", (json_int_t)j->attempts, "network", "none",
        "output", "path", "/output", "maxBytes", 65536, "files", "path", "out.txt", "type",
        "text/plain", "recipients", jkey_public_jwk(j->consumer), "gate", "holdAt", 20, "rejectAt",
        p->flags & STRICT ? 30 : 60, "maxVerbatimPercent", 5);
    if (!o) {
        abort();
    }
    MUST(spec_from_json(o, &spec, e));
    MUST(spec_sign(spec, j->consumer, &jws, e));
    snprintf(ret_job, JOB_ID_LEN + 1, "%s", spec->job_id);
    return jws;
}

/* ---- schedule -------------------------------------------------------------------------------- */

static void submit(struct sim *s, void *arg, int64_t n);

static void on_schedule_reply(struct sim *s, void *arg, const Coffer__V1__Reply *r)
{
    struct sim_job *j = arg;

    if (r->body_case == COFFER__V1__REPLY__BODY_JOB_ACCEPTED) {
        if (!streq(r->job_accepted->job, j->job)) {
            sim_fail(s, "the scheduler calls job %s %s", j->job, r->job_accepted->job);
        }
        j->accepted = 1;
        sim_trace(s, "client", "job %zu is accepted", j->index);
    } else if (r->body_case == COFFER__V1__REPLY__BODY_REFUSAL) {
        sim_fail(s, "job %zu (%s) is not accepted: %s", j->index, j->plan, r->refusal->message);
    }
}

/* A durable request: stored, so the reply is what may be lost. A client that hears nothing, and
 * sees no event of its job, sends it again. */
static void submit(struct sim *s, void *arg, int64_t n)
{
    struct sim_job *j = arg;
    Coffer__V1__ScheduleJob m = COFFER__V1__SCHEDULE_JOB__INIT;
    char id[64], inbox[64];

    if (j->accepted || j->last_seq) {
        return;
    }
    if (n > 100) {
        sim_fail(s, "stuck: job %zu is not accepted after %d tries", j->index, (int)n);
    }
    sim_in(s, 5000, submit, j, n + 1);
    if (sim_chance(s, s->f.lose_publish)) {
        return;
    }
    m.spec_jws = j->jws;
    size_t size = coffer__v1__schedule_job__get_packed_size(&m);
    _cleanup_free_ uint8_t *packed = xmalloc(size);
    coffer__v1__schedule_job__pack(&m, packed);
    snprintf(id, sizeof(id), "%s.schedule", j->job);
    struct request *r = xcalloc(1, sizeof(*r));
    *r = (struct request){.fn = on_schedule_reply, .arg = j};
    if (s->n_requests == s->size_requests) {
        s->size_requests = s->size_requests ? s->size_requests * 2 : 64;
        s->requests = xrealloc(s->requests, s->size_requests * sizeof(struct request *));
    }
    snprintf(inbox, sizeof(inbox), "_INBOX.sim.%zu", s->n_requests);
    s->requests[s->n_requests++] = r;
    bus_inject(s, "client", SUBJ_JOB_SCHEDULE, "", id, BYTES(packed, size), inbox);
}

/* ---- cancel ---------------------------------------------------------------------------------- */

static void on_cancel_reply(struct sim *s, void *arg, const Coffer__V1__Reply *r)
{
    struct sim_job *j = arg;

    if (r->body_case == COFFER__V1__REPLY__BODY_JOB_CANCELLED) {
        j->cancelled = 1;
        sim_trace(s, "client", "job %zu: cancel says %s", j->index, r->job_cancelled->state);
    }
}

static void cancel(struct sim *s, void *arg, int64_t n)
{
    struct sim_job *j = arg;
    Coffer__V1__CancelJob m = COFFER__V1__CANCEL_JOB__INIT;

    if (j->cancelled || j->terminal || n > 40) {
        return;
    }
    _cleanup_free_ char *jws =
        world_sign(json_pack("{s:i,s:s,s:I}", "v", 1, "job", j->job, "iat",
                             (json_int_t)(node_clock(s->scheduler) / 1000)),
                   sim_random(s, 16) ? j->consumer : world.attacker, "coffer-cancel+jws");
    m.cancel_jws = jws;
    bus_ask(s, NULL, SUBJ_JOB_CANCEL, &m.base, on_cancel_reply, j);
    sim_in(s, 3000, cancel, j, n + 1);
}

/* ---- revoke ---------------------------------------------------------------------------------- */

static void on_revoke_reply(struct sim *s, void *arg, const Coffer__V1__Reply *r)
{
    struct sim_job *j = arg;

    if (r->body_case == COFFER__V1__REPLY__BODY_OWNER) {
        j->revoked = 1;
        sim_trace(s, "client", "the grant is revoked");
    }
}

static void revoke_grant(struct sim *s, void *arg, int64_t n)
{
    struct sim_job *j = arg;
    Coffer__V1__OwnerCommand m = COFFER__V1__OWNER_COMMAND__INIT;

    if (j->revoked || n > 40) {
        return;
    }
    _cleanup_free_ char *jws = world_sign(json_pack("{s:i,s:s,s:I,s:s}", "v", 1, "cmd", "revoke",
                                                    "iat", (json_int_t)(node_clock(s->kbs) / 1000),
                                                    "grant", world.grant[DS_REVOKED]),
                                          world.owner, OWNER_JWS_TYP);
    m.command_jws = jws;
    bus_ask(s, NULL, SUBJ_OWNER_COMMAND, &m.base, on_revoke_reply, j);
    sim_in(s, 5000, revoke_grant, j, n + 1);
}

/* ---- review ---------------------------------------------------------------------------------- */

static void on_review_reply(struct sim *s, void *arg, const Coffer__V1__Reply *r)
{
    struct sim_job *j = arg;

    (void)s;
    if (r->body_case == COFFER__V1__REPLY__BODY_REVIEW) {
        j->reviewed = 1;
    }
}

static void review(struct sim *s, void *arg, int64_t n)
{
    struct sim_job *j = arg;
    Coffer__V1__ReviewRequest m = COFFER__V1__REVIEW_REQUEST__INIT;

    if (j->reviewed || j->terminal || n > 40 || !j->held_attempt) {
        return;
    }
    _cleanup_free_ char *jws =
        world_sign(json_pack("{s:i,s:s,s:I,s:s,s:s,s:I}", "v", 1, "job", j->job, "attempt",
                             (json_int_t)j->held_attempt, "verb",
                             j->review == REVIEW_APPROVE ? "approve" : "reject", "reason", "seen",
                             "iat", (json_int_t)(node_clock(s->gate) / 1000)),
                   sim_random(s, 8) ? world.reviewer : world.attacker, "coffer-review+jws");
    m.what_case = COFFER__V1__REVIEW_REQUEST__WHAT_REVIEW_JWS;
    m.review_jws = jws;
    bus_ask(s, NULL, SUBJ_GATE_REVIEW, &m.base, on_review_reply, j);
    sim_in(s, 4000, review, j, n + 1);
}

/* ---- fetch ----------------------------------------------------------------------------------- */

static void open_output(struct sim *s, struct sim_job *j, const Coffer__V1__FetchReply *f)
{
    _cleanup_json_ json_t *h = NULL;
    _cleanup_free_ char *jwe = NULL;
    _cleanup_secret_ struct secret *key = NULL;
    _cleanup_area_ struct area *plain = NULL;
    struct err e = {0};

    if (json_parse("header", BYTES_STR(f->header_json), 1u << 20, &h, &e) < 0) {
        sim_fail(s, "2: what was released of job %zu has no header: %s", j->index, e.msg);
    }
    jwe = json_dumps(json_object_get(json_object_get(h, "keys"), jkey_thumbprint(j->consumer)),
                     JSON_COMPACT);
    if (!jwe || jwe_decrypt(j->consumer, jwe, 1u << 16, &key, &e) < 0 ||
        result_open(BYTES(f->data.data, f->data.len), key, &plain, &e) < 0) {
        sim_fail(s, "2: what was released of job %zu does not open: %s", j->index, e.msg);
    }
    if (plain->n < 1000 || !memmem(plain->p, plain->n, world_output, strlen(world_output))) {
        sim_fail(s, "2: what was released of job %zu is not what its workload wrote", j->index);
    }
    j->fetched = 1;
    s->counts[COUNT_OPENED]++;
}

static void on_fetch_reply(struct sim *s, void *arg, const Coffer__V1__Reply *r)
{
    struct sim_job *j = arg;

    if (r->body_case != COFFER__V1__REPLY__BODY_FETCH) {
        return;
    }
    if (!j->decided_attempt) {
        sim_fail(s, "2: output of job %zu left without a decision to release it", j->index);
    }
    if (!j->fetched) {
        open_output(s, j, r->fetch);
    }
}

/* Those who want an output ask again and again, whatever became of it. */
static void fetch(struct sim *s, void *arg, int64_t n)
{
    struct sim_job *j = arg;
    Coffer__V1__FetchResult m = COFFER__V1__FETCH_RESULT__INIT;

    if (j->fetched || n > 200) {
        return;
    }
    if (j->terminal && !j->decided_attempt && n > 4) {
        return;
    }
    m.job = j->job;
    bus_ask(s, NULL, SUBJ_RESULT_FETCH, &m.base, on_fetch_reply, j);
    sim_in(s, j->decided_attempt ? 3000 : 20000, fetch, j, n + 1);
}

void client_saw_decision(struct sim *s, const Coffer__V1__GateDecision *d)
{
    struct sim_job *j = sim_job_find(s, d->job);

    if (!j) {
        return;
    }
    if (d->outcome == COFFER__V1__GATE_OUTCOME__GATE_HELD && j->review != REVIEW_NEVER) {
        j->reviewed = 0;
        sim_in(s, sim_between(s, 100, 30000), review, j, 0);
    }
    if (d->outcome == COFFER__V1__GATE_OUTCOME__GATE_RELEASED && !j->fetched) {
        sim_in(s, sim_between(s, 1, 2000), fetch, j, 0);
    }
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void plan_job(struct sim *s, size_t i)
{
    struct sim_job *j = &s->jobs[i];
    const struct plan *p =
        &plans[sim_random(s, 3) ? sim_random(s, ARRAY_LEN(plans)) : sim_random(s, 4)];
    int64_t start = s->now;

    *j = (struct sim_job){.sim = s,
                          .index = i,
                          .workload = p->workload,
                          .review = p->review,
                          .plan = p->name,
                          .expected = s->quiet ? p->expected : NULL,
                          .attempts = (int64_t)(1 + sim_random(s, 3)),
                          .consumer = p->flags & STRANGER ? world.other_consumer : world.consumer,
                          .run_ms = sim_between(s, 10, sim_random(s, 4) ? 2000 : 15000)};
    j->jws = sign_spec(j, p, j->job);
    j->submit_ms = start + sim_between(s, 500, 30000);
    sim_at(s, j->submit_ms, submit, j, 0);
    if (p->flags & CANCEL) {
        j->cancel_ms = j->submit_ms + sim_between(s, 1, sim_random(s, 2) ? 8000 : 60000);
        sim_at(s, j->cancel_ms, cancel, j, 0);
    }
    if (p->flags & REVOKE) {
        j->revoke_ms = j->submit_ms + sim_between(s, 1, 10000);
        sim_at(s, j->revoke_ms, revoke_grant, j, 0);
    }
    sim_at(s, j->submit_ms + sim_between(s, 1, 20000), fetch, j, 0);
    sim_trace(s, "client", "job %zu is %s: %s, %" PRId64 " attempts", i, j->job, p->name,
              j->attempts);
}

void client_plan(struct sim *s)
{
    s->n_jobs = 2 + sim_random(s, SIM_JOBS - 1);
    for (size_t i = 0; i < s->n_jobs; i++) {
        plan_job(s, i);
    }
    s->counts[COUNT_JOBS] += s->n_jobs;
}

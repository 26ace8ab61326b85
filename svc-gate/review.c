/* Held results: shown to anybody who may ask (no content, only sizes and reasons), approved or
 * rejected by a signature of a reviewer that the trust file names. */
#include "svc-gate/gate_int.h"

#define REVIEW_TYP "coffer-review+jws"
#define REVIEW_MAX_BYTES 12288u
#define REVIEW_WINDOW_S 300
#define REASON_MAX_BYTES 300

/* ---- what is shown --------------------------------------------------------------------------- */

struct held {
    Coffer__V1__HeldResult pb;
    char job[JOB_ID_LEN + 1];
    Coffer__V1__ResultFile *files;
    struct decision_row d; /* the strings of the above */
};

static void held_done(struct held *h)
{
    for (size_t i = 0; h->pb.files && i < h->pb.n_files; i++) {
        free(h->pb.files[i]);
    }
    free(h->pb.files);
    free(h->pb.reasons);
    decision_row_done(&h->d);
    memset(h, 0, sizeof(*h));
}

/* What was not released must not leave in the sizes of many files either. */
static uint64_t size_shown(const struct held *h, uint64_t bytes)
{
    uint64_t shown = 1;

    if (h->d.outcome == COFFER__V1__GATE_OUTCOME__GATE_RELEASED || !bytes) {
        return bytes;
    }
    while (shown < bytes) {
        shown *= 2;
    }
    return shown;
}

static void fill_lists(struct held *h)
{
    size_t i;
    json_t *v;

    h->pb.reasons = xcalloc(json_array_size(h->d.reasons) + 1, sizeof(char *));
    json_array_foreach(h->d.reasons, i, v)
    {
        h->pb.reasons[h->pb.n_reasons++] = (char *)(uintptr_t)json_string_value(v);
    }
    h->pb.files = xcalloc(json_array_size(h->d.files) + 1, sizeof(h->pb.files[0]));
    json_array_foreach(h->d.files, i, v)
    {
        Coffer__V1__ResultFile *f = xcalloc(1, sizeof(*f));
        coffer__v1__result_file__init(f);
        f->path = (char *)(uintptr_t)json_string_value(json_object_get(v, "path"));
        f->type = (char *)(uintptr_t)json_string_value(json_object_get(v, "type"));
        f->bytes = size_shown(h, (uint64_t)json_integer_value(json_object_get(v, "bytes")));
        h->pb.files[h->pb.n_files++] = f;
    }
}

/* 1, 0 when there is no decision, -1. */
static int held_load(struct svc *s, struct attempt_id id, struct held *h, struct err *e)
{
    _cleanup_(result_row_done) struct result_row row = {0};
    int rc = store_decision_last(s->db, id, &h->d, e);

    if (rc <= 0 || store_result_get(s->db, id, &row, e)) {
        return rc <= 0 ? rc : -1;
    }
    coffer__v1__held_result__init(&h->pb);
    snprintf(h->job, sizeof(h->job), "%s", id.job);
    h->pb.job = h->job;
    h->pb.attempt = (uint32_t)id.n;
    h->pb.outcome = h->d.outcome;
    h->pb.score = (uint32_t)h->d.score;
    h->pb.since_ms = h->d.at_ms;
    h->pb.expires_ms = row.expires_ms;
    fill_lists(h);
    return 1;
}

static int reply_held(const struct msg *m, struct held *list, size_t n, struct effects *fx,
                      struct err *e)
{
    Coffer__V1__HeldResult *ptrs[REVIEW_LIST_MAX];
    Coffer__V1__ReviewReply reply = COFFER__V1__REVIEW_REPLY__INIT;
    Coffer__V1__Reply r = COFFER__V1__REPLY__INIT;

    for (size_t i = 0; i < n; i++) {
        ptrs[i] = &list[i].pb;
    }
    reply.n_held = n;
    reply.held = ptrs;
    r.body_case = COFFER__V1__REPLY__BODY_REVIEW;
    r.review = &reply;
    return fx_reply(fx, m, &r, e);
}

static int list_held(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    struct held *list = xcalloc(REVIEW_LIST_MAX, sizeof(*list));
    char job[JOB_ID_LEN + 1] = "";
    int64_t since = INT64_MIN;
    size_t n = 0;
    int rc = 1;

    while (n < REVIEW_LIST_MAX && rc == 1) {
        struct attempt_id id = {.job = job};
        char after[JOB_ID_LEN + 1];
        memcpy(after, job, sizeof(after));
        rc = store_held_next(s->db, since, after, job, &id.n, &since, e);
        if (rc == 1) {
            rc = held_load(s, id, &list[n], e);
            n += rc == 1;
            rc = rc == 0 ? 1 : rc;
        }
    }
    rc = rc < 0 ? -1 : reply_held(m, list, n, fx, e);
    for (size_t i = 0; i < REVIEW_LIST_MAX; i++) {
        held_done(&list[i]);
    }
    free(list);
    return rc;
}

static int reply_one(struct svc *s, const struct msg *m, struct attempt_id id, struct effects *fx,
                     struct err *e)
{
    _cleanup_(held_done) struct held h = {0};
    int rc = held_load(s, id, &h, e);

    if (rc < 0) {
        return -1;
    }
    if (!rc) {
        return err_refuse(e, ERR_NOT_FOUND, "review.job", "a job with a decision", "%.40s", id.job);
    }
    if (h.d.jws) {
        h.pb.decision_jws = h.d.jws;
    }
    return reply_held(m, &h, 1, fx, e);
}

static int show_one(struct svc *s, const struct msg *m, const char *job, struct effects *fx,
                    struct err *e)
{
    struct attempt_id id = {.job = job};

    if (!job_id_valid(job)) {
        return err_refuse(e, ERR_INVALID, "review.job", "a job id", "%.40s", job);
    }
    return store_decided_attempt(s->db, job, &id.n, e) || reply_one(s, m, id, fx, e) ? -1 : 0;
}

/* ---- what is decided ------------------------------------------------------------------------- */

struct review {
    json_t *json;
    const char *job, *verb, *reason; /* borrowed from json */
    int64_t attempt, iat;
    char reviewer[JKEY_THUMBPRINT_LEN + 1];
};

static void review_done(struct review *r)
{
    json_decref(r->json);
}

/* Which of the reviewers' keys it was: trust_verify says that one of them signed. */
static int find_reviewer(struct svc *s, const char *jws, char ret[JKEY_THUMBPRINT_LEN + 1])
{
    const struct trust_keys *keys = &gate_of(s)->trust->reviewers;

    for (size_t i = 0; i < keys->n; i++) {
        _cleanup_buf_ struct buf payload = BUF_INIT(REVIEW_MAX_BYTES);
        if (jws_verify(jws, keys->keys[i], REVIEW_TYP, REVIEW_MAX_BYTES, &payload, NULL) == 0) {
            snprintf(ret, JKEY_THUMBPRINT_LEN + 1, "%s", jkey_thumbprint(keys->keys[i]));
            return 0;
        }
    }
    return -1;
}

static int review_read(struct svc *s, const char *jws, struct review *r, struct err *e)
{
    static const char *const keys[] = {"v", "job", "attempt", "verb", "reason", "iat", NULL};
    _cleanup_buf_ struct buf payload = BUF_INIT(REVIEW_MAX_BYTES);
    int64_t v, now_s = s->now_ms / 1000;

    if (trust_verify(&gate_of(s)->trust->reviewers, "reviewer", jws, REVIEW_TYP, REVIEW_MAX_BYTES,
                     &payload, e)) {
        return -1;
    }
    if (find_reviewer(s, jws, r->reviewer) ||
        json_parse("review", buf_bytes(&payload), REVIEW_MAX_BYTES, &r->json, e) ||
        json_only_keys(r->json, "review", keys, e) ||
        json_get_int(r->json, "review", "v", 1, 1, &v, e) ||
        json_get_str(r->json, "review", "job", &r->job, e) ||
        json_get_int(r->json, "review", "attempt", 1, UINT32_MAX, &r->attempt, e) ||
        json_get_str(r->json, "review", "verb", &r->verb, e) ||
        json_get_str(r->json, "review", "reason", &r->reason, e) ||
        json_get_int(r->json, "review", "iat", 0, INT64_C(1) << 40, &r->iat, e)) {
        return -1;
    }
    if (!job_id_valid(r->job)) {
        return err_refuse(e, ERR_INVALID, "review.job", "a job id", "%.40s", r->job);
    }
    if (!streq(r->verb, "approve") && !streq(r->verb, "reject")) {
        return err_refuse(e, ERR_INVALID, "review.verb", "approve or reject", "%.20s", r->verb);
    }
    if (strlen(r->reason) > REASON_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "review.reason", "at most 300 bytes", "%zu",
                          strlen(r->reason));
    }
    if (r->iat < now_s - REVIEW_WINDOW_S || r->iat > now_s + REVIEW_WINDOW_S) {
        return err_refuse(e, ERR_EXPIRED, "review.iat", "within 300 seconds of now",
                          "%lld seconds away", (long long)(r->iat - now_s));
    }
    return 0;
}

/* The verdict so far: score and reasons of the first decision. */
static int verdict_so_far(const struct decision_row *d, struct verdict *v, struct err *e)
{
    size_t i;
    json_t *t;

    v->score.points = (uint32_t)d->score;
    json_array_foreach(d->reasons, i, t)
    {
        if (v->score.n == SCORE_MAX_REASONS || !json_is_string(t)) {
            return err_set(e, ERR_INTERNAL, "decision: stored reasons are not what was stored");
        }
        v->score.reasons[v->score.n++] = xstrdup(json_string_value(t));
    }
    return 0;
}

static int decide_held(struct svc *s, struct attempt_id id, enum result_event ev,
                       const char *reviewer, const struct err *reason, struct effects *fx,
                       struct err *e)
{
    _cleanup_(result_row_done) struct result_row row = {0};
    _cleanup_(decision_row_done) struct decision_row last = {0};
    _cleanup_(opened_done) struct opened o = {0};
    _cleanup_(verdict_done) struct verdict v = {.reviewer = reviewer};
    enum result_state to;

    if (store_result_get(s->db, id, &row, e) || admission_next(row.state, ev, &to, e) ||
        store_decision_last(s->db, id, &last, e) < 0 || verdict_so_far(&last, &v, e) ||
        opened_load(s, id, &row, &o, e)) {
        return -1;
    }
    v.outcome = COFFER__V1__GATE_OUTCOME__GATE_REJECTED;
    if (to == RS_RELEASED) {
        v.outcome = COFFER__V1__GATE_OUTCOME__GATE_RELEASED;
        if (release_output(s, id, &o, &v.files, e)) {
            return -1;
        }
    }
    if (reason) {
        v.reason = *reason;
    }
    return admission_apply(s, id, ev, s->now_ms + config_int(s->config, "record-keep-ms"), e) ||
                   decision_record(s, id, &o, &v, last.revision + 1, fx, e)
               ? -1
               : 0;
}

static int take_review(struct svc *s, const struct msg *m, const char *jws, struct effects *fx,
                       struct err *e)
{
    _cleanup_(review_done) struct review r = {0};
    struct err reason = {0};

    if (review_read(s, jws, &r, e)) {
        return -1;
    }
    struct attempt_id id = {.job = r.job, .n = r.attempt};
    int approve = streq(r.verb, "approve");
    err_refuse(&reason, ERR_DENIED, "review", "approved by a reviewer", "rejected: %s", r.reason);
    return decide_held(s, id, approve ? EV_APPROVE : EV_DENY, r.reviewer, approve ? NULL : &reason,
                       fx, e) ||
                   reply_one(s, m, id, fx, e)
               ? -1
               : 0;
}

int review_expire(struct svc *s, struct attempt_id id, struct effects *fx, struct err *e)
{
    struct err reason = {0};
    char expected[64];

    snprintf(expected, sizeof(expected), "within %lld ms",
             (long long)config_int(s->config, "hold-timeout-ms"));
    err_refuse(&reason, ERR_TIMEOUT, "review", expected, "none");
    return decide_held(s, id, EV_EXPIRE, NULL, &reason, fx, e);
}

/* Whoever waits for the review of an attempt that it still takes for the latest must hear that
 * there will be none: a host may have launched the newer one by itself. */
int review_supersede(struct svc *s, struct attempt_id id, struct effects *fx, struct err *e)
{
    struct err reason = {0};

    err_refuse(&reason, ERR_STALE, "result.attempt", "the latest attempt that has keys",
               "%lld, and a newer one has", (long long)id.n);
    return decide_held(s, id, EV_FENCE, NULL, &reason, fx, e);
}

int review_handle(struct svc *s, const struct msg *m, const Coffer__V1__ReviewRequest *q,
                  struct effects *fx, struct err *e)
{
    switch (q->what_case) {
    case COFFER__V1__REVIEW_REQUEST__WHAT_LIST:
        return list_held(s, m, fx, e);
    case COFFER__V1__REVIEW_REQUEST__WHAT_SHOW:
        return show_one(s, m, q->show, fx, e);
    case COFFER__V1__REVIEW_REQUEST__WHAT_REVIEW_JWS:
        return take_review(s, m, q->review_jws, fx, e);
    case COFFER__V1__REVIEW_REQUEST__WHAT__NOT_SET:
    case _COFFER__V1__REVIEW_REQUEST__WHAT__CASE_IS_INT_SIZE:
        break;
    }
    return err_refuse(e, ERR_INVALID, "review", "list, show or review_jws", "none of them");
}

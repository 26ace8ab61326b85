#include "svc-verifier/verifier.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "svc-verifier/store.h"

/* A job id becomes a subject token, so a request without a sound one has nowhere to be answered. */
static int check_names(const char *job, uint32_t attempt, struct err *e)
{
    if (!job_id_valid(job)) {
        return err_refuse(e, ERR_INVALID, "job", "a job id", "%zu other characters", strlen(job));
    }
    return attempt ? 0 : err_refuse(e, ERR_INVALID, "attempt", "1 or more", "0");
}

static int check_tee(const char *tee, const struct appraiser **ret, struct err *e)
{
    *ret = appraiser_find(tee);
    if (*ret) {
        return 0;
    }
    return err_refuse(e, ERR_UNSUPPORTED, "evidence.tee", appraiser_names(), "%s",
                      tee_name_valid(tee) ? tee : "something that is no name of a TEE");
}

/* ---- evidence.challenge ---- */

static int check_room(struct svc *s, const char *job, struct err *e)
{
    int64_t mine, outstanding, answered;

    if (verifier_store_outstanding(s->db, job, s->now_ms, &mine, e) ||
        verifier_store_totals(s->db, &outstanding, &answered, e)) {
        return -1;
    }
    if (mine >= CHALLENGES_PER_JOB_MAX) {
        return err_refuse(e, ERR_BUSY, "challenge.outstanding", "fewer than 8 of one job", "%jd",
                          (intmax_t)mine);
    }
    if (outstanding >= CHALLENGES_MAX || answered >= ANSWERS_MAX) {
        return err_refuse(e, ERR_BUSY, "challenge.outstanding",
                          "fewer than 200000, and 1000000 answered", "%jd, and %jd",
                          (intmax_t)outstanding, (intmax_t)answered);
    }
    return 0;
}

/* The credential that only the TEE with the worker's attestation key can open, if it needs one. */
static int make_credential(struct svc *s, const Coffer__V1__ChallengeRequest *req,
                           const struct appraiser *a, struct challenge *c,
                           struct buf *ret_credential, struct err *e)
{
    const struct verifier *v = s->priv;
    struct bytes key = BYTES(req->attest_key.data, req->attest_key.len);
    struct appraisal_challenge made = {0};

    if (!a->challenge) {
        return key.n ? err_refuse(e, ERR_INVALID, "evidence.attest_key", "none for this TEE",
                                  "%zu bytes", key.n)
                     : 0;
    }
    if (a->challenge(key, &v->policy, s->now_ms, &made, e)) {
        buf_done(&made.credential);
        return -1;
    }
    *ret_credential = made.credential;
    memcpy(c->proof, made.proof, sizeof(c->proof));
    c->has_proof = 1;
    return 0;
}

static int issue(struct svc *s, const Coffer__V1__ChallengeRequest *req, struct challenge *ret,
                 struct buf *ret_credential, struct err *e)
{
    struct challenge c = {.state = CHALLENGE_NONE, .attempt = req->attempt};
    const struct appraiser *a;

    if (check_names(req->job, req->attempt, e) || check_tee(req->tee, &a, e) ||
        check_room(s, req->job, e) || make_credential(s, req, a, &c, ret_credential, e)) {
        return -1;
    }
    snprintf(c.job, sizeof(c.job), "%s", req->job);
    random_bytes(c.nonce, sizeof(c.nonce));
    if (challenge_apply(s->db, &c, ON_ISSUE, s->now_ms, BYTES("", 0), e)) {
        return -1;
    }
    *ret = c;
    return 0;
}

int verifier_on_challenge(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    Coffer__V1__Reply reply = COFFER__V1__REPLY__INIT;
    Coffer__V1__Challenge body = COFFER__V1__CHALLENGE__INIT;
    _cleanup_buf_ struct buf credential = {0};
    struct challenge c;

    if (msg_unpack(m, &pb, e) ||
        issue(s, (const Coffer__V1__ChallengeRequest *)(const void *)pb, &c, &credential, e)) {
        return -1; /* the engine answers with the refusal */
    }
    body.nonce = (ProtobufCBinaryData){.data = c.nonce, .len = sizeof(c.nonce)};
    body.expires_ms = c.expires_ms;
    body.credential = (ProtobufCBinaryData){.data = credential.p, .len = credential.n};
    body.now_ms = s->now_ms;
    reply.body_case = COFFER__V1__REPLY__BODY_CHALLENGE;
    reply.challenge = &body;
    return fx_reply(fx, m, &reply, e);
}

/* ---- evidence.submit ---- */

struct submission {
    const Coffer__V1__SubmitEvidence *msg;
    const struct appraiser *appraiser;
    const char *nonce; /* of runtime_data; borrowed from it */
    json_t *runtime_data;
    struct jkey *tee_key;
    uint8_t sha256[32]; /* of tee, evidence and runtime data */
    uint8_t report_data[64];
    struct challenge challenge;
};

static void submission_done(struct submission *sub)
{
    json_decref(sub->runtime_data);
    jkey_free(sub->tee_key);
}

static struct bytes runtime_data_of(const struct submission *sub)
{
    return BYTES(sub->msg->runtime_data.data, sub->msg->runtime_data.len);
}

static int check_sizes(const Coffer__V1__SubmitEvidence *m, struct err *e)
{
    if (m->evidence.len > EVIDENCE_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "evidence", "at most 262144 bytes", "%zu",
                          m->evidence.len);
    }
    if (m->runtime_data.len > RUNTIME_DATA_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "runtime_data", "at most 4096 bytes", "%zu",
                          m->runtime_data.len);
    }
    if (strlen(m->spec_jws) > SPEC_JWS_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "spec", "at most 98304 bytes", "%zu",
                          strlen(m->spec_jws));
    }
    return 0;
}

static int hash_part(EVP_MD_CTX *ctx, const void *p, size_t n)
{
    uint64_t length = n;

    return EVP_DigestUpdate(ctx, &length, sizeof(length)) == 1 && EVP_DigestUpdate(ctx, p, n) == 1;
}

static int hash_submission(struct submission *sub, struct err *e)
{
    const Coffer__V1__SubmitEvidence *m = sub->msg;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1 &&
             hash_part(ctx, m->tee, strlen(m->tee)) &&
             hash_part(ctx, m->evidence.data, m->evidence.len) &&
             hash_part(ctx, m->runtime_data.data, m->runtime_data.len) &&
             EVP_DigestFinal_ex(ctx, sub->sha256, NULL) == 1;

    EVP_MD_CTX_free(ctx);
    return ok ? 0 : err_set(e, ERR_INTERNAL, "cannot hash the evidence");
}

static int read_runtime_data(struct submission *sub, struct buf *ret_nonce, struct err *e)
{
    static const char *const members[] = {"attempt", "job", "nonce", "tee-pubkey", NULL};

    if (json_parse("runtime_data", runtime_data_of(sub), RUNTIME_DATA_MAX_BYTES, &sub->runtime_data,
                   e) ||
        json_only_keys(sub->runtime_data, "runtime_data", members, e) ||
        json_get_str(sub->runtime_data, "runtime_data", "nonce", &sub->nonce, e)) {
        return -1;
    }
    if (b64url_decode(sub->nonce, strlen(sub->nonce), ret_nonce, e) ||
        ret_nonce->n != CHALLENGE_BYTES) {
        return err_refuse(e, ERR_INVALID, "runtime_data.nonce", "32 bytes in base64url",
                          "%zu characters that are not", strlen(sub->nonce));
    }
    return 0;
}

static int check_challenge(struct svc *s, struct submission *sub, struct bytes nonce, struct err *e)
{
    const Coffer__V1__SubmitEvidence *m = sub->msg;
    struct challenge *c = &sub->challenge;
    char expected[64];
    int rc = verifier_store_get(s->db, nonce, c, e);

    if (rc < 0) {
        return -1;
    }
    if (!rc) {
        return err_refuse(e, ERR_NOT_FOUND, "challenge", "a nonce that this verifier gave out",
                          "an unknown one");
    }
    if (!streq(c->job, m->job)) {
        return err_refuse(e, ERR_DENIED, "challenge.job", c->job, "%s", m->job);
    }
    if (c->attempt != m->attempt) {
        snprintf(expected, sizeof(expected), "%u", c->attempt);
        return err_refuse(e, ERR_DENIED, "challenge.attempt", expected, "%u", m->attempt);
    }
    if (c->state != CHALLENGE_ISSUED) {
        if (CRYPTO_memcmp(c->evidence_sha256, sub->sha256, sizeof(sub->sha256))) {
            return err_refuse(e, ERR_REPLAY, "challenge", "a nonce that no other evidence used",
                              "one that was used");
        }
        return 0; /* the same again */
    }
    if (s->now_ms >= c->expires_ms) {
        snprintf(expected, sizeof(expected), "before %jd ms", (intmax_t)c->expires_ms);
        return err_refuse(e, ERR_EXPIRED, "challenge.expires", expected, "%jd ms",
                          (intmax_t)s->now_ms);
    }
    memcpy(c->evidence_sha256, sub->sha256, sizeof(c->evidence_sha256));
    return 0;
}

/* Up to the challenge: what fails here is not the challenge's doing and leaves it as it is. */
static int prepare(struct svc *s, struct submission *sub, struct err *e)
{
    _cleanup_buf_ struct buf nonce = BUF_INIT(RUNTIME_DATA_MAX_BYTES);

    return check_sizes(sub->msg, e) || check_tee(sub->msg->tee, &sub->appraiser, e) ||
                   hash_submission(sub, e) || read_runtime_data(sub, &nonce, e) ||
                   check_challenge(s, sub, buf_bytes(&nonce), e)
               ? -1
               : 0;
}

/* runtime_data is exactly what its own members, and the challenge, make of it. */
static int check_runtime_data(struct submission *sub, struct err *e)
{
    static const char *const jwk_members[] = {"crv", "kty", "x", "y", NULL};
    static const char what[] = "runtime_data";
    const Coffer__V1__SubmitEvidence *m = sub->msg;
    struct bytes given = runtime_data_of(sub);
    _cleanup_free_ char *jcs = NULL;
    const char *job;
    char expected[64];
    json_t *jwk;
    int64_t attempt;

    if (json_get_str(sub->runtime_data, what, "job", &job, e) ||
        json_get_int(sub->runtime_data, what, "attempt", 1, UINT32_MAX, &attempt, e) ||
        json_get_obj(sub->runtime_data, what, "tee-pubkey", &jwk, e) ||
        json_only_keys(jwk, "runtime_data.tee-pubkey", jwk_members, e) ||
        jkey_from_jwk(jwk, &sub->tee_key, e)) {
        return -1;
    }
    if (!streq(job, m->job)) {
        return err_refuse(e, ERR_DENIED, "runtime_data.job", m->job, "%s",
                          job_id_valid(job) ? job : "no job id");
    }
    if (attempt != m->attempt) {
        snprintf(expected, sizeof(expected), "%u", m->attempt);
        return err_refuse(e, ERR_DENIED, "runtime_data.attempt", expected, "%jd",
                          (intmax_t)attempt);
    }
    if (runtime_data_make(m->job, m->attempt,
                          BYTES(sub->challenge.nonce, sizeof(sub->challenge.nonce)), sub->tee_key,
                          &jcs, sub->report_data, e)) {
        return -1;
    }
    if (strlen(jcs) != given.n || memcmp(jcs, given.p, given.n) != 0) {
        return err_refuse(e, ERR_INVALID, "runtime_data", "RFC 8785 canonical JSON",
                          "another spelling of it");
    }
    return 0;
}

/* The policy judges what hardware claims. Of "sample" and "vtpm" the settings decide: nothing of
 * them is certified by somebody who is not part of this installation. */
static int apply_rules(struct svc *s, const struct submission *sub, struct appraisal *a,
                       struct err *e)
{
    const struct verifier *v = s->priv;
    const char *tee = sub->appraiser->tee;

    int own = v->rules && policy_is_for(v->rules, tee);

    if (!sub->appraiser->by_policy) {
        return 0;
    }
    return policy_apply(own ? v->rules : v->shipped, tee, refvals_lookup, v->refvals, s->now_ms, a,
                        NULL, e);
}

/* Whether the evidence can be appraised now. If not, what it lacks is on its way, or will be: the
 * worker sends it again until a verdict comes. */
static int is_ready(struct svc *s, const struct submission *sub, struct effects *fx, struct err *e)
{
    const Coffer__V1__SubmitEvidence *m = sub->msg;
    struct needs all = {0}, can = {0}, wanted;

    if (sub->appraiser->needs) {
        sub->appraiser->needs(BYTES(m->evidence.data, m->evidence.len), &all);
    }
    for (size_t i = 0; i < all.n; i++) {
        if (*verifier_base_url(s->config, all.v[i].source)) {
            needs_add(&can, all.v[i].source, "%s", all.v[i].path);
        }
    }
    int ready = shelf_ready(s->db, &can, s->now_ms, &wanted, e);
    for (size_t i = 0; ready == 0 && i < wanted.n; i++) {
        fx_action(fx, VERIFIER_ACT_FETCH, BYTES(&wanted.v[i], sizeof(wanted.v[i])));
    }
    return ready;
}

static int appraise(struct svc *s, struct submission *sub, char **ret_ear, struct err *e)
{
    const struct verifier *v = s->priv;
    const Coffer__V1__SubmitEvidence *m = sub->msg;
    _cleanup_(appraisal_done) struct appraisal a = {0};

    if (check_runtime_data(sub, e)) {
        return -1;
    }
    const struct appraisal_input in = {.evidence = BYTES(m->evidence.data, m->evidence.len),
                                       .report_data = sub->report_data,
                                       .proof =
                                           sub->challenge.has_proof ? sub->challenge.proof : NULL,
                                       .now_ms = s->now_ms,
                                       .collateral = shelf_collateral(v->shelf)};
    if (sub->appraiser->appraise(&in, &v->policy, &a, e) || apply_rules(s, sub, &a, e)) {
        return -1;
    }
    return ear_make(v->keys.sign,
                    &(struct ear_input){.job = m->job,
                                        .attempt = m->attempt,
                                        .nonce = sub->nonce,
                                        .tee = sub->appraiser->tee,
                                        .cnf = sub->tee_key,
                                        .appraisal = &a,
                                        .report_data = sub->report_data,
                                        .now_ms = s->now_ms},
                    ret_ear, e);
}

/* A malformed thing gets a clause too; only our own trouble is no verdict. */
static int is_verdict(struct err *why, const char *clause, const char *expected)
{
    if (why->code == ERR_INTERNAL || (err_is_transient(why->code) && !why->clause[0])) {
        return 0;
    }
    if (!why->clause[0]) {
        struct err as = *why;
        err_refuse(&as, why->code, clause, expected, "%.240s", why->msg);
        as.origin = why->origin;
        *why = as;
    }
    return 1;
}

/* The verdict is stored without its spec, which is only passed on, and sent with it. */
static int answer(struct svc *s, struct submission *sub, Coffer__V1__Verdict *v,
                  enum challenge_event ev, struct err *e)
{
    size_t n = coffer__v1__verdict__get_packed_size(v);
    _cleanup_free_ uint8_t *packed = xmalloc(n);

    coffer__v1__verdict__pack(v, packed);
    return challenge_apply(s->db, &sub->challenge, ev, s->now_ms, BYTES(packed, n), e);
}

static int publish(struct svc *s, struct submission *sub, struct effects *fx,
                   Coffer__V1__Verdict *v, struct err *e)
{
    char id[96];
    int64_t n;

    if (verifier_store_count_send(s->db, v->job, v->attempt, &n, e)) {
        return -1;
    }
    v->spec_jws = sub->msg->spec_jws;
    snprintf(id, sizeof(id), "%s.%u.verdict.%jd", v->job, v->attempt, (intmax_t)n);
    return fx_publish(fx, SUBJ_VERDICT, v->job, id, &v->base, e);
}

static int judge(struct svc *s, struct submission *sub, struct effects *fx, struct err *e)
{
    Coffer__V1__Verdict v = COFFER__V1__VERDICT__INIT;
    Coffer__V1__Refusal refusal = COFFER__V1__REFUSAL__INIT;
    _cleanup_free_ char *ear = NULL;
    struct err why = {0};

    v.job = sub->msg->job;
    v.attempt = sub->msg->attempt;
    v.tee = (char *)sub->appraiser->tee;
    if (!appraise(s, sub, &ear, &why)) {
        v.ear = ear;
    } else if (is_verdict(&why, "evidence", "well-formed evidence")) {
        refusal_from_err(&refusal, &why, s->id);
        v.refusal = &refusal;
    } else {
        *e = why;
        return -1;
    }
    return answer(s, sub, &v, ear ? ON_APPRAISED : ON_REFUSED, e) || publish(s, sub, fx, &v, e) ? -1
                                                                                                : 0;
}

static int repeat(struct svc *s, struct submission *sub, struct effects *fx, struct err *e)
{
    _cleanup_buf_ struct buf packed = BUF_INIT(subjects[SUBJ_VERDICT].max_bytes);
    Coffer__V1__Verdict *v;
    char *no_spec;

    if (challenge_apply(s->db, &sub->challenge, ON_REPEAT, s->now_ms, BYTES("", 0), e) ||
        verifier_store_answer(s->db, BYTES(sub->challenge.nonce, sizeof(sub->challenge.nonce)),
                              &packed, e)) {
        return -1;
    }
    v = coffer__v1__verdict__unpack(NULL, packed.n, packed.p);
    if (!v) {
        return err_set(e, ERR_INTERNAL, "a stored verdict does not unpack");
    }
    no_spec = v->spec_jws;
    int rc = publish(s, sub, fx, v, e);
    v->spec_jws = no_spec; /* publish borrowed the message's */
    coffer__v1__verdict__free_unpacked(v, NULL);
    return rc;
}

/* A refusal that belongs to no challenge of ours. Nothing is stored for it; the id follows from the
 * message, so the same one again is no second verdict. */
static int refuse_unbound(struct svc *s, const struct msg *m, const Coffer__V1__SubmitEvidence *sub,
                          struct effects *fx, const struct err *why, struct err *e)
{
    Coffer__V1__Verdict v = COFFER__V1__VERDICT__INIT;
    Coffer__V1__Refusal refusal = COFFER__V1__REFUSAL__INIT;
    uint8_t digest[32];
    char id[96];

    if (EVP_Digest(m->payload.p, m->payload.n, digest, NULL, EVP_sha256(), NULL) != 1) {
        return err_set(e, ERR_INTERNAL, "cannot hash the message");
    }
    _cleanup_free_ char *hex = hex_encode(digest, 8);
    refusal_from_err(&refusal, why, s->id);
    v.job = sub->job;
    v.attempt = sub->attempt;
    v.refusal = &refusal;
    v.tee = appraiser_find(sub->tee) ? sub->tee : (char *)"";
    snprintf(id, sizeof(id), "%s.%u.verdict.u%s", v.job, v.attempt, hex);
    return fx_publish(fx, SUBJ_VERDICT, v.job, id, &v.base, e);
}

int verifier_on_evidence(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    _cleanup_(submission_done) struct submission sub = {0};
    struct err why = {0};

    if (msg_unpack(m, &pb, e)) {
        return -1;
    }
    sub.msg = (const Coffer__V1__SubmitEvidence *)(const void *)pb;
    if (check_names(sub.msg->job, sub.msg->attempt, e)) {
        return -1;
    }
    if (prepare(s, &sub, &why)) {
        if (!is_verdict(&why, "runtime_data", "the members of a runtime data object")) {
            *e = why;
            return -1;
        }
        return refuse_unbound(s, m, sub.msg, fx, &why, e);
    }
    if (sub.challenge.state != CHALLENGE_ISSUED) {
        return repeat(s, &sub, fx, e);
    }
    int ready = is_ready(s, &sub, fx, e);
    return ready > 0 ? judge(s, &sub, fx, e) : ready;
}

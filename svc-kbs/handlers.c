#include <openssl/evp.h>

#include "svc-kbs/checks.h"
#include "svc-kbs/owner.h"

#define RELEASE_PLAIN_MAX_BYTES (96u * 1024)

/* ---- a release ---- */

/* Composed by hand, in JCS form, so that no JSON library keeps a copy of a key. Ids, job and EAR
 * are of characters that JSON takes as they are. */
static int compose(const struct kbs *k, const struct clearance *c, struct buf *out, struct err *e)
{
    if (buf_addf(out, e, "{\"attempt\":%u,\"ear\":\"%s\",\"gate\":%s,\"job\":\"%s\",\"keys\":[",
                 c->verdict->attempt, c->verdict->ear, k->gate_jwk, c->verdict->job)) {
        return -1;
    }
    for (size_t i = 0; i < c->n_keys; i++) {
        const struct release_key *key = &c->keys[i];
        char *text = b64url_encode(secret_cp(key->key), secret_n(key->key));
        int rc = buf_addf(out, e, "%s{\"id\":\"%s\",\"key\":\"%s\",\"kind\":\"%s\"}", i ? "," : "",
                          key->id, text, key->kind);
        explicit_bzero(text, strlen(text));
        free(text);
        if (rc) {
            return -1;
        }
    }
    return buf_addf(out, e, "],\"v\":1}");
}

static int sign_release(const struct svc *s, const struct clearance *c, char **ret, struct err *e)
{
    const struct kbs *k = s->priv;
    _cleanup_json_ json_t *o =
        json_pack("{s:i,s:s,s:I,s:s,s:s,s:I}", "v", 1, "job", c->verdict->job, "attempt",
                  (json_int_t)c->verdict->attempt, "cnf", jkey_thumbprint(c->ear->cnf), "jti",
                  c->ear->jti, "iat", (json_int_t)(s->now_ms / 1000));

    if (!o) {
        return err_set(e, ERR_INTERNAL, "cannot compose the release");
    }
    return jws_sign_json(k->keys.sign, RELEASE_JWS_TYP, 0, o, ret, e);
}

/* Everything holds: the one place where keys leave. */
static int release_keys(struct svc *s, struct clearance *c, struct err *e)
{
    _cleanup_buf_ struct buf plain = BUF_INIT(RELEASE_PLAIN_MAX_BYTES);
    struct release *r = &c->release;

    if (compose(s->priv, c, &plain, e) || jwe_encrypt(c->ear->cnf, buf_bytes(&plain), &r->jwe, e) ||
        sign_release(s, c, &r->release_jws, e)) {
        return -1;
    }
    snprintf(r->jti, sizeof(r->jti), "%s", c->ear->jti);
    snprintf(r->cnf, sizeof(r->cnf), "%s", jkey_thumbprint(c->ear->cnf));
    for (size_t i = 0; i < c->n_keys; i++) {
        if (c->keys[i].grant && kbs_store_grant_used(s->db, c->keys[i].grant, e)) {
            return -1;
        }
    }
    return release_apply(s->db, r, ON_CLEARED, s->now_ms, e);
}

static int publish(struct effects *fx, const Coffer__V1__Verdict *v, const char *n, const char *jwe,
                   const char *release_jws, const struct err *why, enum service by, struct err *e)
{
    Coffer__V1__ReleaseKey out = COFFER__V1__RELEASE_KEY__INIT;
    Coffer__V1__Refusal refusal = COFFER__V1__REFUSAL__INIT;
    char id[96];

    out.job = v->job;
    out.attempt = v->attempt;
    if (why) {
        refusal_from_err(&refusal, why, by);
        out.refusal = &refusal;
    } else {
        out.jwe = (char *)jwe;
        out.release_jws = (char *)release_jws;
    }
    snprintf(id, sizeof(id), "%s.%u.release.%s", v->job, v->attempt, n);
    return fx_publish(fx, SUBJ_KEY_RELEASE, v->job, id, &out.base, e);
}

static int publish_counted(struct svc *s, struct effects *fx, const struct clearance *c,
                           const struct err *why, struct err *e)
{
    char n[32];

    snprintf(n, sizeof(n), "%jd", (intmax_t)(c->release.sends - 1));
    return publish(fx, c->verdict, n, c->release.jwe, c->release.release_jws, why, s->id, e);
}

/* The EAR is not what it says it is, so nothing is stored in the name of its attempt. The id
 * follows from the message: the same one again is no second refusal. */
static int refuse_stranger(struct svc *s, const struct msg *m, struct effects *fx,
                           const Coffer__V1__Verdict *v, const struct err *why, struct err *e)
{
    uint8_t digest[32];
    char n[32];

    if (EVP_Digest(m->payload.p, m->payload.n, digest, NULL, EVP_sha256(), NULL) != 1) {
        return err_set(e, ERR_INTERNAL, "cannot hash the message");
    }
    _cleanup_free_ char *hex = hex_encode(digest, 8);
    snprintf(n, sizeof(n), "u%s", hex);
    return publish(fx, v, n, NULL, NULL, why, s->id, e);
}

static int refuse(struct svc *s, struct effects *fx, struct clearance *c, struct err *why,
                  struct err *e)
{
    if (!as_refusal(why, "verdict", "a verdict that can be acted on")) {
        *e = *why;
        return -1;
    }
    return release_apply(s->db, &c->release, ON_REFUSED_VERDICT, s->now_ms, e) ||
                   publish_counted(s, fx, c, why, e)
               ? -1
               : 0;
}

static int decide(struct svc *s, const struct msg *m, struct effects *fx, struct clearance *c,
                  struct err *e)
{
    struct err why = {0};
    int rc;

    if (check_verdict(s, c, &why)) {
        if (!as_refusal(&why, "verdict", "an EAR as docs/PROTOCOL.md has it")) {
            *e = why;
            return -1;
        }
        return refuse_stranger(s, m, fx, c->verdict, &why, e);
    }
    rc = check_repeat(s, c, &why);
    if (rc < 0) {
        return refuse(s, fx, c, &why, e);
    }
    if (rc > 0) {
        return release_apply(s->db, &c->release, ON_SAME_VERDICT, s->now_ms, e) ||
                       publish_counted(s, fx, c, NULL, e)
                   ? -1
                   : 0;
    }
    if (check_release(s, c, &why)) {
        return refuse(s, fx, c, &why, e);
    }
    return release_keys(s, c, e) || publish_counted(s, fx, c, NULL, e) ? -1 : 0;
}

int kbs_on_verdict(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    _cleanup_(clearance_done) struct clearance c = {0};
    const Coffer__V1__Verdict *v;

    if (msg_unpack(m, &pb, e)) {
        return -1;
    }
    v = (const Coffer__V1__Verdict *)(const void *)pb;
    if (!job_id_valid(v->job) || !streq(v->job, m->key)) {
        return err_refuse(e, ERR_INVALID, "verdict.job", "the job that the subject names", "%s",
                          job_id_valid(v->job) ? v->job : "no job id");
    }
    if (!v->attempt) {
        return err_refuse(e, ERR_INVALID, "verdict.attempt", "1 or more", "0");
    }
    if (v->refusal) {
        return 0; /* the scheduler sees the verdict itself */
    }
    c.verdict = v;
    return decide(s, m, fx, &c, e);
}

/* ---- owners ---- */

int kbs_on_owner_command(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    _cleanup_free_ char *json = NULL, *proof = NULL;
    const struct kbs *k = s->priv;
    Coffer__V1__Reply reply = COFFER__V1__REPLY__INIT;
    Coffer__V1__OwnerReply body = COFFER__V1__OWNER_REPLY__INIT;
    struct err why = {0};

    if (msg_unpack(m, &pb, e)) {
        return -1;
    }
    const Coffer__V1__OwnerCommand *cmd = (const Coffer__V1__OwnerCommand *)(const void *)pb;
    if (owner_command(s, cmd->command_jws, &json, &why)) {
        /* A refused command stays remembered as one that was sent; our own trouble undoes all. */
        if (!as_refusal(&why, "command", "a signed owner command")) {
            *e = why;
            return -1;
        }
        return fx_reply_refusal(fx, m, &why, e);
    }
    if (owner_proof_make(k->keys.sign, cmd->command_jws, json, s->now_ms / 1000, &proof, e)) {
        return -1;
    }
    body.json = json;
    body.proof_jws = proof;
    reply.body_case = COFFER__V1__REPLY__BODY_OWNER;
    reply.owner = &body;
    return fx_reply(fx, m, &reply, e);
}

#include "svc-kbs/checks.h"

#include "svc-kbs/sealstore.h"

/* Grants tried for one secret: all that can be in force, and some others for a better refusal. */
#define GRANTS_TRIED_MAX (GRANTS_IN_FORCE_MAX + 16)

void clearance_done(struct clearance *c)
{
    ear_free(TAKE_PTR(c->ear));
    release_done(&c->release);
    spec_free(TAKE_PTR(c->spec));
    jkey_free(TAKE_PTR(c->consumer));
    for (size_t i = 0; i < c->n_keys; i++) {
        secret_free(TAKE_PTR(c->keys[i].key));
    }
    c->n_keys = 0;
}

int as_refusal(struct err *why, const char *clause, const char *expected)
{
    struct err as = {0};

    if (why->code == ERR_INTERNAL || err_is_transient(why->code)) {
        return 0;
    }
    if (!why->clause[0]) {
        err_refuse(&as, why->code, clause, expected, "%.250s", why->msg);
        as.origin = why->origin;
        *why = as;
    }
    return 1;
}

/* ---- 1: verdict ---- */

int check_verdict(struct svc *s, struct clearance *c, struct err *e)
{
    const struct kbs *k = s->priv;
    const Coffer__V1__Verdict *v = c->verdict;
    char expected[32];

    if (ear_verify(k->trust, v->ear, &c->ear, e)) {
        return -1;
    }
    if (!streq(c->ear->job, v->job)) {
        return err_refuse(e, ERR_DENIED, "verdict.job", v->job, "%s", c->ear->job);
    }
    if (c->ear->attempt != v->attempt) {
        snprintf(expected, sizeof(expected), "%u", v->attempt);
        return err_refuse(e, ERR_DENIED, "verdict.attempt", expected, "%jd",
                          (intmax_t)c->ear->attempt);
    }
    return kbs_store_release_get(s->db, v->job, v->attempt, &c->release, e);
}

static int check_stale(struct svc *s, const struct clearance *c, struct err *e)
{
    int64_t latest;
    char expected[96];

    if (kbs_store_released_attempt(s->db, c->verdict->job, &latest, e)) {
        return -1;
    }
    if (latest <= c->verdict->attempt) {
        return 0;
    }
    snprintf(expected, sizeof(expected), "at least %jd, the latest attempt that had a release",
             (intmax_t)latest);
    return err_refuse(e, ERR_STALE, "release.attempt", expected, "%u", c->verdict->attempt);
}

int check_repeat(struct svc *s, const struct clearance *c, struct err *e)
{
    const struct release *r = &c->release;

    switch (r->state) {
    case RELEASE_NONE:
    case RELEASE_REFUSED:
        return 0;
    case RELEASE_RELEASED:
        break;
    case RELEASE_STATE_N:
        return err_set(e, ERR_INTERNAL, "a release in an unknown state");
    }
    if (!streq(r->jti, c->ear->jti) || !streq(r->cnf, jkey_thumbprint(c->ear->cnf))) {
        return err_refuse(e, ERR_REPLAY, "release.attempt",
                          "an attempt without a release, or the verdict it was released to",
                          "another verdict of attempt %u", r->attempt);
    }
    if (check_stale(s, c, e)) {
        return -1;
    }
    if (!r->jwe || !r->release_jws) {
        return err_refuse(e, ERR_REPLAY, "verdict.jti", "a verdict released to within the hour",
                          "%s", c->ear->jti);
    }
    return 1;
}

static int check_unused(struct svc *s, const struct clearance *c, struct err *e)
{
    int used;

    if (ear_check_time(c->ear, s->now_ms, e) || kbs_store_jti_used(s->db, c->ear->jti, &used, e)) {
        return -1;
    }
    return used ? err_refuse(e, ERR_REPLAY, "verdict.jti", "one that had no release", "%s",
                             c->ear->jti)
                : 0;
}

/* ---- 2: spec ---- */

static int check_spec(struct svc *s, struct clearance *c, struct err *e)
{
    char expected[64];

    if (spec_verify(c->verdict->spec_jws, &c->spec, &c->consumer, e)) {
        as_refusal(e, e->code == ERR_BAD_SIGNATURE ? "spec.signature" : "spec",
                   e->code == ERR_BAD_SIGNATURE ? "a spec signed by its consumer"
                                                : "a signed spec in normal form");
        return -1;
    }
    if (!streq(c->spec->job_id, c->ear->job)) {
        return err_refuse(e, ERR_DENIED, "spec.job", c->ear->job, "%s", c->spec->job_id);
    }
    if (c->ear->attempt > c->spec->attempts) {
        snprintf(expected, sizeof(expected), "attempt %jd or less", (intmax_t)c->spec->attempts);
        return err_refuse(e, ERR_DENIED, "spec.attempts", expected, "attempt %jd",
                          (intmax_t)c->ear->attempt);
    }
    return check_stale(s, c, e);
}

/* ---- 3: tee ---- */

static int check_tee(const struct clearance *c, struct err *e)
{
    const struct spec *spec = c->spec;
    char expected[256];
    size_t n = (size_t)snprintf(expected, sizeof(expected), "one of ");

    /* A warning is the owners' to accept, each in the grant for a key of theirs (add_keys). */
    if (!streq(c->ear->status, "affirming") && !streq(c->ear->status, "warning")) {
        return err_refuse(e, ERR_DENIED, "tee.status", "affirming", "%s", c->ear->status);
    }
    if (spec->tee_mode != TEE_REQUIRED) {
        return 0;
    }
    for (size_t i = 0; i < spec->n_tee_types; i++) {
        if (streq(spec->tee_types[i], c->ear->tee)) {
            return 0;
        }
        if (n < sizeof(expected)) {
            n += (size_t)snprintf(expected + n, sizeof(expected) - n, "%s%s", i ? ", " : "",
                                  spec->tee_types[i]);
        }
    }
    return err_refuse(e, ERR_DENIED, "tee.types", expected, "%s", c->ear->tee);
}

/* ---- 4 and 5: secrets and grants ---- */

static int get_secret(struct svc *s, const char *id, const char *kind, struct stored_secret *ret,
                      struct err *e)
{
    int rc = kbs_store_secret_get(s->db, id, ret, e);

    if (rc < 0) {
        return -1;
    }
    if (!rc) {
        return err_refuse(e, ERR_NOT_FOUND, "secret", "a secret that its owner has put here",
                          "%.200s", id);
    }
    if (!streq(ret->kind, kind)) {
        return err_refuse(e, ERR_DENIED, "secret.kind", kind, "%s", ret->kind);
    }
    return 0;
}

static int owner_key(const struct stored_secret *sec, struct jkey **ret, struct err *e)
{
    _cleanup_json_ json_t *jwk = NULL;
    _cleanup_jkey_ struct jkey *owner = NULL;

    if (json_parse("owner", BYTES_STR(sec->owner_jwk), sizeof(sec->owner_jwk), &jwk, e) ||
        jkey_from_jwk(jwk, &owner, e) || !streq(jkey_thumbprint(owner), sec->owner)) {
        return err_refuse(e, ERR_BAD_SIGNATURE, "secret.owner", "the key that was stored with it",
                          "another one");
    }
    *ret = TAKE_PTR(owner);
    return 0;
}

/* The signature is checked anew each time: what is in the database is not believed for being there.
 */
static int try_grant(const struct stored_grant *g, const struct jkey *owner, const char *secret,
                     const struct grant_ask *ask, unsigned *ret_passed, struct err *e)
{
    _cleanup_buf_ struct buf payload = BUF_INIT(GRANT_JWS_MAX_BYTES);
    _cleanup_(grant_done) struct grant grant = {0};

    *ret_passed = 0;
    if (jws_verify(g->jws, owner, GRANT_JWS_TYP, GRANT_JWS_MAX_BYTES, &payload, e) ||
        grant_parse(buf_bytes(&payload), &grant, e)) {
        as_refusal(e, "grant.signature", "a grant signed by the owner");
        return -1;
    }
    if (!streq(grant.secret, secret)) {
        return err_refuse(e, ERR_DENIED, "grant.secret", secret, "%s", grant.secret);
    }
    return grant_covers(&grant, g->revoked, ask, ret_passed, e);
}

static int find_grant(struct svc *s, const struct stored_secret *sec, const struct grant_ask *ask,
                      int64_t *ret_rowid, struct err *e)
{
    _cleanup_(stored_grants_done) struct stored_grants grants = {0};
    _cleanup_jkey_ struct jkey *owner = NULL;
    unsigned best = 0;
    struct err why = {0};

    if (owner_key(sec, &owner, e) ||
        kbs_store_grants(s->db, sec->id, s->now_ms / 1000, GRANTS_TRIED_MAX, &grants, e)) {
        return -1;
    }
    if (!grants.n) {
        return err_refuse(e, ERR_DENIED, "grant", "a grant by the owner of the secret", "none");
    }
    for (size_t i = 0; i < grants.n; i++) {
        struct err one = {0};
        unsigned passed;
        if (!try_grant(&grants.v[i], owner, sec->id, ask, &passed, &one)) {
            *ret_rowid = grants.v[i].rowid;
            return 0;
        }
        if (!why.code || passed > best) {
            best = passed;
            why = one;
        }
    }
    *e = why;
    return -1;
}

static int open_secret(struct svc *s, const struct stored_secret *sec, struct secret **ret,
                       struct err *e)
{
    const struct kbs *k = s->priv;
    const struct secret_backend *b = secret_backend_find(sec->backend);
    struct secret_name name = {.id = sec->id, .kind = sec->kind, .owner = sec->owner};

    if (!b) {
        return err_refuse(e, ERR_UNSUPPORTED, "secret.backend", "a secret store that is built in",
                          "%s", sec->backend);
    }
    if (b->get(k->keys.kek, &name, buf_bytes(&sec->ref), ret, e)) {
        as_refusal(e, "secret.sealed", "a key that opens under its id, kind and owner");
        return -1;
    }
    return 0;
}

static int add_key(struct svc *s, struct clearance *c, const char *id, const char *kind,
                   struct err *e)
{
    _cleanup_(stored_secret_done) struct stored_secret sec = {0};
    struct grant_ask ask = {.spec = c->spec,
                            .consumer = jkey_thumbprint(c->consumer),
                            .tee = c->ear->tee,
                            .status = c->ear->status,
                            .now_ms = s->now_ms};
    struct release_key *out = &c->keys[c->n_keys];
    int64_t grant = 0;

    if (c->n_keys == RELEASE_KEYS_MAX) {
        return err_set(e, ERR_INTERNAL, "a spec with more keys than it can name");
    }
    if (get_secret(s, id, kind, &sec, e)) {
        return -1;
    }
    int own = streq(kind, "image-key") && streq(sec.owner, ask.consumer);
    if (!own && find_grant(s, &sec, &ask, &grant, e)) {
        return -1;
    }
    if (open_secret(s, &sec, &out->key, e)) {
        return -1;
    }
    out->id = id;
    out->kind = kind;
    out->grant = grant;
    c->n_keys++;
    return 0;
}

static int add_keys(struct svc *s, struct clearance *c, struct err *e)
{
    for (size_t i = 0; i < c->spec->n_datasets; i++) {
        if (add_key(s, c, c->spec->datasets[i].id, "dataset", e)) {
            return err_wrap(e, "dataset %.100s", c->spec->datasets[i].id);
        }
    }
    for (size_t i = 0; i < c->spec->n_image_keys; i++) {
        if (add_key(s, c, c->spec->image_keys[i], "image-key", e)) {
            return err_wrap(e, "image key %.100s", c->spec->image_keys[i]);
        }
    }
    return 0;
}

int check_release(struct svc *s, struct clearance *c, struct err *e)
{
    return check_unused(s, c, e) || check_spec(s, c, e) || check_tee(c, e) || add_keys(s, c, e) ? -1
                                                                                                : 0;
}

#include "svc-kbs/owner.h"

#include <openssl/evp.h>

#include "common/keybox.h"
#include "common/seal.h"
#include "svc-kbs/checks.h"
#include "svc-kbs/sealstore.h"

#define BACKEND "local"
#define ES256_HALF_B64_LEN                                                                         \
    44 /* of the signature's 86 digits, those that hold s and no bit of r                          \
        */

struct command {
    struct svc *svc;
    struct jkey *signer;
    json_t *payload;
    const char *what; /* "put-secret", ... */
};

static void command_done(struct command *c)
{
    jkey_free(c->signer);
    json_decref(c->payload);
}

static struct kbs *kbs_of(const struct command *c)
{
    return c->svc->priv;
}

/* The signer must be the one whose thing it is. */
static int check_owner(const struct command *c, const char *clause, const char *owner,
                       struct err *e)
{
    return streq(jkey_thumbprint(c->signer), owner)
               ? 0
               : err_refuse(e, ERR_DENIED, clause, owner, "%s", jkey_thumbprint(c->signer));
}

/* ---- put-secret ---- */

/* The id and the owner follow from the header or descriptor; nothing is taken on the sender's word.
 */
static int dataset_id(const struct command *c, char id[KEYBOX_ID_MAX + 1], struct jkey **ret_owner,
                      struct err *e)
{
    _cleanup_buf_ struct buf prefix = BUF_INIT(SEAL_HEADER_MAX_BYTES + 64);
    _cleanup_(seal_header_done) struct seal_header h = {0};
    const char *text;

    if (json_get_str(c->payload, "command", "header", &text, e) ||
        b64url_decode(text, strlen(text), &prefix, e) ||
        seal_header_parse(buf_bytes(&prefix), &h, e)) {
        return err_wrap(e, "header");
    }
    if (h.prefix_bytes != prefix.n) {
        return err_set(e, ERR_INVALID, "header: expected the prefix alone, %u bytes, found %zu",
                       h.prefix_bytes, prefix.n);
    }
    if (!streq(h.kind, "dataset") || !h.owner || !secret_id_valid(h.id)) {
        return err_set(e, ERR_INVALID, "header.kind: expected \"dataset\"");
    }
    snprintf(id, KEYBOX_ID_MAX + 1, "%s", h.id);
    *ret_owner = TAKE_PTR(h.owner);
    return 0;
}

static int secret_id(const struct command *c, const char **ret_kind, char id[KEYBOX_ID_MAX + 1],
                     struct jkey **ret_owner, struct err *e)
{
    static const char *const dataset_members[] = {"v", "cmd", "iat", "kind", "jwe", "header", NULL};
    static const char *const image_members[] = {"v",   "cmd",        "iat", "kind",
                                                "jwe", "descriptor", NULL};
    const char *kind;
    json_t *descriptor;

    if (json_get_str(c->payload, "command", "kind", &kind, e)) {
        return -1;
    }
    if (streq(kind, "dataset")) {
        *ret_kind = "dataset";
        return json_only_keys(c->payload, "command", dataset_members, e) ||
                       dataset_id(c, id, ret_owner, e)
                   ? -1
                   : 0;
    }
    if (streq(kind, "image-key")) {
        *ret_kind = "image-key";
        return json_only_keys(c->payload, "command", image_members, e) ||
                       json_get_obj(c->payload, "command", "descriptor", &descriptor, e) ||
                       image_key_id(descriptor, id, ret_owner, e)
                   ? -1
                   : 0;
    }
    return err_set(e, ERR_INVALID, "command.kind: expected \"dataset\" or \"image-key\"");
}

static int open_box(const struct command *c, const char *id, struct secret **ret, struct err *e)
{
    _cleanup_free_ char *jwe = NULL;
    json_t *box;

    if (json_get_obj(c->payload, "command", "jwe", &box, e) || jcs_encode(box, &jwe, e) ||
        keybox_open(kbs_of(c)->keys.seal, jwe, id, ret, e)) {
        as_refusal(e, "jwe", "a key sealed to the KBS together with its id");
        return -1;
    }
    return 0;
}

/* The same key again changes nothing; another one is refused: data sealed with the first would be
 * lost to a typing error, or to whoever got hold of the owner's key for a moment. */
static int check_same(const struct command *c, const struct stored_secret *old,
                      const struct secret *key, struct err *e)
{
    const struct secret_backend *b = secret_backend_find(old->backend);
    struct secret_name name = {.id = old->id, .kind = old->kind, .owner = old->owner};
    _cleanup_secret_ struct secret *stored = NULL;

    if (!b || b->get(kbs_of(c)->keys.kek, &name, buf_bytes(&old->ref), &stored, e)) {
        return err_refuse(e, ERR_BAD_SIGNATURE, "secret.sealed",
                          "a key that opens under its id, kind and owner", "one that does not");
    }
    return secret_eq(stored, key)
               ? 0
               : err_refuse(e, ERR_WRONG_STATE, "secret.key",
                            "the key that is stored under this id already", "another one");
}

static int check_secret_room(const struct command *c, struct err *e)
{
    struct kbs_counts n;

    if (kbs_store_counts(c->svc->db, jkey_thumbprint(c->signer), "", 0, &n, e)) {
        return -1;
    }
    if (n.secrets >= SECRETS_MAX || n.secrets_of_owner >= SECRETS_PER_OWNER_MAX) {
        return err_refuse(e, ERR_TOO_LARGE, "secret.count",
                          "fewer than 100000, and 4096 of one owner", "%jd, and %jd",
                          (intmax_t)n.secrets, (intmax_t)n.secrets_of_owner);
    }
    return 0;
}

static int store_secret(const struct command *c, const char *id, const char *kind,
                        const struct secret *key, struct err *e)
{
    _cleanup_(stored_secret_done) struct stored_secret sec = {.ref = BUF_INIT(SEALED_REF_MAX_BYTES),
                                                              .created_ms = c->svc->now_ms};
    _cleanup_json_ json_t *jwk = jkey_public_jwk(c->signer);
    _cleanup_free_ char *jwk_text = NULL;
    struct secret_name name = {.id = id, .kind = kind, .owner = jkey_thumbprint(c->signer)};

    if (jcs_encode(jwk, &jwk_text, e) ||
        secret_backend_find(BACKEND)->put(kbs_of(c)->keys.kek, &name, key, &sec.ref, e)) {
        return -1;
    }
    snprintf(sec.id, sizeof(sec.id), "%s", id);
    snprintf(sec.kind, sizeof(sec.kind), "%s", kind);
    snprintf(sec.owner, sizeof(sec.owner), "%s", name.owner);
    snprintf(sec.owner_jwk, sizeof(sec.owner_jwk), "%s", jwk_text);
    snprintf(sec.backend, sizeof(sec.backend), "%s", BACKEND);
    return kbs_store_secret_put(c->svc->db, &sec, e);
}

static int put_secret(const struct command *c, json_t **ret, struct err *e)
{
    _cleanup_(stored_secret_done) struct stored_secret old = {0};
    _cleanup_secret_ struct secret *key = NULL;
    _cleanup_jkey_ struct jkey *owner = NULL;
    char id[KEYBOX_ID_MAX + 1];
    const char *kind;
    int there;

    if (secret_id(c, &kind, id, &owner, e)) {
        as_refusal(e, "secret.id", "a header or descriptor to compute the id from");
        return -1;
    }
    if (check_owner(c, "secret.owner", jkey_thumbprint(owner), e) || open_box(c, id, &key, e)) {
        return -1;
    }
    there = kbs_store_secret_get(c->svc->db, id, &old, e);
    if (there < 0 || (there && check_same(c, &old, key, e)) ||
        (!there && (check_secret_room(c, e) || store_secret(c, id, kind, key, e)))) {
        return -1;
    }
    *ret = json_pack("{s:b,s:s}", "ok", 1, "id", id);
    return 0;
}

/* ---- put-grant, revoke ---- */

static int check_grant_secret(const struct command *c, const struct grant *g, struct err *e)
{
    _cleanup_(stored_secret_done) struct stored_secret sec = {0};
    int rc = kbs_store_secret_get(c->svc->db, g->secret, &sec, e);

    if (rc < 0) {
        return -1;
    }
    if (!rc) {
        return err_refuse(e, ERR_NOT_FOUND, "grant.secret", "a secret that was put here before",
                          "%s", g->secret);
    }
    return check_owner(c, "grant.owner", sec.owner, e);
}

static int check_grant_room(const struct command *c, const struct grant *g, struct err *e)
{
    int64_t now_s = c->svc->now_ms / 1000;
    struct kbs_counts n;
    char expected[64];

    if (now_s >= g->exp) {
        snprintf(expected, sizeof(expected), "later than %jd (now)", (intmax_t)now_s);
        return err_refuse(e, ERR_EXPIRED, "grant.exp", expected, "%jd", (intmax_t)g->exp);
    }
    if (kbs_store_counts(c->svc->db, jkey_thumbprint(c->signer), g->secret, now_s, &n, e)) {
        return -1;
    }
    if (n.in_force >= GRANTS_IN_FORCE_MAX) {
        return err_refuse(e, ERR_TOO_LARGE, "grant.count", "fewer than 64 in force for one secret",
                          "%jd", (intmax_t)n.in_force);
    }
    if (n.grants >= GRANTS_MAX || n.grants_of_owner >= GRANTS_PER_OWNER_MAX) {
        return err_refuse(e, ERR_TOO_LARGE, "grant.count",
                          "fewer than 200000, and 4096 of one owner", "%jd, and %jd",
                          (intmax_t)n.grants, (intmax_t)n.grants_of_owner);
    }
    return 0;
}

/* A grant id says one thing for ever: the same payload again is fine, unless it was revoked. */
static int check_known(const struct command *c, const struct grant *g, struct bytes payload,
                       int *ret_known, struct err *e)
{
    _cleanup_buf_ struct buf old = BUF_INIT(GRANT_JWS_MAX_BYTES);
    int revoked = 0;
    int rc = kbs_store_grant_get(c->svc->db, jkey_thumbprint(c->signer), g->id, &old, &revoked, e);

    if (rc < 0) {
        return -1;
    }
    *ret_known = rc;
    if (rc && (old.n != payload.n || memcmp(old.p, payload.p, old.n) != 0)) {
        return err_refuse(e, ERR_WRONG_STATE, "grant.id", "an id that is new", "%s", g->id);
    }
    if (rc && revoked) {
        return err_refuse(e, ERR_WRONG_STATE, "grant.revoked", "an id that was not revoked", "%s",
                          g->id);
    }
    return 0;
}

static int put_grant(const struct command *c, json_t **ret, struct err *e)
{
    static const char *const members[] = {"v", "cmd", "iat", "grant_jws", NULL};
    _cleanup_buf_ struct buf payload = BUF_INIT(GRANT_JWS_MAX_BYTES);
    _cleanup_(grant_done) struct grant g = {0};
    const char *jws;
    int known;

    if (json_only_keys(c->payload, "command", members, e) ||
        json_get_str(c->payload, "command", "grant_jws", &jws, e)) {
        return -1;
    }
    if (jws_verify(jws, c->signer, GRANT_JWS_TYP, GRANT_JWS_MAX_BYTES, &payload, e)) {
        struct err why = *e;
        return err_refuse(e, why.code, "grant.signature",
                          "a grant signed by the owner who sends it", "%.200s", why.msg);
    }
    if (grant_parse(buf_bytes(&payload), &g, e)) {
        as_refusal(e, "grant", "a grant as docs/PROTOCOL.md has it");
        return -1;
    }
    if (check_grant_secret(c, &g, e) || check_known(c, &g, buf_bytes(&payload), &known, e)) {
        return -1;
    }
    if (!known && (check_grant_room(c, &g, e) ||
                   kbs_store_grant_put(c->svc->db, jkey_thumbprint(c->signer), &g, jws,
                                       buf_bytes(&payload), c->svc->now_ms, e))) {
        return -1;
    }
    *ret = json_pack("{s:b,s:s,s:s}", "ok", 1, "id", g.id, "secret", g.secret);
    return 0;
}

static int revoke_grant(const struct command *c, json_t **ret, struct err *e)
{
    static const char *const members[] = {"v", "cmd", "iat", "grant", NULL};
    const char *owner = jkey_thumbprint(c->signer), *id;
    _cleanup_buf_ struct buf payload = BUF_INIT(GRANT_JWS_MAX_BYTES);
    int revoked, rc;

    if (json_only_keys(c->payload, "command", members, e) ||
        json_get_str(c->payload, "command", "grant", &id, e)) {
        return -1;
    }
    rc = kbs_store_grant_get(c->svc->db, owner, id, &payload, &revoked, e);
    if (rc < 0) {
        return -1;
    }
    if (!rc) {
        return err_refuse(e, ERR_NOT_FOUND, "grant.id", "a grant of the signer's",
                          "an id that names none");
    }
    if (kbs_store_grant_revoke(c->svc->db, owner, id, e)) {
        return -1;
    }
    *ret = json_pack("{s:b,s:s}", "ok", 1, "id", id);
    return 0;
}

/* ---- list ---- */

static int list(const struct command *c, json_t **ret, struct err *e)
{
    static const char *const members[] = {"v", "cmd", "iat", NULL};
    json_t *secrets = NULL, *grants = NULL;
    int truncated;

    if (json_only_keys(c->payload, "command", members, e) ||
        kbs_store_list(c->svc->db, jkey_thumbprint(c->signer), c->svc->now_ms / 1000,
                       OWNER_LIST_MAX_BYTES, &secrets, &grants, &truncated, e)) {
        return -1;
    }
    *ret = json_pack("{s:o,s:o}", "secrets", secrets, "grants", grants);
    if (*ret && truncated) {
        json_object_set_new(*ret, "truncated", json_true());
    }
    return 0;
}

/* ---- any command ---- */

static const struct {
    const char *cmd;
    int (*fn)(const struct command *c, json_t **ret, struct err *e);
} commands[] = {
    {"put-secret", put_secret},
    {"put-grant", put_grant},
    {"revoke", revoke_grant},
    {"list", list},
};

static int check_time(const struct command *c, struct err *e)
{
    int64_t iat, now = c->svc->now_ms / 1000;
    char expected[96];

    if (json_get_int(c->payload, "command", "iat", 0, INT64_C(1) << 40, &iat, e)) {
        return -1;
    }
    if (iat < now - OWNER_SKEW_S || iat > now + OWNER_SKEW_S) {
        snprintf(expected, sizeof(expected), "%jd to %jd", (intmax_t)(now - OWNER_SKEW_S),
                 (intmax_t)(now + OWNER_SKEW_S));
        return err_refuse(e, ERR_EXPIRED, "command.iat", expected, "%jd", (intmax_t)iat);
    }
    return 0;
}

/* An ECDSA signature (r, s) is as good with -s, so what is remembered leaves s out: else anyone
 * could send a command a second time in another spelling. */
static int check_first_time(const struct command *c, const char *jws, struct err *e)
{
    uint8_t digest[32];
    size_t n = strlen(jws);

    if (n <= ES256_HALF_B64_LEN ||
        EVP_Digest(jws, n - ES256_HALF_B64_LEN, digest, NULL, EVP_sha256(), NULL) != 1) {
        return err_set(e, ERR_INTERNAL, "cannot hash the command");
    }
    int rc = kbs_store_remember(c->svc->db, digest, c->svc->now_ms + OWNER_SEEN_MS, e);
    if (rc < 0) {
        return -1;
    }
    return rc ? 0
              : err_refuse(e, ERR_REPLAY, "command", "a command that was not sent before",
                           "the same one again");
}

static int read_command(struct command *c, const char *jws, struct err *e)
{
    _cleanup_buf_ struct buf payload = BUF_INIT(OWNER_COMMAND_MAX_BYTES);
    int64_t v;

    if (jws_verify_embedded(jws, OWNER_JWS_TYP, OWNER_COMMAND_MAX_BYTES, &payload, &c->signer, e)) {
        as_refusal(e, "command.signature", "a command signed by its owner");
        return -1;
    }
    return json_parse("command", buf_bytes(&payload), OWNER_COMMAND_MAX_BYTES, &c->payload, e) ||
                   json_get_int(c->payload, "command", "v", 1, 1, &v, e) ||
                   json_get_str(c->payload, "command", "cmd", &c->what, e) || check_time(c, e) ||
                   check_first_time(c, jws, e)
               ? -1
               : 0;
}

int owner_command(struct svc *s, const char *command_jws, char **ret_json, struct err *e)
{
    _cleanup_(command_done) struct command c = {.svc = s};
    _cleanup_json_ json_t *reply = NULL;

    if (read_command(&c, command_jws, e)) {
        return -1;
    }
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (streq(commands[i].cmd, c.what)) {
            if (commands[i].fn(&c, &reply, e)) {
                return -1;
            }
            return reply ? jcs_encode(reply, ret_json, e)
                         : err_set(e, ERR_INTERNAL, "cannot compose the reply");
        }
    }
    return err_refuse(e, ERR_INVALID, "command.cmd", "put-secret, put-grant, revoke or list",
                      "another one");
}

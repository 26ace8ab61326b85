/* A KBS in memory for its tests and fuzz targets: keys, trust file, a consumer, an owner, a
 * dataset, and a verifier that signs what it is told to. Only for tests: every failure ends the
 * process. */
#ifndef COFFER_KBS_TESTING_H
#define COFFER_KBS_TESTING_H

#include <openssl/evp.h>

#include <sys/stat.h>

#include "common/fileio.h"
#include "common/keybox.h"
#include "common/seal.h"
#include "svc-kbs/checks.h"
#include "svc-kbs/owner.h"

#define T_IMAGE "sha256:abababababababababababababababababababababababababababababababab"
#define T_NOW_S 1800000000

#define MUST(x)                                                                                    \
    do {                                                                                           \
        struct err must_e_ = {0};                                                                  \
        struct err *e = &must_e_;                                                                  \
        if (x) {                                                                                   \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #x, must_e_.msg);               \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

struct world {
    char dir[64];
    int64_t now_ms;
    struct engine *g;
    struct config *config;
    struct service_keys kbs;
    struct jkey *verifier, *gate, *gate_seal, *consumer, *owner, *tee;
    char dataset[KEYBOX_ID_MAX + 1];
    struct buf prefix;
    struct secret *key;
    unsigned msg_n;
};

static _unused_ int64_t world_clock(void *arg)
{
    return ((struct world *)arg)->now_ms;
}

static _unused_ char *world_path(const struct world *w, const char *name)
{
    return xasprintf("%s/%s", w->dir, name);
}

static _unused_ int world_open(struct world *w, struct err *e)
{
    _cleanup_free_ char *db = world_path(w, "db");
    struct engine_opts o = {
        .db_path = db, .clock = world_clock, .clock_arg = w, .config = w->config};

    return engine_open(&kbs_service, &o, &w->g, e);
}

static _unused_ void world_close(struct world *w)
{
    engine_close(w->g);
    w->g = NULL;
}

static _unused_ void world_write_trust(struct world *w)
{
    _cleanup_free_ char *path = world_path(w, "trust.json"), *text = NULL;
    _cleanup_json_ json_t *j = json_pack(
        "{s:i,s:[o],s:[o],s:o,s:[o],s:o,s:[]}", "v", 1, "verifier", jkey_public_jwk(w->verifier),
        "kbs", jkey_public_jwk(w->kbs.sign), "kbs_seal", jkey_public_jwk(w->kbs.seal), "gate",
        jkey_public_jwk(w->gate), "gate_seal", jkey_public_jwk(w->gate_seal), "reviewers");

    MUST(jcs_encode(j, &text, e));
    MUST(file_replace(path, BYTES_STR(text), 0600, e));
}

/* Everything but an open engine. */
static _unused_ void world_make(struct world *w)
{
    struct seal_header h = {0};
    struct config_item items[32];

    *w = (struct world){.now_ms = (int64_t)T_NOW_S * 1000, .prefix = BUF_INIT(1u << 16)};
    snprintf(w->dir, sizeof(w->dir), "/tmp/coffer-kbs-XXXXXX");
    if (!mkdtemp(w->dir) || n_config_common > ARRAY_LEN(items)) {
        abort();
    }
    MUST(service_keys_load(w->dir, 7, 7, &w->kbs, e));
    struct jkey **keys[] = {&w->verifier, &w->gate,  &w->gate_seal,
                            &w->consumer, &w->owner, &w->tee};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        MUST(jkey_generate(keys[i], e));
    }
    world_write_trust(w);
    MUST(seal_dataset_header_new("patients", "file", "AES-256-GCM", 4096, w->owner, &w->prefix,
                                 &w->key, e));
    MUST(seal_header_parse(buf_bytes(&w->prefix), &h, e));
    snprintf(w->dataset, sizeof(w->dataset), "%s", h.id);
    seal_header_done(&h);
    memcpy(items, config_common, n_config_common * sizeof(items[0]));
    _cleanup_free_ char *trust = world_path(w, "trust.json");
    w->config =
        config_make(config_common, n_config_common, "data-dir", w->dir, "trust", trust, NULL);
}

static _unused_ void world_done(struct world *w)
{
    static const char *const files[] = {"sign.jwk", "seal.jwk",   "sign.pub.jwk", "seal.pub.jwk",
                                        "kek",      "trust.json", "db",           "db-wal",
                                        "db-shm",   "db-lock",    "db.lock",      "kek.kept"};

    world_close(w);
    config_free(w->config);
    service_keys_done(&w->kbs);
    struct jkey *keys[] = {w->verifier, w->gate, w->gate_seal, w->consumer, w->owner, w->tee};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        jkey_free(keys[i]);
    }
    buf_done(&w->prefix);
    secret_free(w->key);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        _cleanup_free_ char *path = world_path(w, files[i]);
        unlink(path);
    }
    rmdir(w->dir);
}

/* ---- what parties sign ---- */

static _unused_ json_t *t_spec(const struct world *w, const char *nonce)
{
    json_t *j = json_pack(
        "{s:s,s:s,s:{s:s,s:s},s:{s:s,s:b,s:[],s:[s],s:{},s:s},s:[{s:s,s:s}],s:{s:s,s:[s,s]},"
        "s:{s:i,s:i,s:i,s:i,s:i,s:b,s:s,s:i,s:b},s:i,s:i,s:s,s:{s:s,s:i,s:[{s:s,s:s}],s:[o]},s:{s:"
        "i,s:i,s:i}}",
        "apiVersion", "coffer/v1", "kind", "Job", "metadata", "name", "mean", "nonce", nonce,
        "workload", "image", T_IMAGE, "encrypted", 0, "imageKeys", "args", "x", "env", "workdir",
        "/", "datasets", "id", w->dataset, "mount", "/data/patients", "tee", "mode", "required",
        "types", "sample", "tdx", "resources", "cpuMillis", 1000, "memoryBytes", 268435456, "pids",
        64, "tmpBytes", 0, "scratchBytes", 0, "lockMemory", 0, "hugepages", "none", "numaNode", -1,
        "cpuPinning", 0, "timeoutMs", 60000, "attempts", 3, "network", "none", "output", "path",
        "/output", "maxBytes", 65536, "files", "path", "mean.csv", "type", "text/csv", "recipients",
        jkey_public_jwk(w->consumer), "gate", "holdAt", 20, "rejectAt", 60, "maxVerbatimPercent",
        5);
    if (!j) {
        abort();
    }
    return j;
}

/* Takes over `spec`. */
static _unused_ char *t_spec_sign(json_t *spec, const struct jkey *by, char job[JOB_ID_LEN + 1])
{
    _cleanup_spec_ struct spec *s = NULL;
    char *jws = NULL;

    MUST(spec_from_json(spec, &s, e));
    MUST(spec_sign(s, by, &jws, e));
    snprintf(job, JOB_ID_LEN + 1, "%s", s->job_id);
    json_decref(spec);
    return jws;
}

static _unused_ char *t_b64_random(size_t n)
{
    uint8_t raw[64];

    random_bytes(raw, n);
    return b64url_encode(raw, n);
}

/* Claims of an EAR as the verifier makes them. */
static _unused_ json_t *t_ear(const struct world *w, const char *job, uint32_t attempt,
                              const struct jkey *cnf)
{
    _cleanup_free_ char *jti = t_b64_random(16), *nonce = t_b64_random(32);
    json_int_t iat = w->now_ms / 1000;
    json_t *vector =
        json_pack("{s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i}", "configuration", 0, "executables", 0,
                  "file-system", 0, "hardware", 2, "instance-identity", 0, "runtime-opaque", 0,
                  "sourced-data", 0, "storage-opaque", 0);
    json_t *j = json_pack(
        "{s:s,s:I,s:I,s:s,s:s,s:{s:s,s:s},s:{s:o},s:{s:i,s:s,s:I,s:s,s:s},s:{s:{s:s,s:o,s:s,s:{}}}"
        "}",
        "eat_profile", "tag:github.com,2024:confidential-containers/Trustee", "iat", iat, "exp",
        iat + 300, "jti", jti, "iss", "coffer-verifier", "ear.verifier-id", "developer", "coffer",
        "build", "0", "cnf", "jwk", jkey_public_jwk(cnf), "coffer", "v", 1, "job", job, "attempt",
        (json_int_t)attempt, "nonce", nonce, "tee", "sample", "submods", "cpu0", "ear.status",
        "affirming", "ear.trustworthiness-vector", vector, "ear.appraisal-policy-id", "p",
        "ear.veraison.annotated-evidence");
    if (!j) {
        abort();
    }
    return j;
}

static _unused_ void t_ear_hardware(json_t *ear, int claim, const char *status)
{
    json_t *cpu0 = json_object_get(json_object_get(ear, "submods"), "cpu0");

    json_object_set_new(json_object_get(cpu0, "ear.trustworthiness-vector"), "hardware",
                        json_integer(claim));
    json_object_set_new(cpu0, "ear.status", json_string(status));
}

/* Takes over `claims`. */
static _unused_ char *t_ear_sign(json_t *claims, const struct jkey *by)
{
    char *jws = NULL;

    MUST(jws_sign_json(by, "JWT", 0, claims, &jws, e));
    json_decref(claims);
    return jws;
}

static _unused_ json_t *t_grant(const struct world *w, const char *secret)
{
    _cleanup_free_ char *id = t_b64_random(16);

    json_t *j = json_pack(
        "{s:i,s:s,s:s,s:[s],s:[s],s:{s:[s],s:s},s:{s:i,s:i,s:i,s:i},s:[],s:I,s:I}", "v", 1, "id",
        id, "secret", secret, "consumers", jkey_thumbprint(w->consumer), "images", T_IMAGE, "tee",
        "types", "sample", "status", "affirming", "gate", "holdAt", 20, "rejectAt", 60,
        "maxVerbatimPercent", 5, "maxBytes", 65536, "recipients", "nbf", (json_int_t)T_NOW_S - 10,
        "exp", (json_int_t)T_NOW_S + 86400);
    if (!j) {
        abort();
    }
    return j;
}

/* Takes over `payload`. */
static _unused_ char *t_sign(json_t *payload, const struct jkey *by, const char *typ)
{
    char *jws = NULL;

    MUST(jws_sign_json(by, typ, 1, payload, &jws, e));
    json_decref(payload);
    return jws;
}

static _unused_ json_t *t_put_secret(const struct world *w, const char *id, struct bytes prefix,
                                     const struct secret *key)
{
    _cleanup_free_ char *jwe = NULL, *header = b64url_encode(prefix.p, prefix.n);
    json_t *box = NULL;

    MUST(keybox_seal(w->kbs.seal, id, key, &jwe, e));
    MUST(json_parse("jwe", BYTES_STR(jwe), 1u << 16, &box, e));
    return json_pack("{s:i,s:s,s:I,s:s,s:s,s:o}", "v", 1, "cmd", "put-secret", "iat",
                     (json_int_t)(w->now_ms / 1000), "kind", "dataset", "header", header, "jwe",
                     box);
}

static _unused_ json_t *t_put_grant(const struct world *w, const char *grant_jws)
{
    return json_pack("{s:i,s:s,s:I,s:s}", "v", 1, "cmd", "put-grant", "iat",
                     (json_int_t)(w->now_ms / 1000), "grant_jws", grant_jws);
}

static _unused_ json_t *t_revoke(const struct world *w, const char *id)
{
    return json_pack("{s:i,s:s,s:I,s:s}", "v", 1, "cmd", "revoke", "iat",
                     (json_int_t)(w->now_ms / 1000), "grant", id);
}

static _unused_ json_t *t_list(const struct world *w)
{
    return json_pack("{s:i,s:s,s:I}", "v", 1, "cmd", "list", "iat", (json_int_t)(w->now_ms / 1000));
}

/* ---- sending ---- */

/* One message, committed. The first thing that leaves, with its subject and message id. */
struct sent {
    char subject[128], msg_id[128];
    struct buf payload;
    int n; /* how many left */
    struct err why;
};

static _unused_ void sent_done(struct sent *s)
{
    buf_done(&s->payload);
}

static _unused_ struct sent world_send(struct world *w, enum subject subject, const char *key,
                                       struct bytes payload)
{
    struct sent s = {.payload = BUF_INIT(4u << 20)};
    struct outgoing out;
    char id[32];
    enum disposition d;
    int delay;

    snprintf(id, sizeof(id), "m%u", w->msg_n++);
    struct msg m = {.subject = subject,
                    .key = key,
                    .payload = payload,
                    .msg_id = id,
                    .reply_to = "_INBOX.test",
                    .traceparent = "",
                    .deliveries = ENGINE_MAX_DELIVERIES};
    MUST(engine_begin(w->g, e));
    MUST(engine_handle(w->g, &m, &d, &delay, &s.why, e));
    MUST(engine_commit(w->g, e));
    while (engine_next_out(w->g, &out)) {
        if (!s.n++) {
            snprintf(s.subject, sizeof(s.subject), "%s", out.subject);
            snprintf(s.msg_id, sizeof(s.msg_id), "%s", out.msg_id);
            MUST(buf_add(&s.payload, out.payload.p, out.payload.n, e));
        }
        if (out.outbox_id) {
            engine_published(w->g, out.outbox_id);
        }
    }
    return s;
}

static _unused_ uint8_t *t_verdict(const char *job, uint32_t attempt, const char *ear,
                                   const char *spec_jws, size_t *ret_n)
{
    Coffer__V1__Verdict v = COFFER__V1__VERDICT__INIT;
    uint8_t *p;

    v.job = (char *)job;
    v.attempt = attempt;
    v.ear = (char *)ear;
    v.spec_jws = (char *)spec_jws;
    v.tee = (char *)"sample";
    *ret_n = coffer__v1__verdict__get_packed_size(&v);
    p = xmalloc(*ret_n);
    coffer__v1__verdict__pack(&v, p);
    return p;
}

/* The ReleaseKey that came of it; NULL when none. Free with coffer__v1__release_key__free_unpacked.
 */
static _unused_ Coffer__V1__ReleaseKey *world_verdict(struct world *w, const char *job,
                                                      uint32_t attempt, const char *ear,
                                                      const char *spec_jws, char ret_id[128])
{
    size_t n;
    _cleanup_free_ uint8_t *p = t_verdict(job, attempt, ear, spec_jws, &n);
    _cleanup_(sent_done) struct sent s = world_send(w, SUBJ_VERDICT, job, BYTES(p, n));

    if (ret_id) {
        snprintf(ret_id, 128, "%s", s.msg_id);
    }
    if (s.n != 1 || strncmp(s.subject, "coffer.v1.key.release.", 22) != 0) {
        return NULL;
    }
    return coffer__v1__release_key__unpack(NULL, s.payload.n, s.payload.p);
}

/* The Reply to an owner command. Free with coffer__v1__reply__free_unpacked. */
static _unused_ Coffer__V1__Reply *world_owner_jws(struct world *w, const char *jws)
{
    Coffer__V1__OwnerCommand c = COFFER__V1__OWNER_COMMAND__INIT;

    c.command_jws = (char *)jws;
    size_t n = coffer__v1__owner_command__get_packed_size(&c);
    _cleanup_free_ uint8_t *p = xmalloc(n);
    coffer__v1__owner_command__pack(&c, p);
    _cleanup_(sent_done) struct sent s = world_send(w, SUBJ_OWNER_COMMAND, "", BYTES(p, n));
    return s.n == 1 ? coffer__v1__reply__unpack(NULL, s.payload.n, s.payload.p) : NULL;
}

static _unused_ Coffer__V1__Reply *world_owner(struct world *w, json_t *payload,
                                               const struct jkey *by)
{
    _cleanup_free_ char *jws = t_sign(payload, by, OWNER_JWS_TYP);

    return world_owner_jws(w, jws);
}

/* The dataset and one grant (taken over; NULL for the usual one) by its owner. */
static _unused_ void world_put_all(struct world *w, json_t *grant)
{
    _cleanup_free_ char *grant_jws =
        t_sign(grant ? grant : t_grant(w, w->dataset), w->owner, GRANT_JWS_TYP);
    json_t *cmds[] = {t_put_secret(w, w->dataset, buf_bytes(&w->prefix), w->key),
                      t_put_grant(w, grant_jws)};

    for (size_t i = 0; i < ARRAY_LEN(cmds); i++) {
        Coffer__V1__Reply *r = world_owner(w, cmds[i], w->owner);
        if (!r || r->body_case != COFFER__V1__REPLY__BODY_OWNER) {
            fprintf(stderr, "owner command: %s\n", r && r->refusal ? r->refusal->message : "none");
            abort();
        }
        coffer__v1__reply__free_unpacked(r, NULL);
    }
}

#endif

/* A verifier for its tests and fuzz target, and a worker that answers its challenges. Only for
 * tests: every failure ends the process. */
#ifndef COFFER_VERIFIER_TESTING_H
#define COFFER_VERIFIER_TESTING_H

#include "common/fileio.h"
#include "svc-verifier/store.h"
#include "svc-verifier/verifier.h"

#define V_JOB "jaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define V_JOB2 "jbbbbbbbbbbbbbbbbbbbbbbbbbb"

#define VMUST(x)                                                                                   \
    do {                                                                                           \
        struct err must_e_ = {0};                                                                  \
        struct err *e = &must_e_;                                                                  \
        if (x) {                                                                                   \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #x, must_e_.msg);               \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

struct vworld {
    char dir[64];
    int64_t now_ms;
    struct engine *g;
    struct config *config;
    struct config_item items[32];
    struct service_keys keys;
    struct trust *trust;
    struct jkey *tee, *tee2, *release;
    unsigned msg_n;
};

static _unused_ int64_t vworld_clock(void *arg)
{
    return ((struct vworld *)arg)->now_ms;
}

static _unused_ char *vworld_path(const struct vworld *w, const char *name)
{
    return xasprintf("%s/%s", w->dir, name);
}

static _unused_ void vworld_write_trust(struct vworld *w)
{
    _cleanup_free_ char *path = vworld_path(w, "trust.json"), *text = NULL;
    _cleanup_json_ json_t *j =
        json_pack("{s:i,s:[o],s:[o],s:o,s:[o],s:o,s:[],s:[o]}", "v", 1, "verifier",
                  jkey_public_jwk(w->keys.sign), "kbs", jkey_public_jwk(w->tee), "kbs_seal",
                  jkey_public_jwk(w->tee), "gate", jkey_public_jwk(w->tee), "gate_seal",
                  jkey_public_jwk(w->tee), "reviewers", "release", jkey_public_jwk(w->release));

    VMUST(jcs_encode(j, &text, e));
    VMUST(file_replace(path, BYTES_STR(text), 0600, e));
}

static _unused_ int vworld_open(struct vworld *w, struct err *e)
{
    _cleanup_free_ char *db = vworld_path(w, "db");
    struct engine_opts o = {
        .db_path = db, .clock = vworld_clock, .clock_arg = w, .config = w->config};

    return engine_open(&verifier_service, &o, &w->g, e);
}

static _unused_ void vworld_reopen(struct vworld *w)
{
    engine_close(TAKE_PTR(w->g));
    VMUST(vworld_open(w, e));
}

/* The path of a new file in the world's directory; "" for no text. */
static _unused_ char *vworld_file(const struct vworld *w, const char *name, const char *text)
{
    char *path = text ? vworld_path(w, name) : xstrdup("");

    if (text) {
        VMUST(file_replace(path, BYTES_STR(text), 0600, e));
    }
    return path;
}

/* With the payload of reference values, and enrolled hosts, as the files have them; NULL: none. */
static _unused_ void vworld_make_rooted(struct vworld *w, const char *allow_sample,
                                        const json_t *refvals, const char *hosts, const char *roots)
{
    _cleanup_free_ char *jws = NULL, *refvals_path = NULL, *hosts_path = NULL;
    _cleanup_free_ char *roots_path = NULL;
    size_t n = n_config_common + verifier_service.n_config;

    *w = (struct vworld){.now_ms = INT64_C(1800000000000)};
    snprintf(w->dir, sizeof(w->dir), "/tmp/coffer-verifier-XXXXXX");
    if (!mkdtemp(w->dir) || n > ARRAY_LEN(w->items)) {
        abort();
    }
    VMUST(service_keys_load(w->dir, KEYFILE_SIGN, KEYFILE_SIGN, &w->keys, e));
    VMUST(jkey_generate(&w->tee, e));
    VMUST(jkey_generate(&w->tee2, e));
    VMUST(jkey_generate(&w->release, e));
    vworld_write_trust(w);
    _cleanup_free_ char *trust = vworld_path(w, "trust.json");
    VMUST(trust_read(trust, &w->trust, e));
    memcpy(w->items, config_common, n_config_common * sizeof(w->items[0]));
    memcpy(w->items + n_config_common, verifier_service.config,
           verifier_service.n_config * sizeof(w->items[0]));
    if (refvals) {
        VMUST(jws_sign_json(w->release, REFVALS_TYP, 0, refvals, &jws, e));
    }
    refvals_path = vworld_file(w, "refvals.jws", jws);
    hosts_path = vworld_file(w, "hosts.json", hosts);
    roots_path = vworld_file(w, "roots.pem", roots);
    w->config = config_make(w->items, n, "data-dir", w->dir, "trust", trust, "allow-sample",
                            allow_sample, "reference-values", refvals_path, "tpm-hosts", hosts_path,
                            "trusted-roots", roots_path, NULL);
    VMUST(vworld_open(w, e));
}

static _unused_ void vworld_make_with(struct vworld *w, const char *allow_sample,
                                      const json_t *refvals, const char *hosts)
{
    vworld_make_rooted(w, allow_sample, refvals, hosts, NULL);
}

static _unused_ void vworld_make(struct vworld *w, const char *allow_sample)
{
    vworld_make_with(w, allow_sample, NULL, NULL);
}

static _unused_ void vworld_done(struct vworld *w)
{
    static const char *const files[] = {"sign.jwk",    "sign.pub.jwk", "trust.json",
                                        "db",          "db-wal",       "db-shm",
                                        "refvals.jws", "hosts.json",   "roots.pem"};

    engine_close(TAKE_PTR(w->g));
    config_free(w->config);
    service_keys_done(&w->keys);
    trust_free(w->trust);
    jkey_free(w->tee);
    jkey_free(w->tee2);
    jkey_free(w->release);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        _cleanup_free_ char *path = vworld_path(w, files[i]);
        unlink(path);
    }
    rmdir(w->dir);
}

static _unused_ void vworld_tick(struct vworld *w)
{
    VMUST(engine_begin(w->g, e));
    VMUST(engine_tick(w->g, e));
    VMUST(engine_commit(w->g, e));
}

/* Sends one message, commits, and appends what left first to `out`; its subject's start must be
 * `prefix` ("" for a reply). 1 when there was such a thing. */
static _unused_ int vworld_send(struct vworld *w, enum subject subject, struct bytes payload,
                                const char *prefix, struct buf *ret, char ret_id[128])
{
    struct outgoing out;
    enum disposition d;
    char id[32];
    int delay, found = 0;

    snprintf(id, sizeof(id), "m%u", w->msg_n++);
    struct msg m = {.subject = subject,
                    .key = "",
                    .payload = payload,
                    .msg_id = id,
                    .reply_to = *prefix ? "" : "_INBOX.test",
                    .traceparent = "",
                    .deliveries = ENGINE_MAX_DELIVERIES};
    VMUST(engine_begin(w->g, e));
    VMUST(engine_handle(w->g, &m, &d, &delay, NULL, e));
    VMUST(engine_commit(w->g, e));
    while (engine_next_out(w->g, &out)) {
        if (!found &&
            (out.is_reply ? !*prefix : strncmp(out.subject, prefix, strlen(prefix)) == 0)) {
            found = 1;
            VMUST(buf_add(ret, out.payload.p, out.payload.n, e));
            if (ret_id) {
                snprintf(ret_id, 128, "%s", out.msg_id);
            }
        }
        if (out.outbox_id) {
            engine_published(w->g, out.outbox_id);
        }
    }
    return found;
}

static _unused_ Coffer__V1__Reply *vworld_challenge_key(struct vworld *w, const char *job,
                                                        uint32_t attempt, const char *tee,
                                                        struct bytes attest_key)
{
    Coffer__V1__ChallengeRequest q = COFFER__V1__CHALLENGE_REQUEST__INIT;
    _cleanup_buf_ struct buf out = BUF_INIT(1u << 16);

    q.job = (char *)job;
    q.attempt = attempt;
    q.tee = (char *)tee;
    q.attest_key =
        (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)attest_key.p, .len = attest_key.n};
    size_t n = coffer__v1__challenge_request__get_packed_size(&q);
    _cleanup_free_ uint8_t *p = xmalloc(n);
    coffer__v1__challenge_request__pack(&q, p);
    if (!vworld_send(w, SUBJ_EVIDENCE_CHALLENGE, BYTES(p, n), "", &out, NULL)) {
        abort();
    }
    return coffer__v1__reply__unpack(NULL, out.n, out.p);
}

static _unused_ Coffer__V1__Reply *vworld_challenge(struct vworld *w, const char *job,
                                                    uint32_t attempt, const char *tee)
{
    return vworld_challenge_key(w, job, attempt, tee, BYTES("", 0));
}

/* What a worker submits; tests change it before it goes. */
struct submit {
    char job[64];
    uint32_t attempt;
    char *tee, *spec, *runtime_data, *evidence; /* owned */
    uint8_t nonce[32];
};

static _unused_ void submit_done(struct submit *s)
{
    free(s->tee);
    free(s->spec);
    free(s->runtime_data);
    free(s->evidence);
}

static _unused_ void submit_bind_to(struct submit *s, const struct jkey *tee)
{
    uint8_t report_data[64];

    free(TAKE_PTR(s->runtime_data));
    free(TAKE_PTR(s->evidence));
    VMUST(runtime_data_make(s->job, s->attempt, BYTES(s->nonce, 32), tee, &s->runtime_data,
                            report_data, e));
    _cleanup_free_ char *text = b64_encode(report_data, 48);
    s->evidence = xasprintf("{\"svn\":\"1\",\"report_data\":\"%s\"}", text);
}

/* Makes runtime data and evidence anew for what *s says now. */
static _unused_ void submit_bind(struct submit *s, const struct vworld *w)
{
    submit_bind_to(s, w->tee);
}

/* Sound, but of another TEE key. */
static _unused_ void submit_rekey(struct submit *s, const struct vworld *w)
{
    submit_bind_to(s, w->tee2);
}

/* Sound evidence for a fresh challenge. */
static _unused_ struct submit vworld_evidence(struct vworld *w, const char *job, uint32_t attempt)
{
    struct submit s = {.attempt = attempt, .tee = xstrdup("sample"), .spec = xstrdup("the spec")};
    Coffer__V1__Reply *r = vworld_challenge(w, job, attempt, "sample");

    if (!r || r->body_case != COFFER__V1__REPLY__BODY_CHALLENGE) {
        fprintf(stderr, "no challenge: %s\n", r && r->refusal ? r->refusal->message : "");
        abort();
    }
    snprintf(s.job, sizeof(s.job), "%s", job);
    memcpy(s.nonce, r->challenge->nonce.data, sizeof(s.nonce));
    coffer__v1__reply__free_unpacked(r, NULL);
    submit_bind(&s, w);
    return s;
}

static _unused_ uint8_t *submit_pack(const struct submit *s, size_t *ret_n)
{
    Coffer__V1__SubmitEvidence m = COFFER__V1__SUBMIT_EVIDENCE__INIT;

    m.job = (char *)(uintptr_t)s->job;
    m.attempt = s->attempt;
    m.tee = s->tee;
    m.spec_jws = s->spec;
    m.evidence.data = (uint8_t *)s->evidence;
    m.evidence.len = strlen(s->evidence);
    m.runtime_data.data = (uint8_t *)s->runtime_data;
    m.runtime_data.len = strlen(s->runtime_data);
    *ret_n = coffer__v1__submit_evidence__get_packed_size(&m);
    uint8_t *p = xmalloc(*ret_n);
    coffer__v1__submit_evidence__pack(&m, p);
    return p;
}

/* The Verdict that came of it, NULL when none. Free with coffer__v1__verdict__free_unpacked. */
static _unused_ Coffer__V1__Verdict *vworld_submit(struct vworld *w, const struct submit *s,
                                                   char ret_id[128])
{
    _cleanup_buf_ struct buf out = BUF_INIT(1u << 20);
    size_t n;
    _cleanup_free_ uint8_t *p = submit_pack(s, &n);

    if (!vworld_send(w, SUBJ_EVIDENCE_SUBMIT, BYTES(p, n), "coffer.v1.verdict.", &out, ret_id)) {
        return NULL;
    }
    return coffer__v1__verdict__unpack(NULL, out.n, out.p);
}

#endif

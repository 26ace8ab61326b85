/* A gate in memory with everybody around it, for tests and fuzzing: the keys of all parties, a
 * trust file, specs, EARs, releases, results. Header only; the functions abort when the set-up
 * fails. */
#ifndef COFFER_GATE_FIXTURE_H
#define COFFER_GATE_FIXTURE_H

#include <ftw.h>
#include <sys/stat.h>

#include "svc-gate/gate_int.h"
#include "svc-worker/worker.h"

#define FIXTURE_NOW_MS INT64_C(1700000000000)
/* Also in builds without assertions. */
#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #cond);                     \
            abort();                                                                               \
        }                                                                                          \
    } while (0)
#define OK(call)                                                                                   \
    do {                                                                                           \
        struct err ok_e_ = {0};                                                                    \
        struct err *e = &ok_e_;                                                                    \
        if (call) {                                                                                \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, ok_e_.msg);              \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

struct fixture {
    char dir[64];
    struct jkey *verifier, *kbs, *kbs_seal, *gate_sign, *gate_seal, *reviewer, *consumer,
        *recipient, *stranger, *tee;
    struct config *config;
    struct engine *g;
    int64_t now_ms;
    /* of the last message */
    struct err why;
    enum disposition disp;
    /* what came out */
    Coffer__V1__GateDecision *decisions[16];
    size_t n_decisions;
    Coffer__V1__Reply *reply;
    size_t n_dead;
};

static int64_t fixture_clock(void *arg)
{
    return ((struct fixture *)arg)->now_ms;
}

static void fixture_write_trust(const struct fixture *f, const char *path)
{
    json_t *t =
        json_pack("{s:i,s:[o],s:[o],s:o,s:[o],s:o,s:[o]}", "v", 1, "verifier",
                  jkey_public_jwk(f->verifier), "kbs", jkey_public_jwk(f->kbs), "kbs_seal",
                  jkey_public_jwk(f->kbs_seal), "gate", jkey_public_jwk(f->gate_sign), "gate_seal",
                  jkey_public_jwk(f->gate_seal), "reviewers", jkey_public_jwk(f->reviewer));
    CHECK(json_dump_file(t, path, 0) == 0);
    json_decref(t);
}

static void fixture_open_gate(struct fixture *f)
{
    struct engine_opts o = {
        .db_path = ":memory:", .clock = fixture_clock, .clock_arg = f, .config = f->config};
    OK(engine_open(&gate_service, &o, &f->g, e));
}

static void fixture_init(struct fixture *f)
{
    char path[128];
    struct jkey **keys[] = {&f->verifier, &f->kbs,      &f->kbs_seal,  &f->gate_sign, &f->gate_seal,
                            &f->reviewer, &f->consumer, &f->recipient, &f->stranger,  &f->tee};

    memset(f, 0, sizeof(*f));
    f->now_ms = FIXTURE_NOW_MS;
    snprintf(f->dir, sizeof(f->dir), "/tmp/coffer-gate-XXXXXX");
    CHECK(mkdtemp(f->dir));
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        OK(jkey_generate(keys[i], e));
    }
    snprintf(path, sizeof(path), "%s/sign.jwk", f->dir);
    OK(jkey_write_private(path, f->gate_sign, e));
    snprintf(path, sizeof(path), "%s/seal.jwk", f->dir);
    OK(jkey_write_private(path, f->gate_seal, e));
    snprintf(path, sizeof(path), "%s/trust.json", f->dir);
    fixture_write_trust(f, path);
    f->config = config_make(gate_service.config, gate_service.n_config, "data-dir", f->dir, "trust",
                            path, "generate-keys", "false", NULL);
    fixture_open_gate(f);
}

static void fixture_clear(struct fixture *f)
{
    for (size_t i = 0; i < f->n_decisions; i++) {
        coffer__v1__gate_decision__free_unpacked(f->decisions[i], NULL);
    }
    f->n_decisions = 0;
    if (f->reply) {
        coffer__v1__reply__free_unpacked(f->reply, NULL);
        f->reply = NULL;
    }
    f->n_dead = 0;
}

static int fixture_unlink(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

_unused_ static void fixture_done(struct fixture *f)
{
    struct jkey *keys[] = {f->verifier, f->kbs,      f->kbs_seal,  f->gate_sign, f->gate_seal,
                           f->reviewer, f->consumer, f->recipient, f->stranger,  f->tee};

    fixture_clear(f);
    engine_close(f->g);
    config_free(f->config);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        jkey_free(keys[i]);
    }
    nftw(f->dir, fixture_unlink, 8, FTW_DEPTH | FTW_PHYS);
}

/* ---- driving the gate ------------------------------------------------------------------------ */

static void fixture_take_outs(struct fixture *f)
{
    struct outgoing o;
    enum subject subj;
    const char *key;

    while (engine_next_out(f->g, &o)) {
        if (o.is_reply) {
            if (f->reply) {
                coffer__v1__reply__free_unpacked(f->reply, NULL);
            }
            f->reply = coffer__v1__reply__unpack(NULL, o.payload.n, o.payload.p);
            CHECK(f->reply);
            continue;
        }
        CHECK(subject_parse(o.subject, &subj, &key) == 0);
        if (subj == SUBJ_GATE_DECISION) {
            CHECK(f->n_decisions < ARRAY_LEN(f->decisions));
            f->decisions[f->n_decisions] =
                coffer__v1__gate_decision__unpack(NULL, o.payload.n, o.payload.p);
            CHECK(f->decisions[f->n_decisions]);
            f->n_decisions++;
        } else {
            f->n_dead += subj == SUBJ_DEAD;
        }
    }
}

static void fixture_deliver(struct fixture *f, enum subject subj, const char *key,
                            struct bytes payload)
{
    struct msg m = {.subject = subj,
                    .key = key,
                    .payload = payload,
                    .msg_id = "",
                    .reply_to = subjects[subj].style == STYLE_REQUEST ? "_INBOX.t" : "",
                    .traceparent = "",
                    .deliveries = 1};
    int delay;

    err_clear(&f->why);
    OK(engine_begin(f->g, e));
    OK(engine_handle(f->g, &m, &f->disp, &delay, &f->why, e));
    OK(engine_commit(f->g, e));
    fixture_take_outs(f);
}

static void fixture_send(struct fixture *f, enum subject subj, const char *key,
                         const ProtobufCMessage *pb)
{
    size_t n = protobuf_c_message_get_packed_size(pb);
    _cleanup_free_ uint8_t *p = xmalloc(n + 1);

    protobuf_c_message_pack(pb, p);
    fixture_deliver(f, subj, key, BYTES(p, n));
}

_unused_ static void fixture_tick(struct fixture *f, int64_t now_ms)
{
    f->now_ms = now_ms;
    OK(engine_begin(f->g, e));
    OK(engine_tick(f->g, e));
    OK(engine_commit(f->g, e));
    fixture_take_outs(f);
}

/* ---- what goes in ---------------------------------------------------------------------------- */

struct job_opts {
    const char *nonce;
    const char *type; /* of out.csv */
    int64_t max_bytes, attempts, hold_at, reject_at, max_verbatim;
    const char *dataset; /* id; NULL: none */
    const char *image;
    const char *arg; /* of the workload; NULL: none */
    int64_t timeout_ms;
};
/* What is 0 is made what is most usual. */
#define JOB_OPTS(...) ((struct job_opts){__VA_ARGS__})

static void job_opts_fill(struct job_opts *o)
{
    o->nonce = o->nonce ? o->nonce : "0123456789abcdef";
    o->type = o->type ? o->type : "text/csv";
    o->max_bytes = o->max_bytes ? o->max_bytes : 1 << 20;
    o->attempts = o->attempts ? o->attempts : 3;
    o->hold_at = o->hold_at ? o->hold_at : 30;
    o->reject_at = o->reject_at ? o->reject_at : 70;
    o->max_verbatim = o->max_verbatim ? o->max_verbatim : 10;
    o->timeout_ms = o->timeout_ms ? o->timeout_ms : 60000;
    o->image = o->image ? o->image
                        : "sha256:"
                          "0000000000000000000000000000000000000000000000000000000000000000";
}

struct job_case {
    struct spec *spec;
    char *spec_jws;
};

static struct job_case fixture_job(const struct fixture *f, struct job_opts o)
{
    struct job_case c = {0};
    job_opts_fill(&o);
    json_t *datasets =
        o.dataset ? json_pack("[{s:s,s:s}]", "id", o.dataset, "mount", "/data/in") : json_array();
    json_t *j = json_pack(
        "{s:s,s:s,s:{s:s,s:s},s:{s:s,s:b,s:[],s:o,s:{},s:s},s:o,s:{s:s,s:[s]},"
        "s:{s:I,s:I,s:I,s:I,s:i,s:b,s:s,s:i,s:b},s:I,s:I,s:s,s:{s:s,s:I,s:[{s:s,s:s}],s:[o]},s:{s:"
        "I,s:I,s:I}}",
        "apiVersion", "coffer/v1", "kind", "Job", "metadata", "name", "test", "nonce", o.nonce,
        "workload", "image", o.image, "encrypted", 0, "imageKeys", "args",
        o.arg ? json_pack("[s]", o.arg) : json_array(), "env", "workdir", "/", "datasets", datasets,
        "tee", "mode", "required", "types", "sample", "resources", "cpuMillis", (json_int_t)1000,
        "memoryBytes", (json_int_t)(64 << 20), "pids", (json_int_t)16, "tmpBytes", (json_int_t)0,
        "scratchBytes", 0, "lockMemory", 0, "hugepages", "none", "numaNode", -1, "cpuPinning", 0,
        "timeoutMs", (json_int_t)o.timeout_ms, "attempts", (json_int_t)o.attempts, "network",
        "none", "output", "path", "/output", "maxBytes", (json_int_t)o.max_bytes, "files", "path",
        "out.csv", "type", o.type, "recipients", jkey_public_jwk(f->recipient), "gate", "holdAt",
        (json_int_t)o.hold_at, "rejectAt", (json_int_t)o.reject_at, "maxVerbatimPercent",
        (json_int_t)o.max_verbatim);

    CHECK(j);
    OK(spec_from_json(j, &c.spec, e));
    OK(spec_sign(c.spec, f->consumer, &c.spec_jws, e));
    json_decref(j);
    return c;
}

_unused_ static void job_case_done(struct job_case *c)
{
    spec_free(c->spec);
    free(c->spec_jws);
}

static char *fixture_ear(const struct fixture *f, const struct jkey *signer, const char *job,
                         uint32_t attempt, const struct jkey *cnf)
{
    uint8_t nonce[32], jti[16], zero[64] = {0};
    char *token = NULL;
    json_t *vector = json_object();
    _cleanup_free_ char *hex = hex_encode(zero, sizeof(zero));

    random_bytes(nonce, sizeof(nonce));
    random_bytes(jti, sizeof(jti));
    _cleanup_free_ char *n64 = b64url_encode(nonce, sizeof(nonce));
    _cleanup_free_ char *j64 = b64url_encode(jti, sizeof(jti));
    for (size_t i = 0; i < EAR_VECTOR_N; i++) {
        json_object_set_new(vector, ear_vector_members[i], json_integer(2));
    }
    json_t *c = json_pack(
        "{s:s,s:I,s:I,s:s,s:s,s:{s:s,s:s},s:{s:o},s:{s:i,s:s,s:I,s:s,s:s},"
        "s:{s:{s:s,s:o,s:s,s:{s:{},s:s}}}}",
        "eat_profile", "tag:github.com,2024:confidential-containers/Trustee", "iat",
        (json_int_t)(f->now_ms / 1000), "exp", (json_int_t)(f->now_ms / 1000 + 300), "jti", j64,
        "iss", "coffer-verifier", "ear.verifier-id", "developer", "coffer", "build", "test", "cnf",
        "jwk", jkey_public_jwk(cnf), "coffer", "v", 1, "job", job, "attempt", (json_int_t)attempt,
        "nonce", n64, "tee", "sample", "submods", "cpu0", "ear.status", "affirming",
        "ear.trustworthiness-vector", vector, "ear.appraisal-policy-id", "test",
        "ear.veraison.annotated-evidence", "sample", "report_data", hex);
    CHECK(c);
    OK(jws_sign_json(signer, "JWT", 0, c, &token, e));
    json_decref(c);
    return token;
}

static char *fixture_release_jws(const struct fixture *f, const struct jkey *signer,
                                 const char *job, uint32_t attempt, const struct jkey *cnf)
{
    char *jws = NULL;
    json_t *j = json_pack("{s:i,s:s,s:I,s:s,s:s,s:I}", "v", 1, "job", job, "attempt",
                          (json_int_t)attempt, "cnf", jkey_thumbprint(cnf), "jti",
                          "AAAAAAAAAAAAAAAAAAAAAA", "iat", (json_int_t)(f->now_ms / 1000));
    OK(jws_sign_json(signer, "coffer-release+jws", 0, j, &jws, e));
    json_decref(j);
    return jws;
}

_unused_ static void fixture_release(struct fixture *f, const char *job, uint32_t attempt,
                                     const struct jkey *cnf)
{
    Coffer__V1__ReleaseKey r = COFFER__V1__RELEASE_KEY__INIT;
    _cleanup_free_ char *jws = fixture_release_jws(f, f->kbs, job, attempt, cnf);
    char jwe[] = "{}", id[64];

    snprintf(id, sizeof(id), "%s", job);
    r.job = id;
    r.attempt = attempt;
    r.jwe = jwe;
    r.release_jws = jws;
    fixture_send(f, SUBJ_KEY_RELEASE, job, &r.base);
}

/* A result as a worker makes it, with what a test wants to be wrong about it. */
struct result_opts {
    uint32_t attempt;                              /* 0: 1 */
    const struct jkey *tee, *verifier, *gate_seal; /* NULL: the right ones */
    struct bytes content;                          /* of out.csv */
    struct bytes fingerprints;                     /* after it */
    uint64_t fp_count, fp_total;
    uint8_t fp_salt[FP_SALT_BYTES];
    int64_t claim_bytes; /* of the file; 0: as they are */
    const struct err *refusal;
    const char *as_path; /* NULL: the declared one */
};
#define RESULT_OPTS(...) ((struct result_opts){__VA_ARGS__})

_unused_ static struct worker_sealed fixture_result(const struct fixture *f,
                                                    const struct job_case *c, struct result_opts o)
{
    const struct jkey *tee = o.tee ? o.tee : f->tee;
    o.attempt = o.attempt ? o.attempt : 1;
    Coffer__V1__LaunchConfig pb = COFFER__V1__LAUNCH_CONFIG__INIT;
    struct worker_launch l = {.pb = &pb, .spec = c->spec};
    struct worker_outcome out = {.exit_code = 0, .fp_count = o.fp_count, .fp_total = o.fp_total};
    struct worker_sealed w = {0};
    _cleanup_buf_ struct buf plain = BUF_INIT(AREA_MAX_BYTES);
    _cleanup_free_ char *ear =
        fixture_ear(f, o.verifier ? o.verifier : f->verifier, c->spec->job_id, o.attempt, tee);
    char *path = c->spec->files[0].path;

    pb.job = c->spec->job_id;
    pb.attempt = o.attempt;
    pb.spec_jws = c->spec_jws;
    if (o.refusal) {
        out.refusal = *o.refusal;
        out.exit_code = 7;
    } else {
        OK(buf_add(&plain, o.content.p, o.content.n, e));
        OK(buf_add(&plain, o.fingerprints.p, o.fingerprints.n, e));
    }
    out.plain = buf_bytes(&plain);
    out.file_bytes[0] = !o.claim_bytes ? o.content.n : (uint64_t)o.claim_bytes;
    memcpy(out.fp_salt, o.fp_salt, sizeof(out.fp_salt));
    if (o.as_path) {
        c->spec->files[0].path = (char *)(uintptr_t)o.as_path;
    }
    OK(worker_seal(&l, tee, o.gate_seal ? o.gate_seal : f->gate_seal, ear, &out, &w, e));
    c->spec->files[0].path = path;
    return w;
}

_unused_ static void fixture_send_manifest(struct fixture *f, const char *job, uint32_t attempt,
                                           const char *jws)
{
    Coffer__V1__Result r = COFFER__V1__RESULT__INIT;

    r.job = (char *)(uintptr_t)job;
    r.attempt = attempt;
    r.part_case = COFFER__V1__RESULT__PART_MANIFEST_JWS;
    r.manifest_jws = (char *)(uintptr_t)jws;
    fixture_send(f, SUBJ_RESULT, job, &r.base);
}

_unused_ static void fixture_send_chunk(struct fixture *f, const char *job, uint32_t attempt,
                                        uint32_t index, struct bytes data)
{
    Coffer__V1__Result r = COFFER__V1__RESULT__INIT;
    Coffer__V1__ResultChunk c = COFFER__V1__RESULT_CHUNK__INIT;

    r.job = (char *)(uintptr_t)job;
    r.attempt = attempt;
    r.part_case = COFFER__V1__RESULT__PART_CHUNK;
    r.chunk = &c;
    c.index = index;
    c.data.data = (uint8_t *)(uintptr_t)data.p;
    c.data.len = data.n;
    fixture_send(f, SUBJ_RESULT, job, &r.base);
}

_unused_ static struct bytes fixture_chunk(const struct worker_sealed *w, uint32_t index)
{
    return BYTES(w->stream.p + (size_t)index * RESULT_CHUNK_BYTES,
                 result_chunk_bytes(w->stream.n, index));
}

_unused_ static void fixture_send_chunks(struct fixture *f, const char *job, uint32_t attempt,
                                         const struct worker_sealed *w)
{
    for (uint32_t i = 0; result_chunk_bytes(w->stream.n, i); i++) {
        fixture_send_chunk(f, job, attempt, i, fixture_chunk(w, i));
    }
}

#endif

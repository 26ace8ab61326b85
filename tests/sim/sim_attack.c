/* Whoever else can publish: the operator, the server, a compromised host. Nothing of what they send
 * is signed by whom it should be, or it was said before, of something else. */
#include <inttypes.h>

#include "common/trust.h"
#include "tests/sim/sim.h"

static void pack_and_inject(struct sim *s, enum subject subject, const char *key,
                            const ProtobufCMessage *m)
{
    size_t n = protobuf_c_message_get_packed_size(m);
    _cleanup_free_ uint8_t *packed = xmalloc(n);
    char id[64];

    protobuf_c_message_pack(m, packed);
    snprintf(id, sizeof(id), "attack.%" PRIu64, s->counts[COUNT_ATTACKS]);
    bus_inject(s, "attacker", subject, key, id, BYTES(packed, n), "");
}

static struct sim_job *running_job(struct sim *s)
{
    struct sim_job *j = &s->jobs[sim_random(s, s->n_jobs)];

    return j->max_attempt ? j : NULL;
}

/* ---- verdicts -------------------------------------------------------------------------------- */

static json_t *forged_claims(struct sim *s, const struct sim_job *j)
{
    uint8_t raw[32];
    json_int_t iat = s->now / 1000;

    random_bytes(raw, sizeof(raw));
    _cleanup_free_ char *nonce = b64url_encode(raw, 32), *jti = b64url_encode(raw, 16);
    json_t *vector =
        json_pack("{s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i}", "configuration", 0, "executables", 0,
                  "file-system", 0, "hardware", 2, "instance-identity", 0, "runtime-opaque", 0,
                  "sourced-data", 0, "storage-opaque", 0);
    return json_pack("{s:s,s:I,s:I,s:s,s:s,s:{s:s,s:s},s:{s:o},s:{s:i,s:s,s:I,s:s,s:s},s:{s:{s:s,s:"
                     "o,s:s,s:{}}}}",
                     "eat_profile", "tag:github.com,2024:confidential-containers/Trustee", "iat",
                     iat, "exp", iat + 300, "jti", jti, "iss", "coffer-verifier", "ear.verifier-id",
                     "developer", "coffer", "build", "0", "cnf", "jwk",
                     jkey_public_jwk(world.attacker), "coffer", "v", 1, "job", j->job, "attempt",
                     (json_int_t)j->max_attempt, "nonce", nonce, "tee", "sample", "submods", "cpu0",
                     "ear.status", "affirming", "ear.trustworthiness-vector", vector,
                     "ear.appraisal-policy-id", "p", "ear.veraison.annotated-evidence");
}

static void forged_verdict(struct sim *s)
{
    struct sim_job *j = running_job(s);
    Coffer__V1__Verdict v = COFFER__V1__VERDICT__INIT;
    _cleanup_json_ json_t *claims = j ? forged_claims(s, j) : NULL;
    _cleanup_free_ char *ear = NULL;

    if (!claims) {
        return;
    }
    MUST(jws_sign_json(world.attacker, "JWT", 0, claims, &ear, e));
    v.job = j->job;
    v.attempt = (uint32_t)j->max_attempt;
    v.ear = ear;
    v.spec_jws = j->jws;
    v.tee = (char *)"sample";
    pack_and_inject(s, SUBJ_VERDICT, j->job, &v.base);
}

/* A genuine one, as it was or for another attempt or job. */
static void replayed_verdict(struct sim *s)
{
    const struct stored *old = bus_pick(s, SUBJ_VERDICT);
    struct sim_job *j = running_job(s);

    if (!old || !j) {
        return;
    }
    Coffer__V1__Verdict *v =
        coffer__v1__verdict__unpack(NULL, old->wire.payload->n, old->wire.payload->p);
    if (!v) {
        return;
    }
    if (sim_random(s, 3) == 0) {
        v->attempt++;
    }
    pack_and_inject(s, SUBJ_VERDICT, v->job, &v->base);
    coffer__v1__verdict__free_unpacked(v, NULL);
}

/* ---- results --------------------------------------------------------------------------------- */

static void replayed_result(struct sim *s)
{
    const struct stored *old = bus_pick(s, SUBJ_RESULT);
    struct sim_job *j = running_job(s);

    if (!old || !j) {
        return;
    }
    Coffer__V1__Result *r =
        coffer__v1__result__unpack(NULL, old->wire.payload->n, old->wire.payload->p);
    if (!r) {
        return;
    }
    struct sim_job *of = sim_job_find(s, r->job);
    if (of && sim_random(s, 2)) {
        r->attempt = (uint32_t)of->max_attempt;
    }
    pack_and_inject(s, SUBJ_RESULT, r->job, &r->base);
    coffer__v1__result__free_unpacked(r, NULL);
}

static char *any_ear(struct sim *s, char ret_job[JOB_ID_LEN + 1], uint32_t *ret_attempt)
{
    const struct stored *old = bus_pick(s, SUBJ_VERDICT);
    Coffer__V1__Verdict *v =
        old ? coffer__v1__verdict__unpack(NULL, old->wire.payload->n, old->wire.payload->p) : NULL;
    char *ear = NULL;

    if (v && v->ear[0] && job_id_valid(v->job)) {
        ear = xstrdup(v->ear);
        snprintf(ret_job, JOB_ID_LEN + 1, "%s", v->job);
        *ret_attempt = v->attempt;
    }
    if (v) {
        coffer__v1__verdict__free_unpacked(v, NULL);
    }
    return ear;
}

/* Somebody else's EAR, a manifest and a chunk of one's own. */
static void forged_result(struct sim *s)
{
    Coffer__V1__Result m = COFFER__V1__RESULT__INIT;
    Coffer__V1__ResultChunk c = COFFER__V1__RESULT_CHUNK__INIT;
    char job[JOB_ID_LEN + 1];
    uint32_t attempt = 0;
    _cleanup_free_ char *ear = any_ear(s, job, &attempt), *jws = NULL, *box = NULL;
    struct sim_job *j = ear ? sim_job_find(s, job) : NULL;
    uint8_t chunk[100];

    if (!j) {
        return;
    }
    m.job = job;
    m.attempt = attempt;
    if (sim_random(s, 2)) {
        random_bytes(chunk, sizeof(chunk));
        c.data.data = chunk;
        c.data.len = sizeof(chunk);
        m.part_case = COFFER__V1__RESULT__PART_CHUNK;
        m.chunk = &c;
    } else {
        json_t *jwe = NULL;
        MUST(jwe_encrypt(world.gate_seal, BYTES_STR("{}"), &box, e));
        MUST(json_parse("box", BYTES_STR(box), 1u << 16, &jwe, e));
        _cleanup_json_ json_t *o =
            json_pack("{s:i,s:s,s:I,s:s,s:s,s:s,s:i,s:i,s:s,s:[],s:o}", "v", 1, "job", job,
                      "attempt", (json_int_t)attempt, "outcome", "failed", "ear", ear, "spec",
                      j->jws, "chunks", 0, "bytes", 0, "sha256",
                      "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                      "chunk_sha256", "box", jwe);
        if (!o) { /* an EAR that was damaged on its way is no text any more */
            return;
        }
        MUST(jws_sign_json(world.attacker, "coffer-result+jws", 0, o, &jws, e));
        m.part_case = COFFER__V1__RESULT__PART_MANIFEST_JWS;
        m.manifest_jws = jws;
    }
    pack_and_inject(s, SUBJ_RESULT, job, &m.base);
}

/* ---- releases -------------------------------------------------------------------------------- */

/* Keys of one's own and a gate of one's own, to the worker's true key. */
static void forged_release(struct sim *s)
{
    struct cvm_run *c = s->n_cvms ? s->cvms[sim_random(s, s->n_cvms)] : NULL;
    struct sim_job *j = c ? sim_job_find(s, c->job) : NULL;
    Coffer__V1__ReleaseKey r = COFFER__V1__RELEASE_KEY__INIT;
    char job[JOB_ID_LEN + 1];
    uint32_t attempt;
    _cleanup_free_ char *jwe = NULL, *jws = NULL, *text = NULL, *ear = any_ear(s, job, &attempt);

    if (!c || !c->alive || !c->thumbprint[0] || !j || !ear) {
        return;
    }
    const struct jkey *tee = worker_public_key(c);
    if (!tee) {
        return;
    }
    _cleanup_json_ json_t *plain = json_pack(
        "{s:i,s:s,s:I,s:[{s:s,s:s,s:s},{s:s,s:s,s:s}],s:o,s:s}", "v", 1, "job", c->job, "attempt",
        (json_int_t)c->attempt, "keys", "id", world.dataset[DS_GOOD], "kind", "dataset", "key",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "id", world.image_key, "kind", "image-key",
        "key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "gate",
        jkey_public_jwk(world.attacker), "ear", ear);
    if (!plain) {
        return;
    }
    MUST(jcs_encode(plain, &text, e));
    MUST(jwe_encrypt(tee, BYTES_STR(text), &jwe, e));
    _cleanup_json_ json_t *says = json_pack(
        "{s:i,s:s,s:I,s:s,s:s,s:I}", "v", 1, "job", c->job, "attempt", (json_int_t)c->attempt,
        "cnf", jkey_thumbprint(world.attacker), "jti", "x", "iat", (json_int_t)(s->now / 1000));
    MUST(jws_sign_json(world.attacker, "coffer-release+jws", 0, says, &jws, e));
    r.job = c->job;
    r.attempt = c->attempt;
    r.jwe = jwe;
    r.release_jws = jws;
    pack_and_inject(s, SUBJ_KEY_RELEASE, c->job, &r.base);
}

/* ---- launches, garbage ----------------------------------------------------------------------- */

/* The same attempt once more, on this host or the other one. */
static void duplicate_launch(struct sim *s)
{
    const struct stored *old = bus_pick(s, SUBJ_CVM_LAUNCH);
    char id[64];

    if (old) {
        _cleanup_free_ uint8_t *copy = xmemdup(old->wire.payload->p, old->wire.payload->n);
        size_t n = old->wire.payload->n;
        snprintf(id, sizeof(id), "attack.%" PRIu64, s->counts[COUNT_ATTACKS]);
        bus_inject(s, "attacker", SUBJ_CVM_LAUNCH, host_names[sim_random(s, SIM_HOSTS)], id,
                   BYTES(copy, n), "");
    }
}

/* An attempt that the scheduler never asked for. */
static void early_launch(struct sim *s)
{
    const struct stored *old = bus_pick(s, SUBJ_CVM_LAUNCH);
    Coffer__V1__LaunchCvm *l =
        old ? coffer__v1__launch_cvm__unpack(NULL, old->wire.payload->n, old->wire.payload->p)
            : NULL;

    if (l) {
        l->attempt++;
        pack_and_inject(s, SUBJ_CVM_LAUNCH, host_names[sim_random(s, SIM_HOSTS)], &l->base);
        coffer__v1__launch_cvm__free_unpacked(l, NULL);
    }
}

/* Anything that was said, word for word, under an id of its own: past every window and inbox. */
static void replay(struct sim *s)
{
    enum subject subject = (enum subject)sim_random(s, SUBJ_N);
    const struct stored *old =
        subjects[subject].style == STYLE_DURABLE ? bus_pick(s, subject) : NULL;
    char id[64];

    if (old) {
        struct wire w = old->wire;
        payload_ref(w.payload);
        snprintf(id, sizeof(id), "replay.%" PRIu64, s->counts[COUNT_ATTACKS]);
        bus_inject(s, "attacker", subject, w.key, id, BYTES(w.payload->p, w.payload->n), "");
        payload_unref(w.payload);
    }
}

static void garbage(struct sim *s)
{
    uint8_t bytes[600];
    size_t n = sim_random(s, sizeof(bytes));
    enum subject subject = (enum subject)sim_random(s, SUBJ_N);
    const char *kind = subjects[subject].key;
    char key[72] = "", id[64] = "";

    random_bytes(bytes, n);
    if (streq(kind, "job")) {
        snprintf(key, sizeof(key), "%s", s->jobs[sim_random(s, s->n_jobs)].job);
    } else if (kind[0]) {
        snprintf(key, sizeof(key), "%s", host_names[sim_random(s, SIM_HOSTS)]);
    }
    if (subjects[subject].style == STYLE_DURABLE && sim_random(s, 4)) {
        snprintf(id, sizeof(id), "garbage.%" PRIu64, s->counts[COUNT_ATTACKS]);
    }
    /* Sometimes a true message that was damaged. */
    const struct stored *old =
        subjects[subject].style == STYLE_DURABLE ? bus_pick(s, subject) : NULL;
    if (old && old->wire.payload->n && sim_random(s, 2)) {
        _cleanup_free_ uint8_t *copy = xmemdup(old->wire.payload->p, old->wire.payload->n);
        size_t size = old->wire.payload->n;
        copy[sim_random(s, size)] ^= (uint8_t)(1 + sim_random(s, 255));
        if (subject != SUBJ_GATE_DECISION && subject != SUBJ_JOB_EVENT &&
            subject != SUBJ_CVM_EVENT && subject != SUBJ_CVM_DESTROY &&
            subject != SUBJ_CVM_LAUNCH) {
            bus_inject(s, "attacker", subject, key, id, BYTES(copy, size), "");
        }
        return;
    }
    bus_inject(s, "attacker", subject, key, id, BYTES(bytes, n),
               sim_random(s, 2) ? "_INBOX.of.attacker" : "not an inbox");
}

static void attack(struct sim *s, void *arg, int64_t n)
{
    static void (*const all[])(struct sim *) = {
        forged_verdict,   replayed_verdict, replayed_result, forged_result, forged_release,
        duplicate_launch, early_launch,     garbage,         replay,        replay,
    };

    (void)arg;
    if (!sim_faulty(s)) {
        return;
    }
    if (sim_random(s, 10000) < s->f.attack) {
        s->counts[COUNT_ATTACKS]++;
        size_t i = sim_random(s, ARRAY_LEN(all));
        all[i](s);
    }
    sim_in(s, 300, attack, NULL, n);
}

void attack_start(struct sim *s)
{
    sim_in(s, 700, attack, NULL, 0);
}

/* What arrives, and what is believed of it. Until a manifest is proven nothing is believed and
 * everything is bounded; after that a piece is taken if, and only if, the manifest names its
 * digest. */
#include "svc-gate/gate_int.h"

#define VERSIONS_PER_PIECE 4
#define CANDIDATES_PER_ATTEMPT 4
#define CANDIDATES_MAX 256 /* at most 512 KiB each */
#define RETRIES_PER_TICK 8
#define RETRY_AFTER_MS 5000
#define RELEASE_JWS_MAX_BYTES 8192u
#define RELEASE_TYP "coffer-release+jws"

static int64_t result_deadline(const struct svc *s)
{
    return s->now_ms + config_int(s->config, "result-timeout-ms");
}

/* Of an attempt that a newer one has replaced? */
static int check_fence(struct svc *s, struct attempt_id id, struct err *e)
{
    int64_t latest;
    char expected[64];

    if (store_fence_latest(s->db, id.job, &latest, e)) {
        return -1;
    }
    if (id.n >= latest) {
        return 0;
    }
    snprintf(expected, sizeof(expected), "%lld, the latest attempt that has keys",
             (long long)latest);
    return err_refuse(e, ERR_STALE, "result.attempt", expected, "%lld", (long long)id.n);
}

/* ---- pieces ---------------------------------------------------------------------------------- */

static int check_bound(int64_t have, int64_t cost, int64_t max, const char *clause, struct err *e)
{
    char expected[64];

    if (have + cost <= max) {
        return 0;
    }
    snprintf(expected, sizeof(expected), "at most %lld", (long long)max);
    return err_refuse(e, ERR_BUSY, clause, expected, "%lld and this one", (long long)have);
}

/* No manifest has vouched for it: keeps a few versions, within bounds. Beyond them the sender's
 * stream delivers it again later, when the manifest may be here. */
static int take_unproven(struct svc *s, struct attempt_id id, const Coffer__V1__ResultChunk *c,
                         const uint8_t digest[32], struct err *e)
{
    int64_t versions, mine, all;
    int have;
    int64_t cost = c->data.len < PIECE_MIN_COST_BYTES ? PIECE_MIN_COST_BYTES : (int64_t)c->data.len;

    if (store_piece_has(s->db, id, c->index, digest, &have, e)) {
        return -1;
    }
    if (have) {
        return 0;
    }
    if (store_piece_versions(s->db, id, c->index, &versions, e) ||
        store_unproven_cost(s->db, id, &mine, &all, e) ||
        check_bound(versions, 1, VERSIONS_PER_PIECE, "result.chunk.versions", e) ||
        check_bound(mine, cost, config_int(s->config, "max-result-bytes"), "result.chunk.unproven",
                    e) ||
        check_bound(all, cost, config_int(s->config, "unproven-max-bytes"),
                    "gate.unproven-max-bytes", e)) {
        return -1;
    }
    return store_piece_add(s->db, id, c->index, digest, BYTES(c->data.data, c->data.len),
                           PIECE_UNPROVEN, result_deadline(s), e);
}

static int take_proven(struct svc *s, struct attempt_id id, const struct result_row *row,
                       const Coffer__V1__ResultChunk *c, const uint8_t digest[32],
                       struct effects *fx, struct err *e)
{
    int have;
    char expected[96];

    if (c->index >= row->chunks) {
        snprintf(expected, sizeof(expected), "below %u, as the manifest says", row->chunks);
        return err_refuse(e, ERR_INVALID, "result.chunk.index", expected, "%u", c->index);
    }
    size_t want = result_chunk_bytes(row->bytes, c->index);
    if (c->data.len != want) {
        snprintf(expected, sizeof(expected), "%zu for chunk %u, as the manifest says", want,
                 c->index);
        return err_refuse(e, ERR_INVALID, "result.chunk.bytes", expected, "%zu", c->data.len);
    }
    if (memcmp(digest, row->digests + (size_t)c->index * 32, 32) != 0) {
        _cleanup_free_ char *wanted = hex_encode(row->digests + (size_t)c->index * 32, 32);
        _cleanup_free_ char *found = hex_encode(digest, 32);
        return err_refuse(e, ERR_DENIED, "result.chunk.sha256", wanted, "%s for chunk %u", found,
                          c->index);
    }
    if (store_piece_has(s->db, id, c->index, digest, &have, e)) {
        return -1;
    }
    if (have) {
        return 0;
    }
    if (store_piece_add(s->db, id, c->index, digest, BYTES(c->data.data, c->data.len), PIECE_PROVEN,
                        row->expires_ms, e)) {
        return -1;
    }
    return decide_if_complete(s, id, fx, e);
}

int admit_chunk(struct svc *s, struct attempt_id id, const Coffer__V1__ResultChunk *c,
                struct effects *fx, struct err *e)
{
    _cleanup_(result_row_done) struct result_row row = {0};
    uint8_t digest[32];

    if (c->index >= RESULT_MAX_CHUNKS) {
        return err_refuse(e, ERR_TOO_LARGE, "result.chunk.index", "below 4096", "%u", c->index);
    }
    if (c->data.len < 1 || c->data.len > RESULT_CHUNK_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "result.chunk.bytes", "1 to 262144", "%zu",
                          c->data.len);
    }
    if (check_fence(s, id, e) || store_result_get(s->db, id, &row, e)) {
        return -1;
    }
    EVP_Digest(c->data.data, c->data.len, digest, NULL, EVP_sha256(), NULL);
    switch (row.state) {
    case RS_NONE:
        return take_unproven(s, id, c, digest, e);
    case RS_COLLECTING:
        return take_proven(s, id, &row, c, digest, fx, e);
    case RS_HELD:
    case RS_RELEASED:
    case RS_REJECTED:
    case RS_FAILED:
    case RS_SUPERSEDED:
    case RS_N:
        break;
    }
    return 0; /* a late repeat: it is decided */
}

/* ---- manifests ------------------------------------------------------------------------------- */

static int refuse_number(struct err *e, const char *clause, int64_t want, int64_t found)
{
    char expected[32];

    snprintf(expected, sizeof(expected), "%lld", (long long)want);
    return err_refuse(e, ERR_DENIED, clause, expected, "%lld", (long long)found);
}

/* Shape, signatures, and that they all speak of one attempt of one job. *ret_cnf: who signed. */
static int check_manifest(struct svc *s, struct attempt_id id, const char *jws,
                          struct result_manifest *m, char ret_cnf[JKEY_THUMBPRINT_LEN + 1],
                          struct err *e)
{
    _cleanup_buf_ struct buf peeked = BUF_INIT(RESULT_MANIFEST_MAX_BYTES);
    _cleanup_buf_ struct buf payload = BUF_INIT(RESULT_MANIFEST_MAX_BYTES);
    _cleanup_(ear_freep) struct ear *ear = NULL;
    _cleanup_spec_ struct spec *spec = NULL;
    _cleanup_jkey_ struct jkey *consumer = NULL;

    if (result_manifest_peek(jws, &peeked, e) ||
        result_manifest_parse(buf_bytes(&peeked),
                              (uint64_t)config_int(s->config, "max-result-bytes"), m, e)) {
        return -1;
    }
    if (ear_verify(gate_of(s)->trust, m->ear, &ear, e)) {
        return err_wrap(e, "result.ear");
    }
    if (jws_verify(jws, ear->cnf, RESULT_MANIFEST_TYP, RESULT_MANIFEST_MAX_BYTES, &payload, e)) {
        char why[256];
        snprintf(why, sizeof(why), "%.255s", e ? e->msg : "");
        return err_refuse(e, ERR_BAD_SIGNATURE, "result.manifest.signature",
                          "a signature by the EAR's cnf", "%s", why);
    }
    if (!streq(m->job, id.job) || !streq(ear->job, id.job)) {
        return err_refuse(e, ERR_DENIED, "result.job", id.job, "manifest %.64s, EAR %.64s", m->job,
                          ear->job);
    }
    if (m->attempt != id.n) {
        return refuse_number(e, "result.attempt", id.n, m->attempt);
    }
    if (ear->attempt != id.n) {
        return refuse_number(e, "result.ear.attempt", id.n, ear->attempt);
    }
    if (spec_verify(m->spec, &spec, &consumer, e)) {
        return err_wrap(e, "result.spec");
    }
    if (!streq(spec->job_id, id.job)) {
        return err_refuse(e, ERR_DENIED, "result.spec.job", id.job, "%s", spec->job_id);
    }
    if (id.n > spec->attempts) {
        char expected[48];
        snprintf(expected, sizeof(expected), "at most %lld", (long long)spec->attempts);
        return err_refuse(e, ERR_DENIED, "result.attempt", expected, "%lld", (long long)id.n);
    }
    snprintf(ret_cnf, JKEY_THUMBPRINT_LEN + 1, "%s", jkey_thumbprint(ear->cnf));
    return 0;
}

/* The release that says whose manifest counts is not here yet. */
static int keep_candidate(struct svc *s, struct attempt_id id, const char *cnf, const char *jws,
                          struct err *e)
{
    int64_t n, all;
    _cleanup_free_ char *have = NULL;

    if (store_candidate_get(s->db, id, cnf, &have, e)) {
        return -1;
    }
    if (have) {
        return 0;
    }
    if (store_candidate_count(s->db, id, &n, &all, e) ||
        check_bound(n, 1, CANDIDATES_PER_ATTEMPT, "result.manifest.waiting", e) ||
        check_bound(all, 1, CANDIDATES_MAX, "gate.manifests.waiting", e)) {
        return -1;
    }
    return store_candidate_add(s->db, id, cnf, jws, result_deadline(s), e);
}

static int start_collecting(struct svc *s, struct attempt_id id, const char *cnf, const char *jws,
                            const struct result_manifest *m, struct effects *fx, struct err *e)
{
    int64_t n, bytes;

    if (store_pending(s->db, &n, &bytes, e) ||
        check_bound(n, 1, config_int(s->config, "max-pending"), "gate.max-pending", e) ||
        check_bound(bytes, (int64_t)m->bytes, config_int(s->config, "pending-max-bytes"),
                    "gate.pending-max-bytes", e)) {
        return -1;
    }
    if (admission_start(s, id, cnf, jws, m, result_deadline(s), e) ||
        store_pieces_prove(s->db, id, m, e) || store_candidates_delete(s->db, id, e)) {
        return -1;
    }
    return decide_if_complete(s, id, fx, e);
}

int admit_manifest(struct svc *s, struct attempt_id id, const char *jws, struct effects *fx,
                   struct err *e)
{
    _cleanup_(result_manifest_done) struct result_manifest m = {0};
    _cleanup_(result_row_done) struct result_row row = {0};
    char cnf[JKEY_THUMBPRINT_LEN + 1], released_to[JKEY_THUMBPRINT_LEN + 1];

    if (check_manifest(s, id, jws, &m, cnf, e) || check_fence(s, id, e) ||
        store_result_get(s->db, id, &row, e)) {
        return -1;
    }
    if (row.state != RS_NONE) {
        if (streq(row.manifest_jws, jws)) {
            return 0; /* the same again */
        }
        return err_refuse(e, ERR_REPLAY, "result.manifest", "one manifest for each attempt",
                          "another one, the result is %s", result_state_name(row.state));
    }
    if (store_fence_get(s->db, id, released_to, e)) {
        return -1;
    }
    if (!released_to[0]) {
        return keep_candidate(s, id, cnf, jws, e);
    }
    if (!streq(released_to, cnf)) {
        return err_refuse(e, ERR_DENIED, "result.cnf", released_to, "%s", cnf);
    }
    return start_collecting(s, id, cnf, jws, &m, fx, e);
}

/* ---- releases -------------------------------------------------------------------------------- */

static int check_release(struct svc *s, struct attempt_id id, const char *jws,
                         char ret_cnf[JKEY_THUMBPRINT_LEN + 1], int64_t *ret_iat_ms, struct err *e)
{
    static const char *const keys[] = {"v", "job", "attempt", "cnf", "jti", "iat", NULL};
    _cleanup_buf_ struct buf payload = BUF_INIT(RELEASE_JWS_MAX_BYTES);
    _cleanup_json_ json_t *j = NULL;
    const char *job, *cnf, *jti;
    int64_t v, attempt, iat;

    if (trust_verify(&gate_of(s)->trust->kbs, "kbs", jws, RELEASE_TYP, RELEASE_JWS_MAX_BYTES,
                     &payload, e) ||
        json_parse("release", buf_bytes(&payload), RELEASE_JWS_MAX_BYTES, &j, e) ||
        json_only_keys(j, "release", keys, e) || json_get_int(j, "release", "v", 1, 1, &v, e) ||
        json_get_str(j, "release", "job", &job, e) ||
        json_get_int(j, "release", "attempt", 1, UINT32_MAX, &attempt, e) ||
        json_get_str(j, "release", "cnf", &cnf, e) || json_get_str(j, "release", "jti", &jti, e) ||
        json_get_int(j, "release", "iat", 0, INT64_C(1) << 40, &iat, e)) {
        return -1;
    }
    if (!streq(job, id.job)) {
        return err_refuse(e, ERR_DENIED, "release.job", id.job, "%.64s", job);
    }
    if (attempt != id.n) {
        return refuse_number(e, "release.attempt", id.n, attempt);
    }
    if (strlen(cnf) != JKEY_THUMBPRINT_LEN) {
        return err_refuse(e, ERR_INVALID, "release.cnf", "a thumbprint", "%zu characters",
                          strlen(cnf));
    }
    snprintf(ret_cnf, JKEY_THUMBPRINT_LEN + 1, "%s", cnf);
    *ret_iat_ms = iat * 1000;
    return 0;
}

static int supersede_one(struct svc *s, struct attempt_id id, struct effects *fx, struct err *e)
{
    _cleanup_(result_row_done) struct result_row row = {0};
    struct err why = {0};

    if (store_result_get(s->db, id, &row, e)) {
        return -1;
    }
    if (row.state == RS_HELD) {
        if (db_savepoint(s->db, e)) {
            return -1;
        }
        if (review_supersede(s, id, fx, &why) == 0) {
            return db_release(s->db, e);
        }
        if (!db_in_transaction(s->db)) {
            return err_set(e, ERR_IO, "%s", why.msg);
        }
        db_rollback_to(s->db);
    }
    /* It is being received; or it cannot be opened any more, and must still end. */
    return admission_apply(s, id, EV_FENCE, s->now_ms + config_int(s->config, "record-keep-ms"), e);
}

static int supersede_older(struct svc *s, struct attempt_id id, struct effects *fx, struct err *e)
{
    struct attempt_id old = {.job = id.job};
    int rc;

    while ((rc = store_older_open(s->db, id, &old.n, e)) == 1) {
        if (supersede_one(s, old, fx, e)) {
            return -1;
        }
    }
    return rc;
}

/* Its release is here now. What becomes of the manifest must not cost us the fence: a failure
 * undoes only what the manifest did, and one for want of room is tried again. */
static int admit_waiting(struct svc *s, struct attempt_id id, const char *cnf, struct effects *fx,
                         struct err *e)
{
    _cleanup_free_ char *jws = NULL;
    struct err why = {0};

    if (store_candidate_get(s->db, id, cnf, &jws, e)) {
        return -1;
    }
    if (!jws) {
        return store_candidates_delete(s->db, id, e);
    }
    if (db_savepoint(s->db, e)) {
        return -1;
    }
    if (admit_manifest(s, id, jws, fx, &why) == 0) {
        return db_release(s->db, e) || store_candidates_delete(s->db, id, e) ? -1 : 0;
    }
    if (!db_in_transaction(s->db)) {
        return err_set(e, ERR_IO, "%s", why.msg);
    }
    db_rollback_to(s->db);
    return why.code == ERR_BUSY
               ? store_candidate_retry(s->db, id, cnf, s->now_ms + RETRY_AFTER_MS, e)
               : store_candidates_delete(s->db, id, e);
}

int admit_release(struct svc *s, struct attempt_id id, const char *release_jws, struct effects *fx,
                  struct err *e)
{
    char cnf[JKEY_THUMBPRINT_LEN + 1], known[JKEY_THUMBPRINT_LEN + 1];
    int64_t iat_ms = 0, keep_ms = config_int(s->config, "record-keep-ms");

    if (check_release(s, id, release_jws, cnf, &iat_ms, e)) {
        return -1;
    }
    /* What is older may have been forgotten here: taking it would open the door to a replay. */
    if (iat_ms < s->now_ms - keep_ms) {
        return err_refuse(e, ERR_EXPIRED, "release.iat", "a release that is not forgotten yet",
                          "one that is %lld days old",
                          (long long)((s->now_ms - iat_ms) / 86400000));
    }
    if (store_fence_get(s->db, id, known, e)) {
        return -1;
    }
    if (known[0]) {
        return streq(known, cnf) ? 0 : err_refuse(e, ERR_REPLAY, "release.cnf", known, "%s", cnf);
    }
    if (store_fence_add(s->db, id, cnf, (iat_ms > s->now_ms ? iat_ms : s->now_ms) + keep_ms, e) ||
        supersede_older(s, id, fx, e)) {
        return -1;
    }
    return admit_waiting(s, id, cnf, fx, e);
}

int admit_retry(struct svc *s, struct effects *fx, struct err *e)
{
    char job[JOB_ID_LEN + 1], cnf[JKEY_THUMBPRINT_LEN + 1];
    struct attempt_id id = {.job = job};
    int rc;

    for (int i = 0; i < RETRIES_PER_TICK; i++) {
        rc = store_candidate_due(s->db, s->now_ms, job, &id.n, cnf, e);
        if (rc <= 0) {
            return rc;
        }
        if (admit_waiting(s, id, cnf, fx, e)) {
            return -1;
        }
    }
    return 0;
}

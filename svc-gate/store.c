/* All SQL but that of pieces and streams (store_pieces.c). Nothing here is plaintext: pieces and
 * released streams are ciphertext, and keys stay inside the manifests' boxes. */
#include "svc-gate/gate_int.h"

const char *const gate_migrations[GATE_N_MIGRATIONS] = {
    "CREATE TABLE fence(job TEXT NOT NULL, attempt INTEGER NOT NULL, cnf TEXT NOT NULL,"
    "  expires_ms INTEGER NOT NULL, PRIMARY KEY(job, attempt)) WITHOUT ROWID;"
    "CREATE INDEX fence_expiry ON fence(expires_ms);"
    "CREATE TABLE result(job TEXT NOT NULL, attempt INTEGER NOT NULL, state INTEGER NOT NULL,"
    "  cnf TEXT NOT NULL, manifest TEXT NOT NULL, digests BLOB NOT NULL, chunks INTEGER NOT NULL,"
    "  bytes INTEGER NOT NULL, since_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL,"
    "  PRIMARY KEY(job, attempt));"
    "CREATE INDEX result_expiry ON result(state, expires_ms);"
    "CREATE INDEX result_any_expiry ON result(expires_ms);"
    "CREATE INDEX result_pending ON result(bytes) WHERE state IN (1, 2);"
    "CREATE INDEX result_held ON result(since_ms, job) WHERE state = 2;"
    "CREATE TABLE candidate(job TEXT NOT NULL, attempt INTEGER NOT NULL, cnf TEXT NOT NULL,"
    "  jws TEXT NOT NULL, expires_ms INTEGER NOT NULL, retry_ms INTEGER,"
    "  PRIMARY KEY(job, attempt, cnf));"
    "CREATE INDEX candidate_retry ON candidate(retry_ms) WHERE retry_ms IS NOT NULL;"
    "CREATE INDEX candidate_expiry ON candidate(expires_ms);"
    "CREATE TABLE decision(job TEXT NOT NULL, attempt INTEGER NOT NULL, revision INTEGER NOT NULL,"
    "  outcome INTEGER NOT NULL, score INTEGER NOT NULL, reasons TEXT NOT NULL,"
    "  files TEXT NOT NULL, jws TEXT NOT NULL, at_ms INTEGER NOT NULL,"
    "  PRIMARY KEY(job, attempt, revision));"
    "CREATE TABLE piece(id INTEGER PRIMARY KEY, job TEXT NOT NULL, attempt INTEGER NOT NULL,"
    "  idx INTEGER NOT NULL, digest BLOB NOT NULL, proven INTEGER NOT NULL, cost INTEGER NOT NULL,"
    "  expires_ms INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE(job, attempt, idx, digest));"
    "CREATE INDEX piece_cost ON piece(job, attempt, proven, cost);"
    "CREATE INDEX piece_expiry ON piece(expires_ms) WHERE proven = 0;"
    "CREATE TABLE released(job TEXT NOT NULL, attempt INTEGER NOT NULL, header TEXT NOT NULL,"
    "  bytes INTEGER NOT NULL, expires_ms INTEGER NOT NULL, PRIMARY KEY(job, attempt));"
    "CREATE INDEX released_expiry ON released(expires_ms);"
    "CREATE TABLE released_part(job TEXT NOT NULL, attempt INTEGER NOT NULL, idx INTEGER NOT NULL,"
    "  data BLOB NOT NULL, PRIMARY KEY(job, attempt, idx),"
    "  FOREIGN KEY(job, attempt) REFERENCES released(job, attempt) ON DELETE CASCADE);"
    /* usage: 0 unproven pieces, 2 released streams; kept by the database itself, so that no path
     * through the code can forget it. */
    "CREATE TABLE usage(kind INTEGER PRIMARY KEY, bytes INTEGER NOT NULL);"
    "INSERT INTO usage VALUES (0, 0), (2, 0);"
    "CREATE TRIGGER piece_added AFTER INSERT ON piece WHEN new.proven = 0 BEGIN"
    "  UPDATE usage SET bytes = bytes + new.cost WHERE kind = 0; END;"
    "CREATE TRIGGER piece_proven AFTER UPDATE OF proven ON piece"
    "  WHEN old.proven = 0 AND new.proven = 1 BEGIN"
    "  UPDATE usage SET bytes = bytes - old.cost WHERE kind = 0; END;"
    "CREATE TRIGGER piece_deleted AFTER DELETE ON piece WHEN old.proven = 0 BEGIN"
    "  UPDATE usage SET bytes = bytes - old.cost WHERE kind = 0; END;"
    "CREATE TRIGGER released_added AFTER INSERT ON released BEGIN"
    "  UPDATE usage SET bytes = bytes + new.bytes WHERE kind = 2; END;"
    "CREATE TRIGGER released_deleted AFTER DELETE ON released BEGIN"
    "  UPDATE usage SET bytes = bytes - old.bytes WHERE kind = 2; END;",
};

static const char sql_result_get[] =
    "SELECT state, cnf, manifest, digests, chunks, bytes, since_ms, expires_ms FROM result"
    " WHERE job = ? AND attempt = ?";
static const char sql_result_add[] = "INSERT INTO result VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
static const char sql_result_set[] =
    "UPDATE result SET state = ?, expires_ms = ? WHERE job = ? AND attempt = ?";
static const char sql_result_delete[] = "DELETE FROM result WHERE job = ? AND attempt = ?";
static const char sql_pending[] =
    "SELECT count(*), coalesce(sum(bytes), 0) FROM result WHERE state IN (1, 2)";
static const char sql_older_open[] =
    "SELECT attempt FROM result WHERE job = ? AND attempt < ? AND state IN (1, 2) LIMIT 1";
static const char sql_expired[] =
    "SELECT job, attempt FROM result WHERE state = ? AND expires_ms <= ?"
    " ORDER BY expires_ms LIMIT 1";
static const char sql_fence_add[] = "INSERT INTO fence VALUES (?, ?, ?, ?)";
static const char sql_fence_get[] = "SELECT cnf FROM fence WHERE job = ? AND attempt = ?";
static const char sql_fence_latest[] = "SELECT max(attempt) FROM fence WHERE job = ?";
static const char sql_candidate_add[] =
    "INSERT OR IGNORE INTO candidate VALUES (?, ?, ?, ?, ?, NULL)";
static const char sql_candidate_count[] =
    "SELECT count(*) FROM candidate WHERE job = ? AND attempt = ?";
static const char sql_candidate_all[] = "SELECT count(*) FROM candidate";
static const char sql_candidate_get[] =
    "SELECT jws FROM candidate WHERE job = ? AND attempt = ? AND cnf = ?";
static const char sql_candidate_retry[] =
    "UPDATE candidate SET retry_ms = ? WHERE job = ? AND attempt = ? AND cnf = ?";
static const char sql_candidate_due[] =
    "SELECT job, attempt, cnf FROM candidate WHERE retry_ms IS NOT NULL AND retry_ms <= ?"
    " ORDER BY retry_ms LIMIT 1";
static const char sql_candidates_delete[] = "DELETE FROM candidate WHERE job = ? AND attempt = ?";
static const char sql_decision_add[] = "INSERT INTO decision VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
static const char sql_decision_last[] =
    "SELECT revision, outcome, score, reasons, files, jws, at_ms FROM decision"
    " WHERE job = ? AND attempt = ? ORDER BY revision DESC LIMIT 1";
static const char sql_decided_attempt[] =
    "SELECT max(attempt) FROM result WHERE job = ? AND state IN (2, 3, 4, 5)";
static const char sql_held_next[] =
    "SELECT job, attempt, since_ms FROM result WHERE state = 2 AND (since_ms, job) > (?, ?)"
    " ORDER BY since_ms, job LIMIT 1";
static const char sql_sweep_fences[] =
    "DELETE FROM fence WHERE (job, attempt) IN"
    " (SELECT job, attempt FROM fence WHERE expires_ms <= ? ORDER BY expires_ms LIMIT ?)";
static const char sql_sweep_decisions[] =
    "DELETE FROM decision WHERE (job, attempt) IN (SELECT job, attempt FROM result"
    " WHERE state IN (3, 4, 5, 6) AND expires_ms <= ? ORDER BY expires_ms LIMIT ?)";
static const char sql_sweep_results[] =
    "DELETE FROM result WHERE rowid IN (SELECT rowid FROM result"
    " WHERE state IN (3, 4, 5, 6) AND expires_ms <= ? ORDER BY expires_ms LIMIT ?)";
static const char sql_sweep_candidates[] =
    "DELETE FROM candidate WHERE rowid IN (SELECT rowid FROM candidate WHERE expires_ms <= ?"
    " ORDER BY expires_ms LIMIT ?)";
static const char sql_sweep_pieces[] =
    "DELETE FROM piece WHERE id IN (SELECT id FROM piece WHERE proven = 0 AND expires_ms <= ?"
    " ORDER BY expires_ms LIMIT ?)";
static const char sql_sweep_released[] =
    "DELETE FROM released WHERE rowid IN (SELECT rowid FROM released WHERE expires_ms <= ?"
    " ORDER BY expires_ms LIMIT ?)";
static const char *const sql_expiries[] = {
    "SELECT min(expires_ms) FROM result",
    "SELECT min(expires_ms) FROM fence",
    "SELECT min(expires_ms) FROM candidate",
    "SELECT min(retry_ms) FROM candidate WHERE retry_ms IS NOT NULL",
    "SELECT min(expires_ms) FROM piece WHERE proven = 0",
    "SELECT min(expires_ms) FROM released",
};

void result_row_done(struct result_row *r)
{
    free(r->manifest_jws);
    free(r->digests);
    memset(r, 0, sizeof(*r));
}

int store_result_get(struct db *db, struct attempt_id id, struct result_row *ret, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_result_get, "ti", id.job, id.n)) {
        return -1;
    }
    int rc = db_next(r, e);
    memset(ret, 0, sizeof(*ret));
    if (rc <= 0) {
        return rc;
    }
    struct bytes digests = db_blob(r, 3);
    ret->state = (enum result_state)db_int(r, 0);
    snprintf(ret->cnf, sizeof(ret->cnf), "%s", db_text(r, 1));
    ret->chunks = (uint32_t)db_int(r, 4);
    if (digests.n != (size_t)ret->chunks * 32) {
        return err_set(e, ERR_INTERNAL, "result %s: stored digests do not fit its chunks", id.job);
    }
    ret->manifest_jws = xstrdup(db_text(r, 2));
    ret->digests = xmemdup(digests.n ? (const void *)digests.p : "", digests.n);
    ret->bytes = (uint64_t)db_int(r, 5);
    ret->since_ms = db_int(r, 6);
    ret->expires_ms = db_int(r, 7);
    return 0;
}

int store_result_add(struct db *db, struct attempt_id id, const struct result_row *r, struct err *e)
{
    return db_run(db, e, sql_result_add, "tiittbiiii", id.job, id.n, (int64_t)r->state, r->cnf,
                  r->manifest_jws, BYTES(r->digests, (size_t)r->chunks * 32), (int64_t)r->chunks,
                  (int64_t)r->bytes, r->since_ms, r->expires_ms);
}

int store_result_set(struct db *db, struct attempt_id id, enum result_state st, int64_t expires_ms,
                     struct err *e)
{
    return db_run(db, e, sql_result_set, "iiti", (int64_t)st, expires_ms, id.job, id.n);
}

int store_result_delete(struct db *db, struct attempt_id id, struct err *e)
{
    return db_run(db, e, sql_result_delete, "ti", id.job, id.n);
}

int store_pending(struct db *db, int64_t *ret_n, int64_t *ret_bytes, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_pending, "") || db_next(r, e) != 1) {
        return -1;
    }
    *ret_n = db_int(r, 0);
    *ret_bytes = db_int(r, 1);
    return 0;
}

int store_older_open(struct db *db, struct attempt_id id, int64_t *ret_attempt, struct err *e)
{
    int64_t n;

    if (db_get_int(db, e, 0, &n, sql_older_open, "ti", id.job, id.n)) {
        return -1;
    }
    *ret_attempt = n;
    return n > 0;
}

static int job_and_attempt(struct db_rows *r, char ret_job[JOB_ID_LEN + 1], int64_t *ret_attempt,
                           struct err *e)
{
    int rc = db_next(r, e);

    if (rc == 1) {
        snprintf(ret_job, JOB_ID_LEN + 1, "%s", db_text(r, 0));
        *ret_attempt = db_int(r, 1);
    }
    return rc;
}

int store_expired(struct db *db, enum result_state st, int64_t now_ms, char ret_job[JOB_ID_LEN + 1],
                  int64_t *ret_attempt, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_expired, "ii", (int64_t)st, now_ms)) {
        return -1;
    }
    return job_and_attempt(r, ret_job, ret_attempt, e);
}

int store_fence_add(struct db *db, struct attempt_id id, const char *cnf, int64_t expires_ms,
                    struct err *e)
{
    return db_run(db, e, sql_fence_add, "titi", id.job, id.n, cnf, expires_ms);
}

int store_fence_get(struct db *db, struct attempt_id id, char ret_cnf[JKEY_THUMBPRINT_LEN + 1],
                    struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_fence_get, "ti", id.job, id.n)) {
        return -1;
    }
    int rc = db_next(r, e);
    snprintf(ret_cnf, JKEY_THUMBPRINT_LEN + 1, "%s", rc == 1 ? db_text(r, 0) : "");
    return rc < 0 ? -1 : 0;
}

int store_fence_latest(struct db *db, const char *job, int64_t *ret, struct err *e)
{
    return db_get_int(db, e, 0, ret, sql_fence_latest, "t", job);
}

int store_candidate_add(struct db *db, struct attempt_id id, const char *cnf, const char *jws,
                        int64_t expires_ms, struct err *e)
{
    return db_run(db, e, sql_candidate_add, "titti", id.job, id.n, cnf, jws, expires_ms);
}

int store_candidate_count(struct db *db, struct attempt_id id, int64_t *ret, int64_t *ret_all,
                          struct err *e)
{
    return db_get_int(db, e, 0, ret, sql_candidate_count, "ti", id.job, id.n) ||
                   db_get_int(db, e, 0, ret_all, sql_candidate_all, "")
               ? -1
               : 0;
}

int store_candidate_get(struct db *db, struct attempt_id id, const char *cnf, char **ret_jws,
                        struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_candidate_get, "tit", id.job, id.n, cnf)) {
        return -1;
    }
    int rc = db_next(r, e);
    *ret_jws = rc == 1 ? xstrdup(db_text(r, 0)) : NULL;
    return rc < 0 ? -1 : 0;
}

int store_candidate_retry(struct db *db, struct attempt_id id, const char *cnf, int64_t at_ms,
                          struct err *e)
{
    return db_run(db, e, sql_candidate_retry, "itit", at_ms, id.job, id.n, cnf);
}

int store_candidate_due(struct db *db, int64_t now_ms, char ret_job[JOB_ID_LEN + 1],
                        int64_t *ret_attempt, char ret_cnf[JKEY_THUMBPRINT_LEN + 1], struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_candidate_due, "i", now_ms)) {
        return -1;
    }
    int rc = job_and_attempt(r, ret_job, ret_attempt, e);
    if (rc == 1) {
        snprintf(ret_cnf, JKEY_THUMBPRINT_LEN + 1, "%s", db_text(r, 2));
    }
    return rc;
}

int store_candidates_delete(struct db *db, struct attempt_id id, struct err *e)
{
    return db_run(db, e, sql_candidates_delete, "ti", id.job, id.n);
}

void decision_row_done(struct decision_row *d)
{
    json_decref(d->reasons);
    json_decref(d->files);
    free(d->jws);
    memset(d, 0, sizeof(*d));
}

int store_decision_add(struct db *db, struct attempt_id id, const struct decision_row *d,
                       struct err *e)
{
    _cleanup_free_ char *reasons = json_dumps(d->reasons, JSON_COMPACT);
    _cleanup_free_ char *files = json_dumps(d->files, JSON_COMPACT);

    return db_run(db, e, sql_decision_add, "tiiiittti", id.job, id.n, d->revision,
                  (int64_t)d->outcome, d->score, reasons, files, d->jws, d->at_ms);
}

int store_decision_last(struct db *db, struct attempt_id id, struct decision_row *ret,
                        struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_decision_last, "ti", id.job, id.n)) {
        return -1;
    }
    int rc = db_next(r, e);
    memset(ret, 0, sizeof(*ret));
    if (rc <= 0) {
        return rc;
    }
    ret->attempt = id.n;
    ret->revision = db_int(r, 0);
    ret->outcome = (Coffer__V1__GateOutcome)db_int(r, 1);
    ret->score = db_int(r, 2);
    ret->reasons = json_loads(db_text(r, 3), 0, NULL);
    ret->files = json_loads(db_text(r, 4), 0, NULL);
    ret->jws = xstrdup(db_text(r, 5));
    ret->at_ms = db_int(r, 6);
    return 1;
}

int store_decided_attempt(struct db *db, const char *job, int64_t *ret, struct err *e)
{
    return db_get_int(db, e, 0, ret, sql_decided_attempt, "t", job);
}

int store_held_next(struct db *db, int64_t after_ms, const char *after_job,
                    char ret_job[JOB_ID_LEN + 1], int64_t *ret_attempt, int64_t *ret_since_ms,
                    struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_held_next, "it", after_ms, after_job)) {
        return -1;
    }
    int rc = job_and_attempt(r, ret_job, ret_attempt, e);
    if (rc == 1) {
        *ret_since_ms = db_int(r, 2);
    }
    return rc;
}

int store_sweep(struct db *db, int64_t now_ms, int64_t limit, struct err *e)
{
    static const char *const sweeps[] = {sql_sweep_pieces, sql_sweep_candidates, sql_sweep_released,
                                         sql_sweep_fences, sql_sweep_decisions,  sql_sweep_results};

    for (size_t i = 0; i < ARRAY_LEN(sweeps); i++) {
        if (db_run(db, e, sweeps[i], "ii", now_ms, limit)) {
            return -1;
        }
    }
    return 0;
}

int64_t store_next_expiry(struct db *db)
{
    int64_t first = INT64_MAX, v;

    for (size_t i = 0; i < ARRAY_LEN(sql_expiries); i++) {
        if (db_get_int(db, NULL, INT64_MAX, &v, sql_expiries[i], "") == 0 && v < first) {
            first = v;
        }
    }
    return first;
}

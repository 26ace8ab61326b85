#include "svc-verifier/store.h"

/* `total` is kept by triggers: counting rows for every challenge would cost as much as there are.
 */
const char *const verifier_migrations[3] = {
    "CREATE TABLE challenge(nonce BLOB NOT NULL UNIQUE, job TEXT NOT NULL, attempt INTEGER NOT "
    "NULL,"
    "  state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 3), expires_ms INTEGER NOT NULL,"
    "  keep_until_ms INTEGER NOT NULL, evidence_sha256 BLOB, answer BLOB);"
    "CREATE INDEX challenge_job ON challenge(job) WHERE state = 1;"
    "CREATE INDEX challenge_keep ON challenge(keep_until_ms);"
    "CREATE TABLE attempt(job TEXT NOT NULL, attempt INTEGER NOT NULL, sends INTEGER NOT NULL,"
    "  keep_until_ms INTEGER NOT NULL, PRIMARY KEY (job, attempt)) WITHOUT ROWID;"
    "CREATE INDEX attempt_keep ON attempt(keep_until_ms);"
    "CREATE TABLE total(one INTEGER PRIMARY KEY CHECK (one = 1), outstanding INTEGER NOT NULL,"
    "  answered INTEGER NOT NULL);"
    "INSERT INTO total VALUES (1, 0, 0);"
    "CREATE TRIGGER challenge_issued AFTER INSERT ON challenge BEGIN"
    "  UPDATE total SET outstanding = outstanding + 1; END;"
    "CREATE TRIGGER challenge_answered AFTER UPDATE OF state ON challenge"
    "  WHEN OLD.state = 1 AND NEW.state > 1 BEGIN"
    "  UPDATE total SET outstanding = outstanding - 1, answered = answered + 1; END;"
    "CREATE TRIGGER challenge_gone AFTER DELETE ON challenge BEGIN"
    "  UPDATE total SET outstanding = outstanding - (OLD.state = 1),"
    "    answered = answered - (OLD.state > 1); END;",
    "ALTER TABLE challenge ADD COLUMN proof BLOB;",
    "CREATE TABLE shelf(source INTEGER NOT NULL, path TEXT NOT NULL, body BLOB NOT NULL,"
    "  chain BLOB NOT NULL, fetched_ms INTEGER NOT NULL, issued_ms INTEGER NOT NULL,"
    "  valid_until_ms INTEGER NOT NULL, next_ms INTEGER NOT NULL, failures INTEGER NOT NULL,"
    "  PRIMARY KEY (source, path));"
    "CREATE INDEX shelf_next ON shelf(next_ms);",
};

static const char sql_insert[] =
    "INSERT INTO challenge(nonce, job, attempt, state, expires_ms, keep_until_ms, proof)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)";
static const char sql_attempt[] =
    "INSERT INTO attempt VALUES (?, ?, 0, ?)"
    " ON CONFLICT DO UPDATE SET keep_until_ms = max(keep_until_ms, excluded.keep_until_ms)";
static const char sql_answer_set[] =
    "UPDATE challenge SET state = ?, keep_until_ms = ?, evidence_sha256 = ?, answer = ?"
    " WHERE nonce = ? AND state = 1";
static const char sql_get[] = "SELECT job, attempt, state, expires_ms, evidence_sha256, proof"
                              " FROM challenge WHERE nonce = ?";
static const char sql_answer_get[] = "SELECT answer FROM challenge WHERE nonce = ?";
static const char sql_outstanding[] =
    "SELECT count(*) FROM challenge WHERE job = ? AND state = 1 AND expires_ms > ?";
static const char sql_totals[] = "SELECT outstanding, answered FROM total";
static const char sql_send[] = "UPDATE attempt SET sends = sends + 1 WHERE job = ? AND attempt = ?";
static const char sql_sends[] = "SELECT sends FROM attempt WHERE job = ? AND attempt = ?";
static const char sql_prune[] = "DELETE FROM challenge WHERE rowid IN"
                                " (SELECT rowid FROM challenge WHERE keep_until_ms <= ? LIMIT ?)";
static const char sql_prune_attempts[] =
    "DELETE FROM attempt WHERE (job, attempt) IN"
    " (SELECT job, attempt FROM attempt WHERE keep_until_ms <= ? LIMIT ?)";
static const char sql_next_prune[] =
    "SELECT min(coalesce((SELECT min(keep_until_ms) FROM challenge), 9223372036854775807),"
    "           coalesce((SELECT min(keep_until_ms) FROM attempt), 9223372036854775807))";

int verifier_store_insert(struct db *db, const struct challenge *c, int64_t attempt_until_ms,
                          struct err *e)
{
    struct bytes proof = BYTES(c->proof, c->has_proof ? sizeof(c->proof) : 0);

    if (db_run(db, e, sql_insert, "btiiiib", BYTES(c->nonce, sizeof(c->nonce)), c->job,
               (int64_t)c->attempt, (int64_t)c->state, c->expires_ms, c->expires_ms, proof)) {
        return -1;
    }
    return db_run(db, e, sql_attempt, "tii", c->job, (int64_t)c->attempt, attempt_until_ms);
}

int verifier_store_set_answer(struct db *db, const struct challenge *c, int64_t keep_until_ms,
                              struct bytes answer, struct err *e)
{
    if (db_run(db, e, sql_answer_set, "iibbb", (int64_t)c->state, keep_until_ms,
               BYTES(c->evidence_sha256, sizeof(c->evidence_sha256)), answer,
               BYTES(c->nonce, sizeof(c->nonce)))) {
        return -1;
    }
    return db_changes(db) == 1 ? 0
                               : err_set(e, ERR_INTERNAL, "the challenge changed under its answer");
}

int verifier_store_get(struct db *db, struct bytes nonce, struct challenge *ret, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    struct challenge c = {0};
    int rc;

    if (nonce.n != sizeof(c.nonce)) {
        return 0;
    }
    if (db_query(db, e, &r, sql_get, "b", nonce)) {
        return -1;
    }
    rc = db_next(r, e);
    if (rc <= 0) {
        return rc;
    }
    struct bytes sha = db_blob(r, 4);
    memcpy(c.nonce, nonce.p, sizeof(c.nonce));
    snprintf(c.job, sizeof(c.job), "%s", db_text(r, 0));
    c.attempt = (uint32_t)db_int(r, 1);
    c.state = (enum challenge_state)db_int(r, 2);
    c.expires_ms = db_int(r, 3);
    if (sha.n == sizeof(c.evidence_sha256)) {
        memcpy(c.evidence_sha256, sha.p, sha.n);
    }
    struct bytes proof = db_blob(r, 5);
    c.has_proof = proof.n == sizeof(c.proof);
    if (c.has_proof) {
        memcpy(c.proof, proof.p, proof.n);
    }
    *ret = c;
    return 1;
}

int verifier_store_answer(struct db *db, struct bytes nonce, struct buf *ret, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    int rc;

    if (db_query(db, e, &r, sql_answer_get, "b", nonce)) {
        return -1;
    }
    rc = db_next(r, e);
    if (rc <= 0) {
        return rc < 0 ? -1 : err_set(e, ERR_INTERNAL, "the challenge has no answer");
    }
    struct bytes b = db_blob(r, 0);
    return buf_add(ret, b.p, b.n, e);
}

int verifier_store_outstanding(struct db *db, const char *job, int64_t now_ms, int64_t *ret,
                               struct err *e)
{
    return db_get_int(db, e, 0, ret, sql_outstanding, "ti", job, now_ms);
}

int verifier_store_totals(struct db *db, int64_t *ret_outstanding, int64_t *ret_answered,
                          struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    int rc;

    if (db_query(db, e, &r, sql_totals, "")) {
        return -1;
    }
    rc = db_next(r, e);
    if (rc <= 0) {
        return rc < 0 ? -1 : err_set(e, ERR_INTERNAL, "the totals are missing");
    }
    *ret_outstanding = db_int(r, 0);
    *ret_answered = db_int(r, 1);
    return 0;
}

int verifier_store_count_send(struct db *db, const char *job, uint32_t attempt, int64_t *ret_n,
                              struct err *e)
{
    int64_t sends;

    if (db_run(db, e, sql_send, "ti", job, (int64_t)attempt) ||
        db_get_int(db, e, 0, &sends, sql_sends, "ti", job, (int64_t)attempt)) {
        return -1;
    }
    if (sends < 1) {
        return err_set(e, ERR_INTERNAL, "an answered attempt is not counted");
    }
    *ret_n = sends - 1;
    return 0;
}

int verifier_store_prune(struct db *db, int64_t now_ms, int64_t limit, struct err *e)
{
    return db_run(db, e, sql_prune, "ii", now_ms, limit) ||
                   db_run(db, e, sql_prune_attempts, "ii", now_ms, limit)
               ? -1
               : 0;
}

int verifier_store_next_prune(struct db *db, int64_t *ret_ms, struct err *e)
{
    return db_get_int(db, e, INT64_MAX, ret_ms, sql_next_prune, "");
}

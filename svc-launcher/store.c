#include "svc-launcher/launcher.h"

/* All SQL of the launcher. */

const char *const launcher_migrations[LAUNCHER_N_MIGRATIONS] = {
    "CREATE TABLE cvm(id INTEGER PRIMARY KEY, job TEXT NOT NULL, attempt INTEGER NOT NULL,"
    " backend TEXT NOT NULL, state INTEGER NOT NULL, stop INTEGER NOT NULL,"
    " booted INTEGER NOT NULL, done INTEGER NOT NULL, deadline_ms INTEGER NOT NULL,"
    " due_ms INTEGER NOT NULL, n_events INTEGER NOT NULL, n_phases INTEGER NOT NULL,"
    " pid INTEGER NOT NULL, pid_start INTEGER NOT NULL, boot_id TEXT NOT NULL, reason BLOB,"
    " changed_ms INTEGER NOT NULL, UNIQUE(job, attempt));"
    "CREATE INDEX cvm_due ON cvm(due_ms) WHERE due_ms > 0;"
    "CREATE INDEX cvm_live ON cvm(id) WHERE state < 3;"
    "CREATE INDEX cvm_gone ON cvm(changed_ms) WHERE state = 3;",
    "ALTER TABLE cvm ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;",
};

#define COLUMNS                                                                                    \
    "SELECT id, job, attempt, backend, state, stop, booted, done, deadline_ms, due_ms, n_events,"  \
    " n_phases, pid, pid_start, boot_id, reason, seq FROM cvm"
static const char sql_cvm[] = COLUMNS " WHERE job = ? AND attempt = ?";
static const char sql_add[] =
    "INSERT INTO cvm(job, attempt, backend, state, stop, booted, done, deadline_ms, due_ms,"
    " n_events, n_phases, pid, pid_start, boot_id, changed_ms)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, '', ?)";
static const char sql_update[] =
    "UPDATE cvm SET state = ?2, stop = ?3, booted = ?4, done = ?5, due_ms = ?6, n_events = ?7,"
    " n_phases = ?8, pid = ?9, pid_start = ?10, boot_id = ?11, reason = ?12, changed_ms = ?13,"
    " seq = ?14 WHERE id = ?1";
static const char sql_latest[] = "SELECT max(attempt) FROM cvm WHERE job = ?";
static const char sql_count_live[] = "SELECT count(*) FROM cvm WHERE state < 3";
static const char sql_of_job[] = COLUMNS " WHERE job = ? AND attempt < ? AND state < 3 LIMIT ?";
static const char sql_live[] = COLUMNS " WHERE state < 3 AND id > ? ORDER BY id LIMIT ?";
static const char sql_due[] = COLUMNS " WHERE due_ms > 0 AND due_ms <= ? ORDER BY due_ms LIMIT ?";
static const char sql_min_due[] = "SELECT due_ms FROM cvm WHERE due_ms > 0 ORDER BY due_ms LIMIT 1";
static const char sql_prune[] = "DELETE FROM cvm WHERE state = 3 AND changed_ms < ?";

static void read_reason(struct cvm *c, struct bytes packed)
{
    Coffer__V1__Refusal *r =
        packed.n ? coffer__v1__refusal__unpack(NULL, packed.n, packed.p) : NULL;

    if (r) {
        cvm_set_reason(c, r);
        coffer__v1__refusal__free_unpacked(r, NULL);
    }
}

static void read_cvm(struct db_rows *r, struct cvm *c)
{
    int64_t state = db_int(r, 4), stop = db_int(r, 5);

    memset(c, 0, sizeof(*c));
    c->id = db_int(r, 0);
    snprintf(c->job, sizeof(c->job), "%s", db_text(r, 1));
    c->attempt = (uint32_t)db_int(r, 2);
    snprintf(c->backend, sizeof(c->backend), "%s", db_text(r, 3));
    c->state = state >= 0 && state < CVM_STATE_N ? (enum cvm_state)state : CVM_STOPPING;
    c->stop = stop >= 0 && stop <= STOP_LOST ? (enum stop_why)stop : STOP_LOST;
    c->booted = db_int(r, 6) != 0;
    c->done = db_int(r, 7) != 0;
    c->deadline_ms = db_int(r, 8);
    c->due_ms = db_int(r, 9);
    c->n_events = db_int(r, 10);
    c->n_phases = db_int(r, 11);
    c->process.pid = db_int(r, 12);
    c->process.pid_start = db_int(r, 13);
    snprintf(c->process.boot_id, sizeof(c->process.boot_id), "%s", db_text(r, 14));
    read_reason(c, db_blob(r, 15));
    c->seq = db_int(r, 16);
}

static int read_cvms(struct db_rows *r, struct cvm *ret, struct err *e)
{
    int n = 0, rc;

    while ((rc = db_next(r, e)) > 0) {
        read_cvm(r, &ret[n++]);
    }
    return rc < 0 ? -1 : n;
}

int store_cvm(struct db *db, const char *job, uint32_t attempt, struct cvm *ret, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_cvm, "ti", job, (int64_t)attempt) < 0) {
        return -1;
    }
    int rc = db_next(r, e);
    if (rc > 0) {
        read_cvm(r, ret);
    }
    return rc;
}

int store_cvm_add(struct db *db, struct cvm *c, int64_t now_ms, struct err *e)
{
    if (db_run(db, e, sql_add, "titiiiiiiii", c->job, (int64_t)c->attempt, c->backend,
               (int64_t)c->state, (int64_t)c->stop, (int64_t)c->booted, (int64_t)c->done,
               c->deadline_ms, c->due_ms, c->n_events, now_ms) < 0) {
        return -1;
    }
    c->id = db_last_rowid(db);
    return 0;
}

int store_cvm_update(struct db *db, const struct cvm *c, int64_t now_ms, struct err *e)
{
    Coffer__V1__Refusal r = COFFER__V1__REFUSAL__INIT;
    uint8_t packed[2048];
    size_t n = 0;

    if (c->has_reason) {
        r.code = (char *)c->code;
        r.clause = (char *)c->clause;
        r.expected = (char *)c->expected;
        r.actual = (char *)c->actual;
        r.message = (char *)c->message;
        r.by = (char *)c->by;
        n = coffer__v1__refusal__pack(&r, packed); /* fits: struct cvm bounds every text */
    }
    return db_run(db, e, sql_update, "iiiiiiiiiitbii", c->id, (int64_t)c->state, (int64_t)c->stop,
                  (int64_t)c->booted, (int64_t)c->done, c->due_ms, c->n_events, c->n_phases,
                  c->process.pid, c->process.pid_start, c->process.boot_id, BYTES(packed, n),
                  now_ms, c->seq);
}

int store_cvm_latest(struct db *db, const char *job, int64_t *ret, struct err *e)
{
    return db_get_int(db, e, 0, ret, sql_latest, "t", job);
}

int store_cvm_count_live(struct db *db, int64_t *ret, struct err *e)
{
    return db_get_int(db, e, 0, ret, sql_count_live, "");
}

int store_cvms_of_job(struct db *db, const char *job, uint32_t below, struct cvm *ret, size_t max,
                      struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_of_job, "tii", job, (int64_t)below, (int64_t)max) < 0) {
        return -1;
    }
    return read_cvms(r, ret, e);
}

int store_cvms_live(struct db *db, int64_t after_id, struct cvm *ret, size_t max, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_live, "ii", after_id, (int64_t)max) < 0) {
        return -1;
    }
    return read_cvms(r, ret, e);
}

int store_cvms_due(struct db *db, int64_t now_ms, struct cvm *ret, size_t max, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_due, "ii", now_ms, (int64_t)max) < 0) {
        return -1;
    }
    return read_cvms(r, ret, e);
}

int store_cvm_min_due(struct db *db, int64_t *ret, struct err *e)
{
    return db_get_int(db, e, INT64_MAX, ret, sql_min_due, "");
}

int store_cvm_prune(struct db *db, int64_t before_ms, struct err *e)
{
    return db_run(db, e, sql_prune, "i", before_ms);
}

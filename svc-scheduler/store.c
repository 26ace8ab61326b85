#include "svc-scheduler/scheduler.h"

/* Jobs, events and attempts in SQL; hosts are in store_host.c. */

const char *const scheduler_migrations[SCHEDULER_N_MIGRATIONS] = {
    /* The spec is apart from the job: a job's row is written at every transition, its spec once,
     * and not needed any more when the job is over. */
    "CREATE TABLE job(id INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL UNIQUE,"
    " digest TEXT NOT NULL, name TEXT NOT NULL, consumer TEXT NOT NULL, image TEXT NOT NULL,"
    " state INTEGER NOT NULL, attempt INTEGER NOT NULL, attempts INTEGER NOT NULL,"
    " host_id INTEGER NOT NULL, host TEXT NOT NULL, backend TEXT NOT NULL,"
    " downgraded INTEGER NOT NULL, created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL,"
    " queued_ms INTEGER NOT NULL, last_seq INTEGER NOT NULL, deadline_ms INTEGER NOT NULL,"
    " tee_mode INTEGER NOT NULL, tee_types TEXT NOT NULL, cpu_millis INTEGER NOT NULL,"
    " memory_bytes INTEGER NOT NULL, timeout_ms INTEGER NOT NULL, shape INTEGER NOT NULL,"
    " reason BLOB);"
    "CREATE INDEX job_queue ON job(shape, id) WHERE state = 0;"
    "CREATE INDEX job_deadline ON job(deadline_ms) WHERE deadline_ms > 0;"
    "CREATE INDEX job_state ON job(state, id);"
    "CREATE INDEX job_consumer ON job(consumer, id);"
    "CREATE TABLE job_spec(id INTEGER PRIMARY KEY, spec_jws TEXT NOT NULL);"
    "CREATE TABLE job_event(id INTEGER NOT NULL, seq INTEGER NOT NULL, event BLOB NOT NULL,"
    " PRIMARY KEY(id, seq)) WITHOUT ROWID;"
    "CREATE TABLE attempt(job_id INTEGER NOT NULL, attempt INTEGER NOT NULL,"
    " host_id INTEGER NOT NULL, cpu_millis INTEGER NOT NULL, memory_bytes INTEGER NOT NULL,"
    " live INTEGER NOT NULL, done INTEGER NOT NULL, phases INTEGER NOT NULL,"
    " destroy_n INTEGER NOT NULL, destroy_next_ms INTEGER NOT NULL, deadline_ms INTEGER NOT NULL,"
    " launched_ms INTEGER NOT NULL, gone_ms INTEGER NOT NULL,"
    " PRIMARY KEY(job_id, attempt)) WITHOUT ROWID;"
    "CREATE INDEX attempt_live ON attempt(host_id) WHERE live = 1;"
    "CREATE INDEX attempt_destroy ON attempt(destroy_next_ms) WHERE destroy_next_ms > 0;"
    "CREATE TABLE host(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, alive INTEGER NOT NULL,"
    " seen_ms INTEGER NOT NULL, slots INTEGER NOT NULL, cpu_millis INTEGER NOT NULL,"
    " memory_bytes INTEGER NOT NULL, used_slots INTEGER NOT NULL, used_cpu INTEGER NOT NULL,"
    " used_memory INTEGER NOT NULL, backends TEXT NOT NULL, report BLOB NOT NULL);",
};

/* The columns of a job, in the order that read_job expects. */
#define JOB_COLUMNS                                                                                \
    "j.id, j.job, j.digest, j.name, j.consumer, j.image, j.state, j.attempt, j.attempts,"          \
    " j.host_id, j.host, j.backend, j.downgraded, j.created_ms, j.updated_ms, j.queued_ms,"        \
    " j.last_seq, j.deadline_ms, j.tee_mode, j.tee_types, j.cpu_millis, j.memory_bytes,"           \
    " j.timeout_ms, j.shape, j.reason"
#define N_JOB_COLUMNS 25
#define ATTEMPT_COLUMNS                                                                            \
    "a.live, a.done, a.host_id, h.name, a.cpu_millis, a.memory_bytes, a.phases, a.destroy_n,"      \
    " a.deadline_ms"

static const char sql_job[] = "SELECT " JOB_COLUMNS ", " ATTEMPT_COLUMNS " FROM job j"
                              " LEFT JOIN attempt a ON a.job_id = j.id AND a.attempt = ?2"
                              " LEFT JOIN host h ON h.id = a.host_id WHERE j.job = ?1";
static const char sql_job_by_id[] = "SELECT " JOB_COLUMNS " FROM job j WHERE j.id = ?";
static const char sql_job_add[] =
    "INSERT INTO job(job, digest, name, consumer, image, state, attempt, attempts, host_id, host,"
    " backend, downgraded, created_ms, updated_ms, queued_ms, last_seq, deadline_ms, tee_mode,"
    " tee_types, cpu_millis, memory_bytes, timeout_ms, shape)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, '', '', 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
static const char sql_job_update[] =
    "UPDATE job SET state = ?2, attempt = ?3, host_id = ?4, host = ?5, backend = ?6,"
    " downgraded = ?7, updated_ms = ?8, queued_ms = ?9, last_seq = ?10, deadline_ms = ?11,"
    " reason = ?12 WHERE id = ?1";
static const char sql_spec_add[] = "INSERT INTO job_spec(id, spec_jws) VALUES (?, ?)";
static const char sql_spec[] = "SELECT spec_jws FROM job_spec WHERE id = ?";
static const char sql_spec_drop[] = "DELETE FROM job_spec WHERE id = ?";
static const char sql_event_add[] = "INSERT INTO job_event(id, seq, event) VALUES (?, ?, ?)";
static const char sql_events[] =
    "SELECT event FROM job_event WHERE id = ? AND seq >= ? ORDER BY seq LIMIT ?";
static const char sql_list_all[] = "SELECT " JOB_COLUMNS " FROM job j ORDER BY j.id DESC LIMIT ?";
static const char sql_list_state[] =
    "SELECT " JOB_COLUMNS " FROM job j WHERE j.state = ? ORDER BY j.id DESC LIMIT ?";
static const char sql_list_consumer[] =
    "SELECT " JOB_COLUMNS " FROM job j WHERE j.consumer = ?1 AND (?2 < 0 OR j.state = ?2)"
    " ORDER BY j.id DESC LIMIT ?3";
static const char sql_count_queued[] =
    "SELECT count(*) FROM (SELECT 1 FROM job WHERE state = 0 LIMIT ?)";
static const char sql_next_shape[] =
    "SELECT shape, id FROM job INDEXED BY job_queue WHERE state = 0 AND shape > ?"
    " ORDER BY shape, id LIMIT 1";
static const char sql_oldest_of_shape[] =
    "SELECT id FROM job INDEXED BY job_queue WHERE state = 0 AND shape = ? AND id > ?"
    " ORDER BY id LIMIT 1";
static const char sql_any_queued[] = "SELECT 1 FROM job WHERE state = 0 LIMIT 1";
static const char sql_due_jobs[] =
    "SELECT id FROM job WHERE deadline_ms > 0 AND deadline_ms <= ? ORDER BY deadline_ms LIMIT ?";
static const char sql_min_deadline[] =
    "SELECT deadline_ms FROM job WHERE deadline_ms > 0 ORDER BY deadline_ms LIMIT 1";
static const char sql_grace_jobs[] =
    "UPDATE job SET deadline_ms = ?1 WHERE state BETWEEN 1 AND 5 AND deadline_ms > 0"
    " AND deadline_ms < ?1";

static const char sql_attempt_add[] =
    "INSERT INTO attempt(job_id, attempt, host_id, cpu_millis, memory_bytes, live, done, phases,"
    " destroy_n, destroy_next_ms, deadline_ms, launched_ms, gone_ms)"
    " VALUES (?, ?, ?, ?, ?, 1, 0, 0, 0, 0, ?, ?, 0)";
static const char sql_attempt_done[] =
    "UPDATE attempt SET done = 1 WHERE job_id = ? AND attempt = ?";
static const char sql_attempt_phases[] =
    "UPDATE attempt SET phases = ?3 WHERE job_id = ?1 AND attempt = ?2";
static const char sql_attempt_destroy[] = "UPDATE attempt SET destroy_n = ?3, destroy_next_ms = ?4"
                                          " WHERE job_id = ?1 AND attempt = ?2 AND live = 1";
static const char sql_attempt_gone[] =
    "UPDATE attempt SET live = 0, destroy_next_ms = 0, gone_ms = ?3"
    " WHERE job_id = ?1 AND attempt = ?2 AND live = 1";
static const char sql_host_free[] =
    "UPDATE host SET used_slots = used_slots - 1, used_cpu = used_cpu - ?2,"
    " used_memory = used_memory - ?3 WHERE id = ?1";
#define DUE_COLUMNS                                                                                \
    "a.job_id, a.attempt, j.job, j.state, h.alive, h.seen_ms, " ATTEMPT_COLUMNS                    \
    " FROM attempt a JOIN job j ON j.id = a.job_id JOIN host h ON h.id = a.host_id"
static const char sql_due_destroys[] =
    "SELECT " DUE_COLUMNS " WHERE a.destroy_next_ms > 0 AND a.destroy_next_ms <= ?"
    " ORDER BY a.destroy_next_ms LIMIT ?";
static const char sql_host_attempts[] =
    "SELECT " DUE_COLUMNS " WHERE a.host_id = ? AND a.live = 1 AND a.destroy_n = 0 LIMIT ?";
static const char sql_min_destroy[] =
    "SELECT destroy_next_ms FROM attempt WHERE destroy_next_ms > 0"
    " ORDER BY destroy_next_ms LIMIT 1";

/* ---- rows ------------------------------------------------------------------------------------ */

#define COPY(field, r, col) snprintf(field, sizeof(field), "%s", db_text(r, col))

static void read_reason(struct job *j, struct bytes packed)
{
    Coffer__V1__Refusal *r = coffer__v1__refusal__unpack(NULL, packed.n, packed.p);

    if (r) {
        reason_from_refusal(&j->reason, r);
        j->has_reason = 1;
        coffer__v1__refusal__free_unpacked(r, NULL);
    }
}

static int read_job(struct db_rows *r, struct job *j, struct err *e)
{
    int64_t state = db_int(r, 6);

    if (state < 0 || state >= JOB_STATE_N) {
        return err_set(e, ERR_INTERNAL, "job %s is in unknown state %lld", db_text(r, 1),
                       (long long)state);
    }
    memset(j, 0, offsetof(struct job, reason));
    j->id = db_int(r, 0);
    COPY(j->job, r, 1);
    COPY(j->digest, r, 2);
    COPY(j->name, r, 3);
    COPY(j->consumer, r, 4);
    COPY(j->image, r, 5);
    j->state = (enum job_state)state;
    j->attempt = db_int(r, 7);
    j->attempts = db_int(r, 8);
    j->host_id = db_int(r, 9);
    COPY(j->host, r, 10);
    COPY(j->backend, r, 11);
    j->downgraded = db_int(r, 12) != 0;
    j->created_ms = db_int(r, 13);
    j->updated_ms = db_int(r, 14);
    j->queued_ms = db_int(r, 15);
    j->last_seq = db_int(r, 16);
    j->deadline_ms = db_int(r, 17);
    j->tee_mode = (enum tee_mode)db_int(r, 18);
    COPY(j->tee_types, r, 19);
    j->cpu_millis = db_int(r, 20);
    j->memory_bytes = db_int(r, 21);
    j->timeout_ms = db_int(r, 22);
    j->shape = db_int(r, 23);
    if (db_blob(r, 24).n) {
        read_reason(j, db_blob(r, 24));
    }
    return 0;
}

static void read_attempt(struct db_rows *r, int col, struct attempt *a)
{
    memset(a, 0, sizeof(*a));
    a->exists = !db_is_null(r, col);
    a->live = db_int(r, col) != 0;
    a->done = db_int(r, col + 1) != 0;
    a->host_id = db_int(r, col + 2);
    COPY(a->host, r, col + 3);
    a->cpu_millis = db_int(r, col + 4);
    a->memory_bytes = db_int(r, col + 5);
    a->phases = db_int(r, col + 6);
    a->destroy_n = db_int(r, col + 7);
    a->deadline_ms = db_int(r, col + 8);
}

/* ---- jobs ------------------------------------------------------------------------------------ */

int store_job(struct db *db, const char *job, int64_t attempt, struct job *ret,
              struct attempt *ret_attempt, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_job, "ti", job, attempt) < 0) {
        return -1;
    }
    int rc = db_next(r, e);
    if (rc <= 0) {
        return rc;
    }
    if (ret_attempt) {
        read_attempt(r, N_JOB_COLUMNS, ret_attempt);
    }
    return read_job(r, ret, e) < 0 ? -1 : 1;
}

int store_job_by_id(struct db *db, int64_t id, struct job *ret, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_job_by_id, "i", id) < 0) {
        return -1;
    }
    int rc = db_next(r, e);
    if (rc <= 0) {
        return rc;
    }
    return read_job(r, ret, e) < 0 ? -1 : 1;
}

int store_job_add(struct db *db, struct job *j, const char *spec_jws, struct err *e)
{
    if (db_run(db, e, sql_job_add, "tttttiiiiiiiiitiiii", j->job, j->digest, j->name, j->consumer,
               j->image, (int64_t)j->state, j->attempt, j->attempts, j->created_ms, j->updated_ms,
               j->queued_ms, j->last_seq, j->deadline_ms, (int64_t)j->tee_mode, j->tee_types,
               j->cpu_millis, j->memory_bytes, j->timeout_ms, j->shape) < 0) {
        return -1;
    }
    j->id = db_last_rowid(db);
    return db_run(db, e, sql_spec_add, "it", j->id, spec_jws);
}

int store_job_update(struct db *db, const struct job *j, struct err *e)
{
    Coffer__V1__Refusal r;
    uint8_t packed[2048];
    size_t n = 0;

    if (j->has_reason) {
        reason_fill(&r, &j->reason);
        /* Bounded by struct reason, so it always fits. */
        n = coffer__v1__refusal__pack(&r, packed);
    }
    /* A refusal without any text packs to nothing, and an empty blob is read as none. */
    return db_run(db, e, sql_job_update, "iiiittiiiiib", j->id, (int64_t)j->state, j->attempt,
                  j->host_id, j->host, j->backend, (int64_t)j->downgraded, j->updated_ms,
                  j->queued_ms, j->last_seq, j->deadline_ms, BYTES(packed, n));
}

int store_spec(struct db *db, int64_t id, char **ret, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_spec, "i", id) < 0) {
        return -1;
    }
    int rc = db_next(r, e);
    if (rc < 0) {
        return -1;
    }
    *ret = xstrdup(rc ? db_text(r, 0) : "");
    return 0;
}

int store_spec_drop(struct db *db, int64_t id, struct err *e)
{
    return db_run(db, e, sql_spec_drop, "i", id);
}

int store_event_add(struct db *db, int64_t id, int64_t seq, struct bytes packed, struct err *e)
{
    return db_run(db, e, sql_event_add, "iib", id, seq, packed);
}

int store_events(struct db *db, int64_t id, int64_t seq, int64_t limit, event_fn fn, void *arg,
                 struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    int rc;

    if (db_query(db, e, &r, sql_events, "iii", id, seq, limit) < 0) {
        return -1;
    }
    while ((rc = db_next(r, e)) > 0) {
        if (fn(arg, db_blob(r, 0))) {
            return 0;
        }
    }
    return rc;
}

int store_list(struct db *db, int state, const char *consumer, int64_t limit, job_fn fn, void *arg,
               struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    int rc;

    if (consumer[0]) {
        rc = db_query(db, e, &r, sql_list_consumer, "tii", consumer, (int64_t)state, limit);
    } else if (state >= 0) {
        rc = db_query(db, e, &r, sql_list_state, "ii", (int64_t)state, limit);
    } else {
        rc = db_query(db, e, &r, sql_list_all, "i", limit);
    }
    if (rc < 0) {
        return -1;
    }
    while ((rc = db_next(r, e)) > 0) {
        struct job j;
        if (read_job(r, &j, e) < 0) {
            return -1;
        }
        if (fn(arg, &j)) {
            return 0;
        }
    }
    return rc;
}

/* ---- the queue ------------------------------------------------------------------------------- */

int store_count_queued(struct db *db, int64_t at_most, int64_t *ret, struct err *e)
{
    return db_get_int(db, e, 0, ret, sql_count_queued, "i", at_most);
}

int store_next_shape(struct db *db, int64_t after, int64_t *ret_shape, int64_t *ret_id,
                     struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_next_shape, "i", after) < 0) {
        return -1;
    }
    int rc = db_next(r, e);
    if (rc > 0) {
        *ret_shape = db_int(r, 0);
        *ret_id = db_int(r, 1);
    }
    return rc;
}

int store_oldest_of_shape(struct db *db, int64_t shape, int64_t after_id, int64_t *ret_id,
                          struct err *e)
{
    if (db_get_int(db, e, 0, ret_id, sql_oldest_of_shape, "ii", shape, after_id) < 0) {
        return -1;
    }
    return *ret_id != 0;
}

int store_any_queued(struct db *db, int *ret, struct err *e)
{
    int64_t any = 0;

    if (db_get_int(db, e, 0, &any, sql_any_queued, "") < 0) {
        return -1;
    }
    *ret = any != 0;
    return 0;
}

/* ---- attempts -------------------------------------------------------------------------------- */

int store_attempt_add(struct db *db, const struct job *j, int64_t deadline_ms, struct err *e)
{
    return db_run(db, e, sql_attempt_add, "iiiiiii", j->id, j->attempt, j->host_id, j->cpu_millis,
                  j->memory_bytes, deadline_ms, j->updated_ms);
}

int store_attempt_done(struct db *db, int64_t job_id, int64_t attempt, struct err *e)
{
    return db_run(db, e, sql_attempt_done, "ii", job_id, attempt);
}

int store_attempt_phases(struct db *db, int64_t job_id, int64_t attempt, int64_t phases,
                         struct err *e)
{
    return db_run(db, e, sql_attempt_phases, "iii", job_id, attempt, phases);
}

int store_attempt_destroy(struct db *db, int64_t job_id, int64_t attempt, int64_t n,
                          int64_t next_ms, int *ret_live, struct err *e)
{
    if (db_run(db, e, sql_attempt_destroy, "iiii", job_id, attempt, n, next_ms) < 0) {
        return -1;
    }
    *ret_live = db_changes(db) > 0;
    return 0;
}

int store_attempt_gone(struct db *db, int64_t job_id, int64_t attempt, const struct attempt *a,
                       int64_t now_ms, struct err *e)
{
    if (db_run(db, e, sql_attempt_gone, "iii", job_id, attempt, now_ms) < 0) {
        return -1;
    }
    if (db_changes(db) == 0) {
        return 0;
    }
    return db_run(db, e, sql_host_free, "iii", a->host_id, a->cpu_millis, a->memory_bytes);
}

/* ---- what is due ----------------------------------------------------------------------------- */

int store_due_jobs(struct db *db, int64_t now_ms, int64_t *ret, size_t max, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    int n = 0, rc;

    if (db_query(db, e, &r, sql_due_jobs, "ii", now_ms, (int64_t)max) < 0) {
        return -1;
    }
    while ((rc = db_next(r, e)) > 0) {
        ret[n++] = db_int(r, 0);
    }
    return rc < 0 ? -1 : n;
}

static int read_due(struct db_rows *r, struct due_attempt *ret, struct err *e)
{
    int n = 0, rc;

    while ((rc = db_next(r, e)) > 0) {
        struct due_attempt *d = &ret[n++];
        memset(d, 0, sizeof(*d));
        d->job_id = db_int(r, 0);
        d->attempt = db_int(r, 1);
        COPY(d->job, r, 2);
        snprintf(d->why, sizeof(d->why), "%s", job_state_name((enum job_state)db_int(r, 3)));
        d->host_alive = db_int(r, 4) != 0;
        d->host_seen_ms = db_int(r, 5);
        read_attempt(r, 6, &d->a);
    }
    return rc < 0 ? -1 : n;
}

int store_due_destroys(struct db *db, int64_t now_ms, struct due_attempt *ret, size_t max,
                       struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_due_destroys, "ii", now_ms, (int64_t)max) < 0) {
        return -1;
    }
    return read_due(r, ret, e);
}

int store_host_attempts(struct db *db, int64_t host_id, struct due_attempt *ret, size_t max,
                        struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_host_attempts, "ii", host_id, (int64_t)max) < 0) {
        return -1;
    }
    return read_due(r, ret, e);
}

int store_min_deadline(struct db *db, int64_t *ret_ms, struct err *e)
{
    return db_get_int(db, e, INT64_MAX, ret_ms, sql_min_deadline, "");
}

int store_min_destroy(struct db *db, int64_t *ret_ms, struct err *e)
{
    return db_get_int(db, e, INT64_MAX, ret_ms, sql_min_destroy, "");
}

int store_grace(struct db *db, int64_t until_ms, int64_t seen_ms, struct err *e)
{
    static const char sql_grace_hosts[] = "UPDATE host SET seen_ms = ?1 WHERE alive = 1";

    if (db_run(db, e, sql_grace_jobs, "i", until_ms) < 0) {
        return -1;
    }
    return db_run(db, e, sql_grace_hosts, "i", seen_ms);
}

#include "common/db.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>

/* Statements are looked up by the address of their SQL constant: a small open-addressing table. */
#define CACHE_SLOTS 256

struct db_rows {
    sqlite3_stmt *stmt;
    const char *sql;
    struct db *db;
    int in_use;
};

struct db {
    sqlite3 *h;
    struct db_rows cache[CACHE_SLOTS];
    size_t n_cached;
};

static int db_fail(struct db *db, struct err *e, const char *what)
{
    int rc = sqlite3_extended_errcode(db->h);
    const char *text = sqlite3_errmsg(db->h);
    enum err_code code = ERR_INTERNAL;

    switch (rc & 0xff) {
    case SQLITE_CONSTRAINT:
        code = ERR_WRONG_STATE;
        break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        code = ERR_BUSY;
        break;
    case SQLITE_FULL:
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_NOMEM:
        code = ERR_IO;
        break;
    case SQLITE_TOOBIG:
        code = ERR_TOO_LARGE;
        break;
    default:
        break;
    }
    return err_set(e, code, "database: %s: %s (sqlite %d)", what, text, rc);
}

static int exec(struct db *db, const char *sql, struct err *e)
{
    if (sqlite3_exec(db->h, sql, NULL, NULL, NULL) != SQLITE_OK) {
        return db_fail(db, e, sql);
    }
    return 0;
}

static int migrate(struct db *db, const char *const *migrations, size_t n, struct err *e)
{
    int64_t version = 0;

    if (db_get_int(db, e, 0, &version, "PRAGMA user_version", "") < 0) {
        return -1;
    }
    if (version > (int64_t)n) {
        return err_set(
            e, ERR_UNSUPPORTED,
            "database schema is version %lld, this program knows up to %zu: it was written "
            "by a newer release",
            (long long)version, n);
    }
    for (size_t i = (size_t)version; i < n; i++) {
        char pragma[64];

        snprintf(pragma, sizeof(pragma), "PRAGMA user_version = %zu", i + 1);
        if (exec(db, "BEGIN IMMEDIATE", e) < 0) {
            return -1;
        }
        if (exec(db, migrations[i], e) < 0 || exec(db, pragma, e) < 0 ||
            exec(db, "COMMIT", e) < 0) {
            db_rollback(db);
            return err_wrap(e, "migration %zu", i + 1);
        }
    }
    return 0;
}

int db_migrate(struct db *db, const char *component, const char *const *migrations, size_t n,
               struct err *e)
{
    int64_t version = 0;

    if (exec(db,
             "CREATE TABLE IF NOT EXISTS schema_version"
             "(component TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID",
             e) < 0 ||
        db_get_int(db, e, 0, &version, "SELECT version FROM schema_version WHERE component = ?",
                   "t", component) < 0) {
        return -1;
    }
    if (version > (int64_t)n) {
        return err_set(e, ERR_UNSUPPORTED,
                       "database schema of %s is version %lld, this program knows up to %zu",
                       component, (long long)version, n);
    }
    for (size_t i = (size_t)version; i < n; i++) {
        if (db_begin(db, e) < 0) {
            return -1;
        }
        if (exec(db, migrations[i], e) < 0 ||
            db_run(db, e, "INSERT OR REPLACE INTO schema_version VALUES (?, ?)", "ti", component,
                   (int64_t)(i + 1)) < 0 ||
            db_commit(db, e) < 0) {
            db_rollback(db);
            return err_wrap(e, "migration %zu of %s", i + 1, component);
        }
    }
    return 0;
}

int db_in_transaction(const struct db *db)
{
    return !sqlite3_get_autocommit(db->h);
}

/* SQLite creates files with the umask's mode; a service's state is nobody else's business. */
static int create_private(const char *path, struct err *e)
{
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0) {
        return err_errno(e, "open database %s", path);
    }
    if (fchmod(fd, 0600) < 0) {
        return err_errno(e, "chmod database %s", path);
    }
    return 0;
}

int db_open(const char *path, const char *const *migrations, size_t n_migrations, struct db **ret,
            struct err *e)
{
    int in_memory = streq(path, ":memory:");
    _cleanup_(db_closep) struct db *db = NULL;

    if (!in_memory && create_private(path, e) < 0) {
        return -1;
    }
    db = xcalloc(1, sizeof(*db));
    if (sqlite3_open_v2(path, &db->h,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK) {
        return db_fail(db, e, path);
    }
    sqlite3_extended_result_codes(db->h, 1);
    sqlite3_db_config(db->h, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(db->h, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(db->h, SQLITE_DBCONFIG_DQS_DML, 0, NULL);
    /* EXCLUSIVE keeps every other process out and saves the shared-memory file. */
    static const char pragmas[] = "PRAGMA locking_mode = EXCLUSIVE;"
                                  "PRAGMA journal_mode = WAL;"
                                  "PRAGMA synchronous = FULL;"
                                  "PRAGMA secure_delete = ON;"
                                  "PRAGMA foreign_keys = ON;"
                                  "PRAGMA temp_store = MEMORY;"
                                  "PRAGMA cache_size = -1024;"
                                  "PRAGMA journal_size_limit = 8388608;"
                                  "PRAGMA wal_autocheckpoint = 4000;";
    if (exec(db, pragmas, e) < 0 || exec(db, "BEGIN IMMEDIATE; COMMIT", e) < 0) {
        return err_wrap(e, "%s", path);
    }
    if (migrate(db, migrations, n_migrations, e) < 0) {
        return err_wrap(e, "%s", path);
    }
    *ret = TAKE_PTR(db);
    return 0;
}

void db_close(struct db *db)
{
    if (!db) {
        return;
    }
    for (size_t i = 0; i < CACHE_SLOTS; i++) {
        sqlite3_finalize(db->cache[i].stmt);
    }
    sqlite3_close(db->h);
    free(db);
}

static struct db_rows *cached(struct db *db, const char *sql, struct err *e)
{
    size_t slot = ((uintptr_t)sql >> 3) * 2654435761u % CACHE_SLOTS;

    for (size_t probes = 0; probes < CACHE_SLOTS; probes++) {
        struct db_rows *r = &db->cache[(slot + probes) % CACHE_SLOTS];
        if (r->sql == sql) {
            return r;
        }
        if (r->sql) {
            continue;
        }
        if (db->n_cached >= CACHE_SLOTS * 3 / 4) {
            err_set(e, ERR_INTERNAL, "too many prepared statements");
            return NULL;
        }
        if (sqlite3_prepare_v3(db->h, sql, -1, SQLITE_PREPARE_PERSISTENT, &r->stmt, NULL) !=
            SQLITE_OK) {
            db_fail(db, e, sql);
            return NULL;
        }
        r->sql = sql;
        r->db = db;
        db->n_cached++;
        return r;
    }
    return NULL;
}

static int bind_all(struct db_rows *r, const char *fmt, va_list ap, struct err *e)
{
    if ((int)strlen(fmt) != sqlite3_bind_parameter_count(r->stmt)) {
        return err_set(e, ERR_INTERNAL, "database: %zu values for %d parameters in: %s",
                       strlen(fmt), sqlite3_bind_parameter_count(r->stmt), r->sql);
    }
    for (int i = 1; *fmt; fmt++, i++) {
        int rc = SQLITE_MISUSE;

        if (*fmt == 't') {
            const char *s = va_arg(ap, const char *);
            rc = s ? sqlite3_bind_text(r->stmt, i, s, -1, SQLITE_TRANSIENT)
                   : sqlite3_bind_null(r->stmt, i);
        } else if (*fmt == 'i') {
            rc = sqlite3_bind_int64(r->stmt, i, va_arg(ap, int64_t));
        } else if (*fmt == 'b') {
            struct bytes b = va_arg(ap, struct bytes);
            rc = b.n ? sqlite3_bind_blob64(r->stmt, i, b.p, b.n, SQLITE_TRANSIENT)
                     : sqlite3_bind_zeroblob(r->stmt, i, 0);
        }
        if (rc != SQLITE_OK) {
            return db_fail(r->db, e, r->sql);
        }
    }
    return 0;
}

static struct db_rows *start(struct db *db, struct err *e, const char *sql, const char *fmt,
                             va_list ap)
{
    struct db_rows *r = cached(db, sql, e);

    if (!r) {
        return NULL;
    }
    if (r->in_use) {
        err_set(e, ERR_INTERNAL, "database: statement already in use: %s", sql);
        return NULL;
    }
    if (bind_all(r, fmt, ap, e) < 0) {
        sqlite3_clear_bindings(r->stmt);
        return NULL;
    }
    r->in_use = 1;
    return r;
}

int db_run(struct db *db, struct err *e, const char *sql, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    _cleanup_rows_ struct db_rows *r = start(db, e, sql, fmt, ap);
    va_end(ap);
    if (!r) {
        return -1;
    }
    int rc = sqlite3_step(r->stmt);
    if (rc != SQLITE_DONE && rc != SQLITE_ROW) {
        return db_fail(db, e, sql);
    }
    return 0;
}

int64_t db_changes(const struct db *db)
{
    return sqlite3_changes64(db->h);
}

int64_t db_last_rowid(const struct db *db)
{
    return sqlite3_last_insert_rowid(db->h);
}

int db_query(struct db *db, struct err *e, struct db_rows **ret, const char *sql, const char *fmt,
             ...)
{
    va_list ap;

    va_start(ap, fmt);
    struct db_rows *r = start(db, e, sql, fmt, ap);
    va_end(ap);
    if (!r) {
        return -1;
    }
    *ret = r;
    return 0;
}

int db_next(struct db_rows *r, struct err *e)
{
    int rc = sqlite3_step(r->stmt);

    if (rc == SQLITE_ROW) {
        return 1;
    }
    if (rc == SQLITE_DONE) {
        return 0;
    }
    return db_fail(r->db, e, r->sql);
}

int64_t db_int(struct db_rows *r, int col)
{
    return sqlite3_column_int64(r->stmt, col);
}

const char *db_text(struct db_rows *r, int col)
{
    const char *s = (const char *)sqlite3_column_text(r->stmt, col);
    return s ? s : "";
}

struct bytes db_blob(struct db_rows *r, int col)
{
    const void *p = sqlite3_column_blob(r->stmt, col);
    int n = sqlite3_column_bytes(r->stmt, col);
    return BYTES(p, p ? (size_t)n : 0);
}

int db_is_null(struct db_rows *r, int col)
{
    return sqlite3_column_type(r->stmt, col) == SQLITE_NULL;
}

void db_done(struct db_rows *r)
{
    if (r) {
        sqlite3_reset(r->stmt);
        sqlite3_clear_bindings(r->stmt);
        r->in_use = 0;
    }
}

int db_get_int(struct db *db, struct err *e, int64_t dflt, int64_t *ret, const char *sql,
               const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    _cleanup_rows_ struct db_rows *r = start(db, e, sql, fmt, ap);
    va_end(ap);
    if (!r) {
        return -1;
    }
    int rc = db_next(r, e);
    if (rc < 0) {
        return -1;
    }
    *ret = rc && !db_is_null(r, 0) ? db_int(r, 0) : dflt;
    return 0;
}

int db_begin(struct db *db, struct err *e)
{
    return db_run(db, e, "BEGIN IMMEDIATE", "");
}

int db_commit(struct db *db, struct err *e)
{
    return db_run(db, e, "COMMIT", "");
}

void db_rollback(struct db *db)
{
    if (!sqlite3_get_autocommit(db->h)) {
        sqlite3_exec(db->h, "ROLLBACK", NULL, NULL, NULL);
    }
}

int db_savepoint(struct db *db, struct err *e)
{
    return db_run(db, e, "SAVEPOINT one", "");
}

int db_release(struct db *db, struct err *e)
{
    return db_run(db, e, "RELEASE one", "");
}

void db_rollback_to(struct db *db)
{
    sqlite3_exec(db->h, "ROLLBACK TO one; RELEASE one", NULL, NULL, NULL);
}

sqlite3 *db_handle(struct db *db)
{
    return db->h;
}

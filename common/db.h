/* A service's own SQLite database: WAL, synchronous=FULL, prepared statements, append-only
 * migrations. One thread. SQL text lives in the services' store.c (and in engine.c) as named
 * constants; values are always bound.
 */
#ifndef COFFER_DB_H
#define COFFER_DB_H

#include <sqlite3.h>

#include "common/buf.h"

struct db;

/* `path` ":memory:" for tests, workers and the simulator. `migrations` run once each in order, in
 * one transaction each; a database newer than the program is refused (ERR_UNSUPPORTED). A file is
 * created with mode 0600. Only one process may have it open (ERR_BUSY). */
int db_open(const char *path, const char *const *migrations, size_t n_migrations, struct db **ret,
            struct err *e);
/* A second set of migrations in the same file, versioned on its own under `component`: what every
 * service shares (the engine's inbox and outbox). */
int db_migrate(struct db *db, const char *component, const char *const *migrations, size_t n,
               struct err *e);
/* Whether a transaction is open. SQLite ends one by itself when the disk is full. */
int db_in_transaction(const struct db *db);
void db_close(struct db *db);
DEFINE_CLEANUP(struct db *, db_close);

/* Runs a statement that returns no rows. `sql` must be a string constant: its address is the key of
 * the prepared-statement cache. `fmt` has a letter per bound value:
 *   t const char * (NULL binds NULL)   i int64_t   b struct bytes
 * A UNIQUE or CHECK violation gives ERR_WRONG_STATE; a full disk ERR_IO. */
int db_run(struct db *db, struct err *e, const char *sql, const char *fmt, ...);
/* Rows changed by the last db_run. */
int64_t db_changes(const struct db *db);
int64_t db_last_rowid(const struct db *db);

/* Starts a query; step with db_next. The cursor is owned by the cache: finish it with db_done (or
 * let the cleanup do it) before the same sql is used again. */
struct db_rows;
int db_query(struct db *db, struct err *e, struct db_rows **ret, const char *sql, const char *fmt,
             ...);
/* 1: a row, 0: no more, -1: error. */
int db_next(struct db_rows *r, struct err *e);
int64_t db_int(struct db_rows *r, int col);
const char *db_text(struct db_rows *r, int col); /* "" for NULL; valid until the next step */
struct bytes db_blob(struct db_rows *r, int col);
int db_is_null(struct db_rows *r, int col);
void db_done(struct db_rows *r);
DEFINE_CLEANUP(struct db_rows *, db_done);
#define _cleanup_rows_ _cleanup_(db_donep)

/* The first column of the first row as an integer; `dflt` when there is no row. */
int db_get_int(struct db *db, struct err *e, int64_t dflt, int64_t *ret, const char *sql,
               const char *fmt, ...);

int db_begin(struct db *db, struct err *e);
int db_commit(struct db *db, struct err *e);
void db_rollback(struct db *db); /* never fails; fine outside a transaction */
int db_savepoint(struct db *db, struct err *e);
int db_release(struct db *db, struct err *e);
void db_rollback_to(struct db *db);
sqlite3 *db_handle(struct db *db); /* tests only */

#endif

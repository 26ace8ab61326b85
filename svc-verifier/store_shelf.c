/* The shelf's SQL. */
#include "svc-verifier/store.h"

static const char sql_one[] = "SELECT body, chain, fetched_ms, issued_ms, valid_until_ms, next_ms,"
                              " failures FROM shelf WHERE source = ? AND path = ?";
static const char sql_want[] =
    "INSERT INTO shelf(source, path, body, chain, fetched_ms, issued_ms, valid_until_ms, next_ms,"
    " failures) SELECT ?, ?, x'', x'', 0, 0, 0, ?, 0 WHERE (SELECT count(*) FROM shelf) < ?";
static const char sql_put[] =
    "INSERT INTO shelf(source, path, body, chain, fetched_ms, issued_ms, valid_until_ms, next_ms,"
    " failures) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0) ON CONFLICT DO UPDATE SET body = excluded.body,"
    " chain = excluded.chain, fetched_ms = excluded.fetched_ms, issued_ms = excluded.issued_ms,"
    " valid_until_ms = excluded.valid_until_ms, next_ms = excluded.next_ms, failures = 0";
static const char sql_failed[] = "UPDATE shelf SET failures = failures + 1, next_ms = ?"
                                 " WHERE source = ? AND path = ?";
static const char sql_due[] = "SELECT source, path FROM shelf WHERE next_ms <= ?"
                              " ORDER BY next_ms LIMIT ?";
static const char sql_postpone[] = "UPDATE shelf SET next_ms = ? WHERE source = ? AND path = ?";
static const char sql_next_due[] = "SELECT min(next_ms) FROM shelf";
static const char sql_all[] = "SELECT source, path, body, chain FROM shelf WHERE length(body) > 0"
                              " ORDER BY source, path";

static int copy(struct bytes from, size_t max, struct buf *to, struct err *e)
{
    *to = BUF_INIT(max);
    return from.n ? buf_add(to, from.p, from.n, e) : 0;
}

int verifier_store_shelf_get(struct db *db, const struct need *need, struct shelf_row *ret,
                             struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    struct shelf_row row = {.need = *need};

    if (db_query(db, e, &r, sql_one, "it", (int64_t)need->source, need->path)) {
        return -1;
    }
    int rc = db_next(r, e);
    if (rc <= 0) {
        return rc;
    }
    row.fetched_ms = db_int(r, 2);
    row.issued_ms = db_int(r, 3);
    row.valid_until_ms = db_int(r, 4);
    row.next_ms = db_int(r, 5);
    row.failures = db_int(r, 6);
    if (copy(db_blob(r, 0), SHELF_BODY_MAX_BYTES, &row.body, e) ||
        copy(db_blob(r, 1), SHELF_CHAIN_MAX_BYTES, &row.chain, e)) {
        shelf_row_done(&row);
        return -1;
    }
    *ret = row;
    return 1;
}

int verifier_store_shelf_want(struct db *db, const struct need *need, int64_t next_ms,
                              struct err *e)
{
    return db_run(db, e, sql_want, "itii", (int64_t)need->source, need->path, next_ms,
                  (int64_t)SHELF_ROWS_MAX);
}

int verifier_store_shelf_put(struct db *db, const struct shelf_row *row, struct err *e)
{
    return db_run(db, e, sql_put, "itbbiiii", (int64_t)row->need.source, row->need.path,
                  buf_bytes(&row->body), buf_bytes(&row->chain), row->fetched_ms, row->issued_ms,
                  row->valid_until_ms, row->next_ms);
}

int verifier_store_shelf_failed(struct db *db, const struct need *need, int64_t next_ms,
                                struct err *e)
{
    return db_run(db, e, sql_failed, "iit", next_ms, (int64_t)need->source, need->path);
}

int verifier_store_shelf_due(struct db *db, int64_t now_ms, int64_t again_ms, struct needs *ret,
                             struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    struct needs found = {0};
    int rc;

    if (db_query(db, e, &r, sql_due, "ii", now_ms, (int64_t)NEEDS_MAX)) {
        return -1;
    }
    while ((rc = db_next(r, e)) > 0) {
        needs_add(&found, (enum need_source)db_int(r, 0), "%s", db_text(r, 1));
    }
    for (size_t i = 0; rc == 0 && i < found.n; i++) {
        rc = db_run(db, e, sql_postpone, "iit", again_ms, (int64_t)found.v[i].source,
                    found.v[i].path);
    }
    *ret = found;
    return rc;
}

int verifier_store_shelf_next_due(struct db *db, int64_t *ret_ms, struct err *e)
{
    return db_get_int(db, e, INT64_MAX, ret_ms, sql_next_due, "");
}

int verifier_store_shelf_each(struct db *db,
                              int (*fn)(void *arg, const struct need *need, struct bytes body,
                                        struct bytes chain, struct err *e),
                              void *arg, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    int rc;

    if (db_query(db, e, &r, sql_all, "")) {
        return -1;
    }
    while ((rc = db_next(r, e)) > 0) {
        struct need need = {.source = (enum need_source)db_int(r, 0)};
        snprintf(need.path, sizeof(need.path), "%s", db_text(r, 1));
        if (fn(arg, &need, db_blob(r, 2), db_blob(r, 3), e)) {
            return -1;
        }
    }
    return rc;
}

/* The SQL of what is large: pieces of results that arrived, and released streams. Ciphertext only.
 */
#include "svc-gate/gate_int.h"

#define PART_BYTES (256u * 1024)

static const char sql_piece_add[] =
    "INSERT OR IGNORE INTO piece(job, attempt, idx, digest, proven, cost, expires_ms, data)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
static const char sql_piece_has[] =
    "SELECT 1 FROM piece WHERE job = ? AND attempt = ? AND idx = ? AND digest = ?";
static const char sql_piece_versions[] =
    "SELECT count(*) FROM piece WHERE job = ? AND attempt = ? AND idx = ?";
static const char sql_unproven_cost[] =
    "SELECT coalesce(sum(cost), 0) FROM piece WHERE job = ? AND attempt = ? AND proven = 0";
static const char sql_usage[] = "SELECT bytes FROM usage WHERE kind = ?";
static const char sql_piece_prove[] =
    "UPDATE piece SET proven = 1 WHERE job = ? AND attempt = ? AND idx = ? AND digest = ?";
static const char sql_unproven_delete[] =
    "DELETE FROM piece WHERE job = ? AND attempt = ? AND proven = 0";
static const char sql_pieces_proven[] =
    "SELECT count(*) FROM piece WHERE job = ? AND attempt = ? AND proven = 1";
static const char sql_pieces_read[] =
    "SELECT idx, data FROM piece WHERE job = ? AND attempt = ? AND proven = 1 ORDER BY idx";
static const char sql_pieces_delete[] = "DELETE FROM piece WHERE job = ? AND attempt = ?";
static const char sql_released_add[] = "INSERT INTO released VALUES (?, ?, ?, ?, ?)";
static const char sql_released_part[] = "INSERT INTO released_part VALUES (?, ?, ?, ?)";
static const char sql_released_info[] =
    "SELECT header, bytes FROM released WHERE job = ? AND attempt = ?";
static const char sql_released_read[] =
    "SELECT data FROM released_part WHERE job = ? AND attempt = ? AND idx = ?";

int store_piece_add(struct db *db, struct attempt_id id, uint32_t index, const uint8_t digest[32],
                    struct bytes data, enum piece_trust t, int64_t expires_ms, struct err *e)
{
    int64_t cost = data.n < PIECE_MIN_COST_BYTES ? PIECE_MIN_COST_BYTES : (int64_t)data.n;

    return db_run(db, e, sql_piece_add, "tiibiiib", id.job, id.n, (int64_t)index, BYTES(digest, 32),
                  (int64_t)t, cost, expires_ms, data);
}

int store_piece_has(struct db *db, struct attempt_id id, uint32_t index, const uint8_t digest[32],
                    int *ret, struct err *e)
{
    int64_t v;

    if (db_get_int(db, e, 0, &v, sql_piece_has, "tiib", id.job, id.n, (int64_t)index,
                   BYTES(digest, 32))) {
        return -1;
    }
    *ret = v != 0;
    return 0;
}

int store_piece_versions(struct db *db, struct attempt_id id, uint32_t index, int64_t *ret,
                         struct err *e)
{
    return db_get_int(db, e, 0, ret, sql_piece_versions, "tii", id.job, id.n, (int64_t)index);
}

int store_unproven_cost(struct db *db, struct attempt_id id, int64_t *ret, int64_t *ret_all,
                        struct err *e)
{
    return db_get_int(db, e, 0, ret, sql_unproven_cost, "ti", id.job, id.n) ||
                   db_get_int(db, e, 0, ret_all, sql_usage, "i", INT64_C(0))
               ? -1
               : 0;
}

int store_pieces_prove(struct db *db, struct attempt_id id, const struct result_manifest *m,
                       struct err *e)
{
    for (uint32_t i = 0; i < m->chunks; i++) {
        if (db_run(db, e, sql_piece_prove, "tiib", id.job, id.n, (int64_t)i,
                   BYTES(m->chunk_sha256[i], 32))) {
            return -1;
        }
    }
    return db_run(db, e, sql_unproven_delete, "ti", id.job, id.n);
}

int store_pieces_proven(struct db *db, struct attempt_id id, int64_t *ret, struct err *e)
{
    return db_get_int(db, e, 0, ret, sql_pieces_proven, "ti", id.job, id.n);
}

int store_pieces_read(struct db *db, struct attempt_id id, struct buf *ret, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    int64_t index = 0;
    int rc;

    if (db_query(db, e, &r, sql_pieces_read, "ti", id.job, id.n)) {
        return -1;
    }
    while ((rc = db_next(r, e)) == 1) {
        struct bytes data = db_blob(r, 1);
        if (db_int(r, 0) != index++) {
            return err_set(e, ERR_INTERNAL, "result %s: piece %lld is missing", id.job,
                           (long long)(index - 1));
        }
        if (buf_add(ret, data.p, data.n, e)) {
            return -1;
        }
    }
    return rc;
}

int store_pieces_delete(struct db *db, struct attempt_id id, struct err *e)
{
    return db_run(db, e, sql_pieces_delete, "ti", id.job, id.n);
}

int store_released_bytes(struct db *db, int64_t *ret, struct err *e)
{
    return db_get_int(db, e, 0, ret, sql_usage, "i", INT64_C(2));
}

int store_released_add(struct db *db, struct attempt_id id, const char *header_json,
                       struct bytes sealed, int64_t expires_ms, struct err *e)
{
    if (db_run(db, e, sql_released_add, "titii", id.job, id.n, header_json, (int64_t)sealed.n,
               expires_ms)) {
        return -1;
    }
    int64_t index = 0;
    for (size_t at = 0; at < sealed.n; at += PART_BYTES) {
        size_t n = sealed.n - at < PART_BYTES ? sealed.n - at : PART_BYTES;
        if (db_run(db, e, sql_released_part, "tiib", id.job, id.n, index++,
                   BYTES(sealed.p + at, n))) {
            return -1;
        }
    }
    return 0;
}

int store_released_info(struct db *db, struct attempt_id id, char **ret_header_json,
                        int64_t *ret_bytes, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_released_info, "ti", id.job, id.n)) {
        return -1;
    }
    int rc = db_next(r, e);
    if (rc < 0) {
        return -1;
    }
    *ret_bytes = rc ? db_int(r, 1) : 0;
    *ret_header_json = rc ? xstrdup(db_text(r, 0)) : NULL;
    return 0;
}

int store_released_read(struct db *db, struct attempt_id id, uint64_t offset, size_t n,
                        struct buf *ret, struct err *e)
{
    while (n) {
        _cleanup_rows_ struct db_rows *r = NULL;
        if (db_query(db, e, &r, sql_released_read, "tii", id.job, id.n,
                     (int64_t)(offset / PART_BYTES))) {
            return -1;
        }
        int rc = db_next(r, e);
        if (rc <= 0) {
            return rc;
        }
        struct bytes data = db_blob(r, 0);
        size_t at = (size_t)(offset % PART_BYTES);
        if (at >= data.n) {
            return 0;
        }
        size_t take = data.n - at < n ? data.n - at : n;
        if (buf_add(ret, data.p + at, take, e)) {
            return -1;
        }
        offset += take;
        n -= take;
    }
    return 0;
}

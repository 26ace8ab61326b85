#include "svc-kbs/store.h"

const char *const kbs_migrations[1] = {
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE secret(id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, owner TEXT NOT NULL,"
    "  owner_jwk TEXT NOT NULL, backend TEXT NOT NULL, ref BLOB NOT NULL,"
    "  created_ms INTEGER NOT NULL);"
    "CREATE INDEX secret_owner ON secret(owner);"
    "CREATE TABLE grants(rowid INTEGER PRIMARY KEY, owner TEXT NOT NULL, id TEXT NOT NULL,"
    "  secret TEXT NOT NULL, exp INTEGER NOT NULL, revoked INTEGER NOT NULL DEFAULT 0,"
    "  uses INTEGER NOT NULL DEFAULT 0, jws TEXT NOT NULL, payload BLOB NOT NULL,"
    "  created_ms INTEGER NOT NULL, UNIQUE (owner, id));"
    "CREATE INDEX grants_secret ON grants(secret);"
    "CREATE INDEX grants_exp ON grants(exp);"
    "CREATE TABLE command(sha256 BLOB PRIMARY KEY, until_ms INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE INDEX command_until ON command(until_ms);"
    "CREATE TABLE releases(job TEXT NOT NULL, attempt INTEGER NOT NULL,"
    "  state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 2), jti TEXT UNIQUE, cnf TEXT, jwe TEXT,"
    "  release_jws TEXT, sends INTEGER NOT NULL, keep_until_ms INTEGER, UNIQUE (job, attempt));"
    "CREATE INDEX releases_keep ON releases(keep_until_ms) WHERE keep_until_ms IS NOT NULL;"
    "CREATE TABLE total(one INTEGER PRIMARY KEY CHECK (one = 1), secrets INTEGER NOT NULL,"
    "  grants INTEGER NOT NULL, commands INTEGER NOT NULL);"
    "INSERT INTO total VALUES (1, 0, 0, 0);"
    "CREATE TRIGGER secret_new AFTER INSERT ON secret BEGIN"
    "  UPDATE total SET secrets = secrets + 1; END;"
    "CREATE TRIGGER grants_new AFTER INSERT ON grants BEGIN"
    "  UPDATE total SET grants = grants + 1; END;"
    "CREATE TRIGGER grants_gone AFTER DELETE ON grants BEGIN"
    "  UPDATE total SET grants = grants - 1; END;"
    "CREATE TRIGGER command_new AFTER INSERT ON command BEGIN"
    "  UPDATE total SET commands = commands + 1; END;"
    "CREATE TRIGGER command_gone AFTER DELETE ON command BEGIN"
    "  UPDATE total SET commands = commands - 1; END;",
};

static const char sql_meta_get[] = "SELECT value FROM meta WHERE name = ?";
static const char sql_meta_put[] = "INSERT OR REPLACE INTO meta VALUES (?, ?)";

static const char sql_secret_count[] = "SELECT secrets FROM total";
static const char sql_secret_get[] =
    "SELECT kind, owner, owner_jwk, backend, ref, created_ms FROM secret WHERE id = ?";
static const char sql_secret_put[] =
    "INSERT INTO secret(id, kind, owner, owner_jwk, backend, ref, created_ms)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)";
static const char sql_secret_list[] =
    "SELECT id, kind, created_ms FROM secret WHERE owner = ? ORDER BY id";

static const char sql_grants[] = "SELECT rowid, jws, revoked FROM grants WHERE secret = ?"
                                 " ORDER BY revoked = 0 AND exp > ? DESC, rowid DESC LIMIT ?";
static const char sql_grant_get[] =
    "SELECT payload, revoked FROM grants WHERE owner = ? AND id = ?";
static const char sql_grant_put[] =
    "INSERT INTO grants(owner, id, secret, exp, jws, payload, created_ms)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)";
static const char sql_grant_revoke[] = "UPDATE grants SET revoked = 1 WHERE owner = ? AND id = ?";
static const char sql_grant_used[] = "UPDATE grants SET uses = uses + 1 WHERE rowid = ?";
static const char sql_grant_list[] =
    "SELECT payload, revoked, uses FROM grants WHERE owner = ? ORDER BY rowid DESC";
static const char sql_counts[] =
    "SELECT secrets, (SELECT count(*) FROM secret WHERE owner = ?1), grants,"
    " (SELECT count(*) FROM grants WHERE owner = ?1),"
    " (SELECT count(*) FROM grants WHERE secret = ?2 AND revoked = 0 AND exp > ?3) FROM total";

static const char sql_command_add[] = "INSERT OR IGNORE INTO command VALUES (?, ?)";
static const char sql_command_count[] = "SELECT commands FROM total";

static const char sql_release_get[] =
    "SELECT state, jti, cnf, jwe, release_jws, sends FROM releases WHERE job = ? AND attempt = ?";
static const char sql_released[] =
    "SELECT coalesce(max(attempt), 0) FROM releases WHERE job = ? AND state = 2";
static const char sql_jti[] = "SELECT 1 FROM releases WHERE jti = ?";
/* The state is checked here once more: a released row never changes but in what is forgotten. */
static const char sql_release_put[] =
    "INSERT INTO releases(job, attempt, state, jti, cnf, jwe, release_jws, sends, keep_until_ms)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (job, attempt) DO UPDATE SET state = excluded.state, jti = excluded.jti,"
    "  cnf = excluded.cnf, jwe = excluded.jwe, release_jws = excluded.release_jws,"
    "  sends = excluded.sends, keep_until_ms = excluded.keep_until_ms WHERE releases.state = 1";
static const char sql_release_sent[] =
    "UPDATE releases SET sends = ? WHERE job = ? AND attempt = ? AND state = 2";

static const char sql_prune_commands[] =
    "DELETE FROM command WHERE sha256 IN (SELECT sha256 FROM command WHERE until_ms <= ? LIMIT ?)";
static const char sql_prune_refused[] =
    "DELETE FROM releases WHERE rowid IN (SELECT rowid FROM releases"
    " WHERE keep_until_ms IS NOT NULL AND keep_until_ms <= ? AND state = 1 LIMIT ?)";
static const char sql_prune_released[] =
    "UPDATE releases SET jwe = NULL, release_jws = NULL, keep_until_ms = NULL WHERE rowid IN"
    " (SELECT rowid FROM releases WHERE keep_until_ms IS NOT NULL AND keep_until_ms <= ?"
    "  AND state = 2 LIMIT ?)";
static const char sql_prune_grants[] =
    "DELETE FROM grants WHERE rowid IN (SELECT rowid FROM grants WHERE exp <= ? LIMIT ?)";
static const char sql_next_prune[] =
    "SELECT min(coalesce((SELECT min(until_ms) FROM command), 9223372036854775807),"
    " coalesce((SELECT min(keep_until_ms) FROM releases WHERE keep_until_ms IS NOT NULL),"
    "          9223372036854775807),"
    " coalesce((SELECT (min(exp) + ?) * 1000 FROM grants), 9223372036854775807))";

#define COPY_TEXT(dst, r, col) snprintf((dst), sizeof(dst), "%s", db_text(r, col))

/* ---- meta ---- */

int kbs_store_meta_get(struct db *db, const char *name, struct buf *ret, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    int rc;

    if (db_query(db, e, &r, sql_meta_get, "t", name)) {
        return -1;
    }
    rc = db_next(r, e);
    if (rc > 0) {
        struct bytes b = db_blob(r, 0);
        return buf_add(ret, b.p, b.n, e) ? -1 : 1;
    }
    return rc;
}

int kbs_store_meta_put(struct db *db, const char *name, struct bytes value, struct err *e)
{
    return db_run(db, e, sql_meta_put, "tb", name, value);
}

/* ---- secrets ---- */

void stored_secret_done(struct stored_secret *s)
{
    buf_done(&s->ref);
}

int kbs_store_secret_count(struct db *db, int64_t *ret, struct err *e)
{
    return db_get_int(db, e, 0, ret, sql_secret_count, "");
}

int kbs_store_secret_get(struct db *db, const char *id, struct stored_secret *ret, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    struct stored_secret s = {.ref = BUF_INIT(1u << 16)};
    int rc;

    memset(ret, 0, sizeof(*ret));
    if (db_query(db, e, &r, sql_secret_get, "t", id)) {
        return -1;
    }
    rc = db_next(r, e);
    if (rc <= 0) {
        return rc;
    }
    snprintf(s.id, sizeof(s.id), "%s", id);
    COPY_TEXT(s.kind, r, 0);
    COPY_TEXT(s.owner, r, 1);
    COPY_TEXT(s.owner_jwk, r, 2);
    COPY_TEXT(s.backend, r, 3);
    struct bytes ref = db_blob(r, 4);
    s.created_ms = db_int(r, 5);
    if (buf_add(&s.ref, ref.p, ref.n, e)) {
        return -1;
    }
    *ret = s;
    return 1;
}

int kbs_store_secret_put(struct db *db, const struct stored_secret *s, struct err *e)
{
    return db_run(db, e, sql_secret_put, "tttttbi", s->id, s->kind, s->owner, s->owner_jwk,
                  s->backend, buf_bytes(&s->ref), s->created_ms);
}

/* ---- grants ---- */

void stored_grants_done(struct stored_grants *g)
{
    for (size_t i = 0; i < g->n; i++) {
        free(g->v[i].jws);
    }
    free(TAKE_PTR(g->v));
    g->n = 0;
}

int kbs_store_grants(struct db *db, const char *secret, int64_t now_s, int64_t limit,
                     struct stored_grants *ret, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    _cleanup_(stored_grants_done) struct stored_grants g = {
        .v = xcalloc((size_t)limit, sizeof(*g.v))};
    int rc;

    if (db_query(db, e, &r, sql_grants, "tii", secret, now_s, limit)) {
        return -1;
    }
    while ((rc = db_next(r, e)) > 0 && g.n < (size_t)limit) {
        g.v[g.n++] = (struct stored_grant){
            .rowid = db_int(r, 0), .jws = xstrdup(db_text(r, 1)), .revoked = db_int(r, 2) != 0};
    }
    if (rc < 0) {
        return -1;
    }
    *ret = g;
    g = (struct stored_grants){0};
    return 0;
}

int kbs_store_grant_get(struct db *db, const char *owner, const char *id, struct buf *ret_payload,
                        int *ret_revoked, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    int rc;

    if (db_query(db, e, &r, sql_grant_get, "tt", owner, id)) {
        return -1;
    }
    rc = db_next(r, e);
    if (rc > 0) {
        struct bytes b = db_blob(r, 0);
        *ret_revoked = db_int(r, 1) != 0;
        return buf_add(ret_payload, b.p, b.n, e) ? -1 : 1;
    }
    return rc;
}

int kbs_store_grant_put(struct db *db, const char *owner, const struct grant *g, const char *jws,
                        struct bytes payload, int64_t now_ms, struct err *e)
{
    return db_run(db, e, sql_grant_put, "tttitbi", owner, g->id, g->secret, g->exp, jws, payload,
                  now_ms);
}

int kbs_store_grant_revoke(struct db *db, const char *owner, const char *id, struct err *e)
{
    return db_run(db, e, sql_grant_revoke, "tt", owner, id);
}

int kbs_store_grant_used(struct db *db, int64_t rowid, struct err *e)
{
    return db_run(db, e, sql_grant_used, "i", rowid);
}

int kbs_store_counts(struct db *db, const char *owner, const char *secret, int64_t now_s,
                     struct kbs_counts *ret, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    int rc;

    if (db_query(db, e, &r, sql_counts, "tti", owner, secret, now_s)) {
        return -1;
    }
    rc = db_next(r, e);
    if (rc <= 0) {
        return rc < 0 ? -1 : err_set(e, ERR_INTERNAL, "the totals are missing");
    }
    *ret = (struct kbs_counts){.secrets = db_int(r, 0),
                               .secrets_of_owner = db_int(r, 1),
                               .grants = db_int(r, 2),
                               .grants_of_owner = db_int(r, 3),
                               .in_force = db_int(r, 4)};
    return 0;
}

static int list_secrets(struct db *db, const char *owner, size_t max, json_t *list, int *ret_more,
                        struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    size_t bytes = 0;
    int rc;

    if (db_query(db, e, &r, sql_secret_list, "t", owner)) {
        return -1;
    }
    while ((rc = db_next(r, e)) > 0) {
        json_t *o = json_pack("{s:s,s:s,s:I}", "id", db_text(r, 0), "kind", db_text(r, 1),
                              "created_ms", (json_int_t)db_int(r, 2));
        bytes += strlen(db_text(r, 0)) + 64;
        if (bytes > max) {
            json_decref(o);
            *ret_more = 1;
            return 0;
        }
        json_array_append_new(list, o);
    }
    return rc;
}

static int list_grants(struct db *db, const char *owner, int64_t now_s, size_t max, json_t *list,
                       int *ret_more, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    size_t bytes = 0;
    int rc;

    if (db_query(db, e, &r, sql_grant_list, "t", owner)) {
        return -1;
    }
    while ((rc = db_next(r, e)) > 0) {
        _cleanup_(grant_done) struct grant g = {0};
        bytes += db_blob(r, 0).n + 128; /* the entry holds less than the payload does */
        if (bytes > max) {
            *ret_more = 1;
            return 0;
        }
        if (grant_parse(db_blob(r, 0), &g, e)) {
            return err_wrap(e, "a stored grant");
        }
        const char *state = db_int(r, 1) ? "revoked" : now_s >= g.exp ? "expired" : "active";
        json_array_append_new(list, json_pack("{s:s,s:s,s:O,s:O,s:I,s:s,s:I}", "id", g.id, "secret",
                                              g.secret, "consumers", g.consumers, "images",
                                              g.images, "exp", (json_int_t)g.exp, "state", state,
                                              "uses", (json_int_t)db_int(r, 2)));
    }
    return rc;
}

int kbs_store_list(struct db *db, const char *owner, int64_t now_s, size_t max,
                   json_t **ret_secrets, json_t **ret_grants, int *ret_truncated, struct err *e)
{
    _cleanup_json_ json_t *secrets = json_array(), *grants = json_array();
    int more = 0;

    if (list_secrets(db, owner, max, secrets, &more, e) ||
        list_grants(db, owner, now_s, max, grants, &more, e)) {
        return -1;
    }
    *ret_secrets = TAKE_PTR(secrets);
    *ret_grants = TAKE_PTR(grants);
    *ret_truncated = more;
    return 0;
}

/* ---- commands ---- */

int kbs_store_remember(struct db *db, const uint8_t sha256[32], int64_t until_ms, struct err *e)
{
    int64_t n;

    if (db_get_int(db, e, 0, &n, sql_command_count, "")) {
        return -1;
    }
    if (n >= COMMANDS_SEEN_MAX) {
        return err_refuse(e, ERR_BUSY, "command", "fewer than 200000 within ten minutes", "%jd",
                          (intmax_t)n);
    }
    if (db_run(db, e, sql_command_add, "bi", BYTES(sha256, 32), until_ms)) {
        return -1;
    }
    return db_changes(db) == 1;
}

/* ---- releases ---- */

int kbs_store_release_get(struct db *db, const char *job, uint32_t attempt, struct release *ret,
                          struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    struct release v = {.attempt = attempt, .state = RELEASE_NONE};
    int rc;

    snprintf(v.job, sizeof(v.job), "%s", job);
    if (db_query(db, e, &r, sql_release_get, "ti", job, (int64_t)attempt)) {
        return -1;
    }
    rc = db_next(r, e);
    if (rc < 0) {
        return -1;
    }
    if (rc > 0) {
        v.state = (enum release_state)db_int(r, 0);
        COPY_TEXT(v.jti, r, 1);
        COPY_TEXT(v.cnf, r, 2);
        v.jwe = db_is_null(r, 3) ? NULL : xstrdup(db_text(r, 3));
        v.release_jws = db_is_null(r, 4) ? NULL : xstrdup(db_text(r, 4));
        v.sends = db_int(r, 5);
    }
    *ret = v;
    return 0;
}

int kbs_store_released_attempt(struct db *db, const char *job, int64_t *ret, struct err *e)
{
    return db_get_int(db, e, 0, ret, sql_released, "t", job);
}

int kbs_store_jti_used(struct db *db, const char *jti, int *ret, struct err *e)
{
    int64_t used;

    if (db_get_int(db, e, 0, &used, sql_jti, "t", jti)) {
        return -1;
    }
    *ret = used != 0;
    return 0;
}

int kbs_store_release_put(struct db *db, const struct release *r, int64_t keep_until_ms,
                          struct err *e)
{
    int released = r->state == RELEASE_RELEASED;

    if (db_run(db, e, sql_release_put, "tiittttii", r->job, (int64_t)r->attempt, (int64_t)r->state,
               released ? r->jti : NULL, released ? r->cnf : NULL, released ? r->jwe : NULL,
               released ? r->release_jws : NULL, r->sends, keep_until_ms)) {
        return -1;
    }
    return db_changes(db) == 1 ? 0 : err_set(e, ERR_INTERNAL, "the release changed meanwhile");
}

int kbs_store_release_sent(struct db *db, const struct release *r, struct err *e)
{
    return db_run(db, e, sql_release_sent, "iti", r->sends, r->job, (int64_t)r->attempt);
}

/* ---- pruning ---- */

int kbs_store_prune(struct db *db, int64_t now_ms, int64_t limit, struct err *e)
{
    return db_run(db, e, sql_prune_commands, "ii", now_ms, limit) ||
                   db_run(db, e, sql_prune_refused, "ii", now_ms, limit) ||
                   db_run(db, e, sql_prune_released, "ii", now_ms, limit) ||
                   db_run(db, e, sql_prune_grants, "ii", now_ms / 1000 - GRANT_KEEP_S, limit)
               ? -1
               : 0;
}

int kbs_store_next_prune(struct db *db, int64_t *ret_ms, struct err *e)
{
    return db_get_int(db, e, INT64_MAX, ret_ms, sql_next_prune, "i", (int64_t)GRANT_KEEP_S);
}

#include "svc-scheduler/scheduler.h"

/* Hosts in SQL: what they reported, and what of them is in use. */

static const char sql_host_find[] = "SELECT id, alive FROM host WHERE name = ?";
static const char sql_host_count[] = "SELECT count(*) FROM host";
static const char sql_host_add[] =
    "INSERT INTO host(name, alive, seen_ms, slots, cpu_millis, memory_bytes, used_slots, used_cpu,"
    " used_memory, backends, report) VALUES (?, 1, ?, ?, ?, ?, 0, 0, 0, ?, ?)";
static const char sql_host_update[] =
    "UPDATE host SET alive = 1, seen_ms = ?2, slots = ?3, cpu_millis = ?4, memory_bytes = ?5,"
    " backends = ?6, report = ?7 WHERE id = ?1";
static const char sql_host_dead[] = "UPDATE host SET alive = 0 WHERE id = ?";
static const char sql_host_hurry[] =
    "UPDATE attempt SET destroy_next_ms = ?2 WHERE host_id = ?1 AND live = 1"
    " AND destroy_next_ms > ?2";
static const char sql_host_use[] =
    "UPDATE host SET used_slots = ?2, used_cpu = ?3, used_memory = ?4 WHERE id = ?1";
static const char sql_hosts_alive[] =
    "SELECT id, name, slots, cpu_millis, memory_bytes, used_slots, used_cpu, used_memory, seen_ms,"
    " backends FROM host WHERE alive = 1 ORDER BY id";
static const char sql_hosts_silent[] =
    "SELECT id FROM host WHERE alive = 1 AND seen_ms <= ? LIMIT ?";
static const char sql_hosts_forget[] =
    "DELETE FROM host WHERE alive = 0 AND seen_ms <= ? AND NOT EXISTS"
    " (SELECT 1 FROM attempt a WHERE a.host_id = host.id AND a.live = 1)";
static const char sql_hosts[] = "SELECT report, seen_ms, alive, used_slots FROM host ORDER BY name";
static const char sql_min_seen[] = "SELECT min(seen_ms) FROM host WHERE alive = 1";

void host_list_done(struct host_list *l)
{
    free(l->v);
    memset(l, 0, sizeof(*l));
}

/* "name:tee name:tee" of the available backends; the names were checked. */
static void backends_text(const Coffer__V1__HostReport *r, char *out, size_t size)
{
    size_t n = 0;

    out[0] = '\0';
    for (size_t i = 0; i < r->n_backends; i++) {
        const Coffer__V1__BackendReport *b = r->backends[i];
        if (b->available) {
            n += (size_t)snprintf(out + n, size - n, "%s%s:%s", n ? " " : "", b->name, b->tee);
        }
    }
}

static void backends_parse(const char *text, struct host *h)
{
    while (*text && h->n_backends < HOST_MAX_BACKENDS) {
        struct host_backend *b = &h->backends[h->n_backends];
        size_t name = strcspn(text, ":"), tee = 0;
        if (text[name] == ':') {
            tee = strcspn(text + name + 1, " ");
        }
        snprintf(b->name, sizeof(b->name), "%.*s", (int)name, text);
        snprintf(b->tee, sizeof(b->tee), "%.*s", (int)tee, text[name] ? text + name + 1 : "");
        h->n_backends++;
        text += name + (text[name] == ':') + tee;
        text += *text == ' ';
    }
}

static int find_host(struct db *db, const char *name, int64_t *ret_id, int *ret_alive,
                     struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(db, e, &r, sql_host_find, "t", name) < 0) {
        return -1;
    }
    int rc = db_next(r, e);
    if (rc > 0) {
        *ret_id = db_int(r, 0);
        *ret_alive = db_int(r, 1) != 0;
    }
    return rc;
}

int store_host_report(struct db *db, const Coffer__V1__HostReport *r, struct bytes packed,
                      int64_t now_ms, int64_t max_hosts, int64_t *ret_id, int *ret_back,
                      struct err *e)
{
    char backends[HOST_MAX_BACKENDS * (2 * BACKEND_NAME_MAX_BYTES + 2) + 1];
    int64_t id = 0, n = 0, memory = (int64_t)r->memory_bytes;
    int alive = 0;

    backends_text(r, backends, sizeof(backends));
    int found = find_host(db, r->host, &id, &alive, e);
    if (found < 0) {
        return -1;
    }
    *ret_back = !alive;
    *ret_id = id;
    if (found) {
        return db_run(db, e, sql_host_update, "iiiiitb", id, now_ms, (int64_t)r->slots,
                      (int64_t)r->cpu_millis, memory, backends, packed);
    }
    if (db_get_int(db, e, 0, &n, sql_host_count, "") < 0) {
        return -1;
    }
    if (n >= max_hosts) {
        return err_refuse(e, ERR_TOO_LARGE, "hosts", "at most max-hosts hosts", "%lld and \"%s\"",
                          (long long)n, r->host);
    }
    if (db_run(db, e, sql_host_add, "tiiiitb", r->host, now_ms, (int64_t)r->slots,
               (int64_t)r->cpu_millis, memory, backends, packed) < 0) {
        return -1;
    }
    *ret_id = db_last_rowid(db);
    return 0;
}

int store_host_set_dead(struct db *db, int64_t host_id, struct err *e)
{
    return db_run(db, e, sql_host_dead, "i", host_id);
}

int store_host_hurry(struct db *db, int64_t host_id, int64_t now_ms, struct err *e)
{
    return db_run(db, e, sql_host_hurry, "ii", host_id, now_ms);
}

int store_host_use(struct db *db, const struct host *h, struct err *e)
{
    return db_run(db, e, sql_host_use, "iiii", h->id, h->used_slots, h->used_cpu_millis,
                  h->used_memory_bytes);
}

int store_hosts_alive(struct db *db, struct host_list *ret, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    int rc;

    if (db_query(db, e, &r, sql_hosts_alive, "") < 0) {
        return -1;
    }
    while ((rc = db_next(r, e)) > 0) {
        if (ret->n == ret->size) {
            ret->size = ret->size ? ret->size * 2 : 16;
            ret->v = xrealloc(ret->v, ret->size * sizeof(*ret->v));
        }
        struct host *h = &ret->v[ret->n++];
        memset(h, 0, sizeof(*h));
        h->id = db_int(r, 0);
        snprintf(h->name, sizeof(h->name), "%s", db_text(r, 1));
        h->slots = db_int(r, 2);
        h->cpu_millis = db_int(r, 3);
        h->memory_bytes = db_int(r, 4);
        h->used_slots = db_int(r, 5);
        h->used_cpu_millis = db_int(r, 6);
        h->used_memory_bytes = db_int(r, 7);
        h->seen_ms = db_int(r, 8);
        backends_parse(db_text(r, 9), h);
    }
    return rc;
}

int store_hosts_silent(struct db *db, int64_t before_ms, int64_t *ret, size_t max, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    int n = 0, rc;

    if (db_query(db, e, &r, sql_hosts_silent, "ii", before_ms, (int64_t)max) < 0) {
        return -1;
    }
    while ((rc = db_next(r, e)) > 0) {
        ret[n++] = db_int(r, 0);
    }
    return rc < 0 ? -1 : n;
}

int store_hosts_forget(struct db *db, int64_t before_ms, struct err *e)
{
    return db_run(db, e, sql_hosts_forget, "i", before_ms);
}

int store_hosts(struct db *db, host_fn fn, void *arg, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    int rc;

    if (db_query(db, e, &r, sql_hosts, "") < 0) {
        return -1;
    }
    while ((rc = db_next(r, e)) > 0) {
        if (fn(arg, db_blob(r, 0), db_int(r, 1), db_int(r, 2) != 0, db_int(r, 3))) {
            return 0;
        }
    }
    return rc;
}

int store_min_seen(struct db *db, int64_t *ret_ms, struct err *e)
{
    return db_get_int(db, e, INT64_MAX, ret_ms, sql_min_seen, "");
}

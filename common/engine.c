#include <openssl/evp.h>
#include <stdint.h>

#include "common/engine_int.h"

/* The inbox is two tables used in turn: when the current one is ENGINE_INBOX_KEEP_MS old, the other
 * is emptied and becomes current. So an id is kept for one to two periods, and forgetting costs a
 * truncation instead of a scan. */
static const char *const engine_migrations[] = {
    "CREATE TABLE inbox0(msg_id TEXT PRIMARY KEY) WITHOUT ROWID;"
    "CREATE TABLE inbox1(msg_id TEXT PRIMARY KEY) WITHOUT ROWID;"
    "CREATE TABLE inbox_state(one INTEGER PRIMARY KEY CHECK (one = 1), current INTEGER NOT NULL,"
    "  since_ms INTEGER NOT NULL);"
    "INSERT INTO inbox_state VALUES (1, 0, 0);"
    "CREATE TABLE outbox(id INTEGER PRIMARY KEY, subject TEXT NOT NULL, msg_id TEXT NOT NULL,"
    "  traceparent TEXT NOT NULL, payload BLOB NOT NULL);"
    "CREATE TABLE outbox_state(one INTEGER PRIMARY KEY CHECK (one = 1),"
    "  acked_to INTEGER NOT NULL, at_ms INTEGER NOT NULL);"
    "INSERT INTO outbox_state VALUES (1, 0, 0);",
};

static const char sql_inbox_seen[] = "SELECT 1 FROM inbox0 WHERE msg_id = ?1 UNION ALL"
                                     " SELECT 1 FROM inbox1 WHERE msg_id = ?1 LIMIT 1";
static const char *const sql_inbox_add[2] = {
    "INSERT OR IGNORE INTO inbox0 VALUES (?)",
    "INSERT OR IGNORE INTO inbox1 VALUES (?)",
};
static const char sql_inbox_state[] = "SELECT current, since_ms FROM inbox_state";

#define BACKOFF_FIRST_MS 200
#define BACKOFF_MAX_MS 30000
#define DEAD_PAYLOAD_MAX_BYTES 65536u
#define INBOX_KEY_BYTES 456

/* ---- opening and closing --------------------------------------------------------------------- */

static int load_inbox_state(struct engine *g, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(g->db, e, &r, sql_inbox_state, "") < 0) {
        return -1;
    }
    int rc = db_next(r, e);
    if (rc <= 0) {
        return rc < 0 ? -1 : err_set(e, ERR_INTERNAL, "database has no inbox state");
    }
    g->inbox_current = db_int(r, 0) != 0;
    g->inbox_since_ms = db_int(r, 1);
    return 0;
}

static int resume(struct engine *g, struct err *e)
{
    if (engine_begin(g, e) < 0) {
        return -1;
    }
    g->svc.now_ms = g->clock(g->clock_arg);
    if (g->def->resume && engine_call(g, NULL, NULL, e) < 0) {
        engine_rollback(g);
        return -1;
    }
    return engine_commit(g, e);
}

int engine_open(const struct service_def *def, const struct engine_opts *o, struct engine **ret,
                struct err *e)
{
    _cleanup_(engine_closep) struct engine *g = xcalloc(1, sizeof(*g));

    g->def = def;
    g->clock = o->clock;
    g->clock_arg = o->clock_arg;
    g->fx.g = g;
    g->db = o->db;
    g->borrowed_db = o->db != NULL;
    if ((!g->db && db_open(o->db_path, def->migrations, def->n_migrations, &g->db, e) < 0) ||
        db_migrate(g->db, "engine", engine_migrations, ARRAY_LEN(engine_migrations), e) < 0 ||
        load_inbox_state(g, e) < 0) {
        return -1;
    }
    if (outbox_open(g, e) < 0) {
        return -1;
    }
    g->svc = (struct svc){
        .db = g->db, .now_ms = o->clock(o->clock_arg), .config = o->config, .id = def->id};
    if (def->open && def->open(&g->svc, e) < 0) {
        return -1;
    }
    g->opened = 1;
    if (resume(g, e) < 0) {
        return -1;
    }
    *ret = TAKE_PTR(g);
    return 0;
}

void engine_close(struct engine *g)
{
    if (!g) {
        return;
    }
    if (g->db) {
        db_rollback(g->db);
    }
    if (g->opened && g->def->close) {
        g->def->close(&g->svc);
    }
    effects_clear(&g->fx);
    out_truncate(&g->ready, 0);
    action_truncate(&g->doable, 0);
    free(g->fx.out.v);
    free(g->fx.actions.v);
    free(g->ready.v);
    free(g->doable.v);
    out_done(&g->handed);
    free(g->handed_action.data);
    free(g->sent.v);
    if (!g->borrowed_db) {
        db_close(g->db);
    }
    free(g);
}

struct svc *engine_svc(struct engine *g)
{
    return &g->svc;
}

const struct engine_stats *engine_stats(const struct engine *g)
{
    return &g->stats;
}

/* ---- one transaction ------------------------------------------------------------------------- */

int engine_begin(struct engine *g, struct err *e)
{
    if (db_in_transaction(g->db)) {
        return 0;
    }
    effects_clear(&g->fx);
    g->inbox_before = g->inbox_current;
    g->inbox_since_before_ms = g->inbox_since_ms;
    return db_begin(g->db, e);
}

static int inbox_seen(struct engine *g, const char *key, int *ret, struct err *e)
{
    int64_t seen = 0;

    if (db_get_int(g->db, e, 0, &seen, sql_inbox_seen, "t", key) < 0) {
        return -1;
    }
    *ret = seen != 0;
    return 0;
}

static int call_handler(struct engine *g, const struct msg *m, struct err *why)
{
    if (m->payload.n > subjects[m->subject].max_bytes) {
        return err_refuse(why, ERR_TOO_LARGE, subjects[m->subject].name,
                          "a message within its size cap", "%zu bytes, the cap is %zu",
                          m->payload.n, subjects[m->subject].max_bytes);
    }
    for (size_t i = 0; i < g->def->n_handlers; i++) {
        if (g->def->handlers[i].subject == m->subject) {
            return g->def->handlers[i].fn(&g->svc, m, &g->fx, why);
        }
    }
    return err_set(why, ERR_INVALID, "%s does not take %s", service_name(g->def->id),
                   subjects[m->subject].name);
}

static int publish_dead_letter(struct engine *g, const struct msg *m, const struct err *why,
                               struct err *e)
{
    Coffer__V1__DeadLetter d = COFFER__V1__DEAD_LETTER__INIT;
    Coffer__V1__Refusal refusal = COFFER__V1__REFUSAL__INIT;
    char subject[256], id[400];

    if (!(subjects[SUBJ_DEAD].from & (1u << g->def->id)) ||
        subject_format(m->subject, m->key, subject, sizeof(subject)) < 0) {
        return 0;
    }
    refusal_from_err(&refusal, why, g->def->id);
    d.service = (char *)service_name(g->def->id);
    d.subject = subject;
    d.msg_id = (char *)m->msg_id;
    d.payload.data = (uint8_t *)m->payload.p;
    d.payload.len = m->payload.n < DEAD_PAYLOAD_MAX_BYTES ? m->payload.n : DEAD_PAYLOAD_MAX_BYTES;
    d.reason = &refusal;
    d.at_ms = g->svc.now_ms;
    snprintf(id, sizeof(id), "dead.%s.%.200s.%lld", d.service, m->msg_id, (long long)d.at_ms);
    return fx_publish(&g->fx, SUBJ_DEAD, d.service, id, &d.base, e);
}

/* The handler said no. Decides between later and never. */
static int handle_failure(struct engine *g, const struct msg *m, const struct err *why,
                          enum disposition *ret, int *ret_delay_ms, struct err *e)
{
    int durable = subjects[m->subject].style == STYLE_DURABLE;

    if (durable && err_is_transient(why->code) && m->deliveries < ENGINE_MAX_DELIVERIES) {
        unsigned shift = m->deliveries > 0 ? m->deliveries - 1 : 0;
        int delay = shift < 8 ? BACKOFF_FIRST_MS << shift : BACKOFF_MAX_MS;
        g->stats.retried++;
        *ret = DISP_NAK;
        *ret_delay_ms = delay < BACKOFF_MAX_MS ? delay : BACKOFF_MAX_MS;
        return 0;
    }
    struct err ignored = {0};
    /* A reply that cannot be sent (its address is no inbox) is the sender's loss. */
    (void)fx_reply_refusal(&g->fx, m, why, &ignored);
    g->stats.refused++;
    if (durable) {
        g->stats.dead++;
        if (publish_dead_letter(g, m, why, e) < 0) {
            return -1;
        }
    }
    *ret = DISP_ACK;
    return 0;
}

static void take_traceparent(struct effects *fx, const char *tp)
{
    fx->traceparent[0] = '\0';
    if (tp && strlen(tp) == TRACEPARENT_LEN && strspn(tp, "0123456789abcdef-") == TRACEPARENT_LEN) {
        memcpy(fx->traceparent, tp, TRACEPARENT_LEN + 1);
    }
}

/* The sender chooses the id, and others may be allowed to send on the same subject: an id alone
 * would let any of them have another's message taken for a duplicate. So the same message is the
 * same id and the same bytes. */
static int inbox_key(const struct msg *m, char ret[INBOX_KEY_BYTES], struct err *e)
{
    uint8_t digest[32];

    if (EVP_Digest(m->payload.n ? (const void *)m->payload.p : "", m->payload.n, digest, NULL,
                   EVP_sha256(), NULL) != 1) {
        return err_set(e, ERR_INTERNAL, "cannot hash a message");
    }
    _cleanup_free_ char *hex = hex_encode(digest, 16);
    snprintf(ret, INBOX_KEY_BYTES, "%d:%s:%.400s", (int)m->subject, hex, m->msg_id);
    return 0;
}

int engine_handle(struct engine *g, const struct msg *m, enum disposition *ret, int *ret_delay_ms,
                  struct err *why, struct err *e)
{
    struct err local = {0};
    size_t out_mark = g->fx.out.n, action_mark = g->fx.actions.n;
    int keyed = m->msg_id && m->msg_id[0];
    char key[INBOX_KEY_BYTES];
    int seen = 0;

    why = why ? why : &local;
    err_clear(why);
    *ret = DISP_ACK;
    *ret_delay_ms = 0;
    g->svc.now_ms = g->clock(g->clock_arg);
    take_traceparent(&g->fx, m->traceparent);
    if (keyed) {
        if (inbox_key(m, key, e) < 0 || inbox_seen(g, key, &seen, e) < 0) {
            return -1;
        }
        if (seen) {
            g->stats.duplicates++;
            return 0;
        }
    }
    if (db_savepoint(g->db, e) < 0) {
        return -1;
    }
    if (call_handler(g, m, why) == 0) {
        if (keyed && db_run(g->db, e, sql_inbox_add[g->inbox_current], "t", key) < 0) {
            return -1;
        }
        g->stats.handled++;
        return outbox_store(g, out_mark, e) < 0 ? -1 : db_release(g->db, e);
    }
    out_truncate(&g->fx.out, out_mark);
    action_truncate(&g->fx.actions, action_mark);
    if (!db_in_transaction(g->db)) {
        return err_set(e, ERR_IO, "database ended the transaction: %.400s", why->msg);
    }
    db_rollback_to(g->db);
    if (handle_failure(g, m, why, ret, ret_delay_ms, e) < 0) {
        return -1;
    }
    return outbox_store(g, out_mark, e);
}

int engine_call(struct engine *g, engine_call_fn fn, void *arg, struct err *e)
{
    size_t out_mark = g->fx.out.n, action_mark = g->fx.actions.n;

    g->svc.now_ms = g->clock(g->clock_arg);
    g->fx.traceparent[0] = '\0';
    if (db_savepoint(g->db, e) < 0) {
        return -1;
    }
    int rc = fn ? fn(&g->svc, arg, &g->fx, e) : g->def->resume(&g->svc, &g->fx, e);
    if (rc < 0) {
        out_truncate(&g->fx.out, out_mark);
        action_truncate(&g->fx.actions, action_mark);
        db_rollback_to(g->db);
        return -1;
    }
    return outbox_store(g, out_mark, e) < 0 ? -1 : db_release(g->db, e);
}

static int tick_call(struct svc *s, void *arg, struct effects *fx, struct err *e)
{
    const struct service_def *def = arg;
    return def->tick(s, fx, e);
}

int engine_tick(struct engine *g, struct err *e)
{
    int64_t now = g->clock(g->clock_arg);

    if (engine_prune(g, e) < 0) {
        return -1;
    }
    if (!g->def->tick) {
        return 0;
    }
    g->svc.now_ms = now;
    if (g->def->next_tick_ms && g->def->next_tick_ms(&g->svc) > now) {
        return 0;
    }
    return engine_call(g, tick_call, (void *)(uintptr_t)g->def, e);
}

int engine_commit(struct engine *g, struct err *e)
{
    int64_t acked_to;

    if (outbox_flush_acks(g, &acked_to, e) < 0 || db_commit(g->db, e) < 0) {
        return -1; /* the acknowledgements are kept for the next commit */
    }
    outbox_acks_flushed(g, acked_to);
    g->inbox_before = g->inbox_current;
    g->inbox_since_before_ms = g->inbox_since_ms;
    g->stats.commits++;
    for (size_t i = 0; i < g->fx.out.n; i++) {
        struct out *o = &g->fx.out.v[i];
        if (o->outbox_id > 0) {
            sent_push(&g->sent)->id = o->outbox_id;
            g->unacked++;
            g->last_id = o->outbox_id;
            /* Behind a backlog that is still in the database, order is kept by loading it later. */
            if (g->more_in_db) {
                out_done(o);
                continue;
            }
            g->loaded_up_to_id = o->outbox_id;
        }
        *out_push(&g->ready) = *o;
        memset(o, 0, sizeof(*o));
    }
    for (size_t i = 0; i < g->fx.actions.n; i++) {
        *action_push(&g->doable) = g->fx.actions.v[i];
    }
    g->fx.out.n = g->fx.actions.n = 0;
    return 0;
}

void engine_rollback(struct engine *g)
{
    effects_clear(&g->fx);
    /* Else marks would go into the table that the database does not hold to be current, and that
     * the next turn empties. */
    g->inbox_current = g->inbox_before;
    g->inbox_since_ms = g->inbox_since_before_ms;
    db_rollback(g->db);
}

int64_t engine_next_tick_ms(struct engine *g)
{
    int64_t next = INT64_MAX;

    if (g->def->tick && g->def->next_tick_ms) {
        next = g->def->next_tick_ms(&g->svc);
    }
    if (g->acks_unrecorded && g->acks_since_ms + ACK_FLUSH_MS < next) {
        next = g->acks_since_ms + ACK_FLUSH_MS;
    }
    if (g->n_marks && g->marks[0].at_ms + ENGINE_OUTBOX_KEEP_MS + 1 < next) {
        next = g->marks[0].at_ms + ENGINE_OUTBOX_KEEP_MS + 1;
    }
    return next;
}

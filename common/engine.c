#include "common/engine.h"

#include <stdint.h>

#include "common/secret.h"

/* The inbox is two tables used in turn: when the current one is ENGINE_INBOX_KEEP_MS old, the other
 * is emptied and becomes current. So an id is kept for one to two periods, and forgetting costs a
 * truncation instead of a scan. */
static const char *const engine_migrations[] = {
    "CREATE TABLE inbox0(msg_id TEXT PRIMARY KEY) WITHOUT ROWID;"
    "CREATE TABLE inbox1(msg_id TEXT PRIMARY KEY) WITHOUT ROWID;"
    "CREATE TABLE inbox_state(one INTEGER PRIMARY KEY CHECK (one = 1), current INTEGER NOT NULL,"
    "  since_ms INTEGER NOT NULL);"
    "INSERT INTO inbox_state VALUES (1, 0, 0);"
    "CREATE TABLE outbox(id INTEGER PRIMARY KEY AUTOINCREMENT, subject TEXT NOT NULL,"
    "  msg_id TEXT NOT NULL, traceparent TEXT NOT NULL, payload BLOB NOT NULL, acked_ms INTEGER);",
};

static const char *const sql_inbox_seen[2] = {
    "SELECT 1 FROM inbox0 WHERE msg_id = ?",
    "SELECT 1 FROM inbox1 WHERE msg_id = ?",
};
static const char *const sql_inbox_add[2] = {
    "INSERT OR IGNORE INTO inbox0 VALUES (?)",
    "INSERT OR IGNORE INTO inbox1 VALUES (?)",
};
static const char *const sql_inbox_clear[2] = {"DELETE FROM inbox0", "DELETE FROM inbox1"};
static const char sql_inbox_state[] = "SELECT current, since_ms FROM inbox_state";
static const char sql_inbox_turn[] = "UPDATE inbox_state SET current = ?, since_ms = ?";
static const char sql_outbox_add[] =
    "INSERT INTO outbox(subject, msg_id, traceparent, payload) VALUES (?, ?, ?, ?)";
static const char sql_outbox_ack[] =
    "UPDATE outbox SET acked_ms = ? WHERE id BETWEEN ? AND ? AND acked_ms IS NULL";
static const char sql_outbox_prune[] = "DELETE FROM outbox WHERE id <= ? AND acked_ms IS NOT NULL";
static const char sql_outbox_load[] =
    "SELECT id, subject, msg_id, traceparent, payload FROM outbox"
    " WHERE id > ? AND (acked_ms IS NULL OR acked_ms >= ?) ORDER BY id LIMIT ?";
static const char sql_outbox_unacked[] = "SELECT count(*) FROM outbox WHERE acked_ms IS NULL";

#define OUTBOX_LOAD_ROWS 1024
#define PRUNE_MARKS 16 /* (time, highest outbox id) pairs, one every PRUNE_EVERY_MS */
#define PRUNE_EVERY_MS 10000
#define ACK_FLUSH_MS 1000
#define BACKOFF_FIRST_MS 200
#define BACKOFF_MAX_MS 30000
#define DEAD_PAYLOAD_MAX_BYTES 65536u

struct out {
    int64_t outbox_id;
    char *subject, *msg_id;
    char traceparent[TRACEPARENT_LEN + 1];
    uint8_t *payload;
    size_t payload_n;
    int is_reply;
};

struct action {
    int kind;
    uint8_t *data;
    size_t n;
};

/* Grows at the tail, is read at the head; emptied storage is reused. */
struct out_list {
    struct out *v;
    size_t head, n, size;
};
struct action_list {
    struct action *v;
    size_t head, n, size;
};

struct effects {
    struct engine *g;
    char traceparent[TRACEPARENT_LEN + 1];
    struct out_list out;
    struct action_list actions;
};

struct prune_mark {
    int64_t at_ms, id;
};

struct engine {
    const struct service_def *def;
    struct svc svc;
    struct db *db;
    clock_fn clock;
    void *clock_arg;

    struct effects fx;           /* of this transaction, not yet durable */
    struct out_list ready;       /* durable, to be handed out */
    struct action_list doable;   /* likewise */
    struct out handed;           /* what engine_next_out lent */
    struct action handed_action; /* what engine_next_action lent */

    int64_t *acks; /* PubAcks not yet recorded */
    size_t n_acks, size_acks;
    int64_t acks_since_ms;

    size_t unacked;          /* outbox rows without PubAck */
    int64_t loaded_up_to_id; /* requeue: rows above are still in the database only */
    int64_t recent_ms;       /* requeue: acked at or after this are sent again; INT64_MAX: none */
    int more_in_db;

    int64_t last_id;
    struct prune_mark marks[PRUNE_MARKS];
    size_t n_marks;

    int inbox_current;
    int64_t inbox_since_ms;
    int opened;
    struct engine_stats stats;
};

static void out_done(struct out *o)
{
    free(o->subject);
    free(o->msg_id);
    free(o->payload);
    memset(o, 0, sizeof(*o));
}

static void *list_push(void **v, size_t *head, size_t *n, size_t *size, size_t item)
{
    if (*head && *head == *n) {
        *head = *n = 0;
    }
    if (*n == *size) {
        *size = *size ? *size * 2 : 16;
        *v = xrealloc(*v, *size * item);
    }
    void *slot = (char *)*v + (*n)++ * item;
    memset(slot, 0, item);
    return slot;
}

static struct out *out_push(struct out_list *l)
{
    return list_push((void **)&l->v, &l->head, &l->n, &l->size, sizeof(*l->v));
}

static struct action *action_push(struct action_list *l)
{
    return list_push((void **)&l->v, &l->head, &l->n, &l->size, sizeof(*l->v));
}

static void out_truncate(struct out_list *l, size_t n)
{
    while (l->n > n && l->n > l->head) {
        out_done(&l->v[--l->n]);
    }
}

static void action_truncate(struct action_list *l, size_t n)
{
    while (l->n > n && l->n > l->head) {
        free(l->v[--l->n].data);
    }
}

static void effects_clear(struct effects *fx)
{
    out_truncate(&fx->out, 0);
    action_truncate(&fx->actions, 0);
    fx->out.head = fx->out.n = 0;
    fx->actions.head = fx->actions.n = 0;
}

/* ---- what handlers call ---------------------------------------------------------------------- */

static void traceparent_new(char out[TRACEPARENT_LEN + 1])
{
    uint8_t id[24];
    char hex[49];

    random_bytes(id, sizeof(id));
    for (size_t i = 0; i < sizeof(id); i++) {
        snprintf(hex + 2 * i, 3, "%02x", id[i]);
    }
    snprintf(out, TRACEPARENT_LEN + 1, "00-%.32s-%.16s-01", hex, hex + 32);
}

static struct out *effect_new(struct effects *fx, const char *subject, const char *msg_id)
{
    struct out *o = out_push(&fx->out);

    if (!fx->traceparent[0]) {
        traceparent_new(fx->traceparent);
    }
    o->subject = xstrdup(subject);
    o->msg_id = xstrdup(msg_id);
    memcpy(o->traceparent, fx->traceparent, sizeof(o->traceparent));
    return o;
}

static void pack_into(struct out *o, const ProtobufCMessage *m, size_t n)
{
    o->payload = xmalloc(n);
    o->payload_n = protobuf_c_message_pack(m, o->payload);
}

int fx_publish(struct effects *fx, enum subject s, const char *key, const char *msg_id,
               const ProtobufCMessage *m, struct err *e)
{
    const struct subject_info *i = &subjects[s];
    char name[256];

    if (!(i->from & (1u << fx->g->def->id))) {
        return err_set(e, ERR_INTERNAL, "%s may not publish on %s", service_name(fx->g->def->id),
                       i->name);
    }
    if (m->descriptor != i->message || i->style == STYLE_REQUEST) {
        return err_set(e, ERR_INTERNAL, "wrong message or style for %s", i->name);
    }
    if (subject_format(s, key, name, sizeof(name)) < 0) {
        return err_set(e, ERR_INTERNAL, "key \"%s\" does not fit subject %s", key ? key : "",
                       i->name);
    }
    if (i->style == STYLE_DURABLE && (!msg_id || !msg_id[0])) {
        return err_set(e, ERR_INTERNAL, "%s needs a message id", i->name);
    }
    size_t n = protobuf_c_message_get_packed_size(m);
    if (n > i->max_bytes) {
        return err_set(e, ERR_TOO_LARGE, "%s: message of %zu bytes, at most %zu", i->name, n,
                       i->max_bytes);
    }
    struct out *o = effect_new(fx, name, msg_id ? msg_id : "");
    o->outbox_id = i->style == STYLE_DURABLE ? -1 : 0; /* -1: gets its row with the message */
    pack_into(o, m, n);
    return 0;
}

int fx_reply(struct effects *fx, const struct msg *m, const Coffer__V1__Reply *r, struct err *e)
{
    if (!m->reply_to || !m->reply_to[0]) {
        return 0;
    }
    /* A reply subject comes from outside: it may only be somebody's inbox. */
    if (strncmp(m->reply_to, "_INBOX", 6) != 0 || strlen(m->reply_to) > 200 ||
        strpbrk(m->reply_to, "*> \t\r\n")) {
        return err_refuse(e, ERR_INVALID, "reply-to", "an _INBOX subject", "\"%.60s\"",
                          m->reply_to);
    }
    struct out *o = effect_new(fx, m->reply_to, "");
    o->is_reply = 1;
    pack_into(o, &r->base, protobuf_c_message_get_packed_size(&r->base));
    return 0;
}

int fx_reply_refusal(struct effects *fx, const struct msg *m, const struct err *why, struct err *e)
{
    Coffer__V1__Reply reply = COFFER__V1__REPLY__INIT;
    Coffer__V1__Refusal refusal = COFFER__V1__REFUSAL__INIT;

    refusal_from_err(&refusal, why, fx->g->def->id);
    reply.body_case = COFFER__V1__REPLY__BODY_REFUSAL;
    reply.refusal = &refusal;
    return fx_reply(fx, m, &reply, e);
}

void fx_action(struct effects *fx, int kind, struct bytes data)
{
    struct action *a = action_push(&fx->actions);

    a->kind = kind;
    a->data = xmemdup(data.p, data.n);
    a->n = data.n;
}

int msg_unpack(const struct msg *m, ProtobufCMessage **ret, struct err *e)
{
    const struct subject_info *i = &subjects[m->subject];

    if (m->payload.n > i->max_bytes) {
        return err_refuse(e, ERR_TOO_LARGE, i->name, "a message within its size cap",
                          "%zu bytes of %zu", m->payload.n, i->max_bytes);
    }
    *ret = protobuf_c_message_unpack(i->message, NULL, m->payload.n, m->payload.p);
    if (!*ret) {
        return err_refuse(e, ERR_INVALID, i->name, i->message->name, "%zu bytes that are not one",
                          m->payload.n);
    }
    return 0;
}

void refusal_from_err(Coffer__V1__Refusal *r, const struct err *why, enum service by)
{
    r->code = (char *)err_code_name(why->code);
    r->clause = (char *)why->clause;
    r->expected = (char *)why->expected;
    r->actual = (char *)why->actual;
    r->message = (char *)why->msg;
    r->by = (char *)service_name(by);
}

void err_from_refusal(struct err *e, const Coffer__V1__Refusal *r)
{
    err_clear(e);
    e->code = ERR_DENIED;
    for (int c = ERR_NONE + 1; c < ERR_CODE_N; c++) {
        if (streq(err_code_name((enum err_code)c), r->code)) {
            e->code = (enum err_code)c;
        }
    }
    snprintf(e->msg, sizeof(e->msg), "%s", r->message);
    snprintf(e->clause, sizeof(e->clause), "%s", r->clause);
    snprintf(e->expected, sizeof(e->expected), "%s", r->expected);
    snprintf(e->actual, sizeof(e->actual), "%s", r->actual);
}

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
    g->recent_ms = INT64_MAX;
    if (db_open(o->db_path, def->migrations, def->n_migrations, &g->db, e) < 0 ||
        db_migrate(g->db, "engine", engine_migrations, ARRAY_LEN(engine_migrations), e) < 0 ||
        load_inbox_state(g, e) < 0) {
        return -1;
    }
    int64_t unacked = 0;
    if (db_get_int(g->db, e, 0, &unacked, sql_outbox_unacked, "") < 0) {
        return -1;
    }
    g->unacked = (size_t)unacked;
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
    free(g->acks);
    db_close(g->db);
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
    return db_begin(g->db, e);
}

/* Gives the durable effects from `from` on their outbox rows. */
static int store_effects(struct engine *g, size_t from, struct err *e)
{
    for (size_t i = from; i < g->fx.out.n; i++) {
        struct out *o = &g->fx.out.v[i];
        if (o->outbox_id != -1) {
            continue;
        }
        if (db_run(g->db, e, sql_outbox_add, "tttb", o->subject, o->msg_id, o->traceparent,
                   BYTES(o->payload, o->payload_n)) < 0) {
            return -1;
        }
        o->outbox_id = db_last_rowid(g->db);
    }
    return 0;
}

static int inbox_seen(struct engine *g, const char *key, int *ret, struct err *e)
{
    for (int i = 0; i < 2; i++) {
        int64_t seen = 0;
        if (db_get_int(g->db, e, 0, &seen, sql_inbox_seen[i], "t", key) < 0) {
            return -1;
        }
        if (seen) {
            *ret = 1;
            return 0;
        }
    }
    *ret = 0;
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

int engine_handle(struct engine *g, const struct msg *m, enum disposition *ret, int *ret_delay_ms,
                  struct err *why, struct err *e)
{
    struct err local = {0};
    size_t out_mark = g->fx.out.n, action_mark = g->fx.actions.n;
    int keyed = m->msg_id && m->msg_id[0];
    char key[420];
    int seen = 0;

    why = why ? why : &local;
    err_clear(why);
    *ret = DISP_ACK;
    *ret_delay_ms = 0;
    g->svc.now_ms = g->clock(g->clock_arg);
    take_traceparent(&g->fx, m->traceparent);
    if (keyed) {
        snprintf(key, sizeof(key), "%d:%.400s", (int)m->subject, m->msg_id);
        if (inbox_seen(g, key, &seen, e) < 0) {
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
        return store_effects(g, out_mark, e) < 0 ? -1 : db_release(g->db, e);
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
    return store_effects(g, out_mark, e);
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
    return store_effects(g, out_mark, e) < 0 ? -1 : db_release(g->db, e);
}

static int tick_call(struct svc *s, void *arg, struct effects *fx, struct err *e)
{
    const struct service_def *def = arg;
    return def->tick(s, fx, e);
}

static int flush_acks(struct engine *g, struct err *e);
static int prune(struct engine *g, struct err *e);

int engine_tick(struct engine *g, struct err *e)
{
    int64_t now = g->clock(g->clock_arg);

    if (prune(g, e) < 0) {
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
    size_t unacked = g->unacked;

    if (flush_acks(g, e) < 0 || db_commit(g->db, e) < 0) {
        g->unacked = unacked; /* the acknowledgements are kept for the next commit */
        return -1;
    }
    g->n_acks = 0;
    g->stats.commits++;
    for (size_t i = 0; i < g->fx.out.n; i++) {
        struct out *o = &g->fx.out.v[i];
        if (o->outbox_id > 0) {
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
    db_rollback(g->db);
}

/* ---- the outbox ------------------------------------------------------------------------------ */

static int load_outbox(struct engine *g, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    size_t rows = 0;
    int rc;

    if (db_query(g->db, e, &r, sql_outbox_load, "iii", g->loaded_up_to_id, g->recent_ms,
                 (int64_t)OUTBOX_LOAD_ROWS) < 0) {
        return -1;
    }
    while ((rc = db_next(r, e)) > 0) {
        struct out *o = out_push(&g->ready);
        struct bytes payload = db_blob(r, 4);
        o->outbox_id = db_int(r, 0);
        o->subject = xstrdup(db_text(r, 1));
        o->msg_id = xstrdup(db_text(r, 2));
        snprintf(o->traceparent, sizeof(o->traceparent), "%s", db_text(r, 3));
        o->payload = xmemdup(payload.p, payload.n);
        o->payload_n = payload.n;
        g->loaded_up_to_id = o->outbox_id;
        rows++;
    }
    g->more_in_db = rows == OUTBOX_LOAD_ROWS;
    return rc;
}

int engine_requeue_outbox(struct engine *g, int recent, struct err *e)
{
    struct out_list keep = {0};

    if (g->n_acks) {
        if (engine_begin(g, e) < 0 || engine_commit(g, e) < 0) {
            engine_rollback(g);
            return -1;
        }
    }
    /* Replies and facts of the lost connection stay; durable rows come from the database. */
    for (size_t i = g->ready.head; i < g->ready.n; i++) {
        if (g->ready.v[i].outbox_id == 0) {
            *out_push(&keep) = g->ready.v[i];
        } else {
            out_done(&g->ready.v[i]);
        }
    }
    free(g->ready.v);
    g->ready = keep;
    g->loaded_up_to_id = 0;
    g->recent_ms = recent ? g->clock(g->clock_arg) - ENGINE_OUTBOX_KEEP_MS : INT64_MAX;
    return load_outbox(g, e);
}

int engine_next_out(struct engine *g, struct outgoing *ret)
{
    if (g->ready.head == g->ready.n && g->more_in_db) {
        struct err e;
        if (load_outbox(g, &e) < 0) {
            return 0; /* the rows stay; the next requeue finds them */
        }
    }
    if (g->ready.head == g->ready.n) {
        return 0;
    }
    out_done(&g->handed);
    g->handed = g->ready.v[g->ready.head];
    memset(&g->ready.v[g->ready.head++], 0, sizeof(g->handed));
    *ret = (struct outgoing){.outbox_id = g->handed.outbox_id,
                             .subject = g->handed.subject,
                             .msg_id = g->handed.msg_id,
                             .traceparent = g->handed.traceparent,
                             .payload = BYTES(g->handed.payload, g->handed.payload_n),
                             .is_reply = g->handed.is_reply};
    g->stats.published++;
    return 1;
}

int engine_next_action(struct engine *g, int *ret_kind, struct bytes *ret_data)
{
    if (g->doable.head == g->doable.n) {
        return 0;
    }
    free(g->handed_action.data);
    g->handed_action = g->doable.v[g->doable.head];
    memset(&g->doable.v[g->doable.head++], 0, sizeof(g->handed_action));
    *ret_kind = g->handed_action.kind;
    *ret_data = BYTES(g->handed_action.data, g->handed_action.n);
    return 1;
}

void engine_published(struct engine *g, int64_t outbox_id)
{
    if (g->n_acks == g->size_acks) {
        g->size_acks = g->size_acks ? g->size_acks * 2 : 64;
        g->acks = xrealloc(g->acks, g->size_acks * sizeof(*g->acks));
    }
    if (!g->n_acks) {
        g->acks_since_ms = g->clock(g->clock_arg);
    }
    g->acks[g->n_acks++] = outbox_id;
}

static int by_id(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* PubAcks come nearly in order: a run of ids is one UPDATE. */
static int flush_acks(struct engine *g, struct err *e)
{
    if (!g->n_acks) {
        return 0;
    }
    int64_t now = g->clock(g->clock_arg);
    qsort(g->acks, g->n_acks, sizeof(*g->acks), by_id);
    for (size_t i = 0; i < g->n_acks;) {
        size_t j = i;
        while (j + 1 < g->n_acks && g->acks[j + 1] <= g->acks[j] + 1) {
            j++;
        }
        if (db_run(g->db, e, sql_outbox_ack, "iii", now, g->acks[i], g->acks[j]) < 0) {
            return -1;
        }
        size_t changed = (size_t)db_changes(g->db);
        g->unacked -= changed < g->unacked ? changed : g->unacked;
        i = j + 1;
    }
    return 0;
}

/* Forgets outbox rows that were acknowledged long enough ago, and turns the inbox. */
static int prune(struct engine *g, struct err *e)
{
    int64_t now = g->clock(g->clock_arg);

    if (g->last_id && (!g->n_marks || now - g->marks[g->n_marks - 1].at_ms >= PRUNE_EVERY_MS) &&
        (!g->n_marks || g->marks[g->n_marks - 1].id != g->last_id) && g->n_marks < PRUNE_MARKS) {
        g->marks[g->n_marks++] = (struct prune_mark){.at_ms = now, .id = g->last_id};
    }
    if (g->n_marks && now - g->marks[0].at_ms > ENGINE_OUTBOX_KEEP_MS) {
        if (db_run(g->db, e, sql_outbox_prune, "i", g->marks[0].id) < 0) {
            return -1;
        }
        g->last_id = g->last_id == g->marks[0].id ? 0 : g->last_id;
        memmove(&g->marks[0], &g->marks[1], --g->n_marks * sizeof(g->marks[0]));
    }
    if (now - g->inbox_since_ms > ENGINE_INBOX_KEEP_MS) {
        int next = !g->inbox_current;
        if (db_run(g->db, e, sql_inbox_clear[next], "") < 0 ||
            db_run(g->db, e, sql_inbox_turn, "ii", (int64_t)next, now) < 0) {
            return -1;
        }
        g->inbox_current = next;
        g->inbox_since_ms = now;
    }
    return 0;
}

int64_t engine_next_tick_ms(struct engine *g)
{
    int64_t next = INT64_MAX;

    if (g->def->tick && g->def->next_tick_ms) {
        next = g->def->next_tick_ms(&g->svc);
    }
    if (g->n_acks && g->acks_since_ms + ACK_FLUSH_MS < next) {
        next = g->acks_since_ms + ACK_FLUSH_MS;
    }
    if (g->n_marks && g->marks[0].at_ms + ENGINE_OUTBOX_KEEP_MS + 1 < next) {
        next = g->marks[0].at_ms + ENGINE_OUTBOX_KEEP_MS + 1;
    }
    return next;
}

size_t engine_unpublished(const struct engine *g)
{
    return g->unacked;
}

#include <stdint.h>

#include "common/engine_int.h"

/* PubAcks come nearly in order. So what is stored of them is one number, up to which all have come:
 * one small row in a commit instead of one for each message. After a crash the few above it go out
 * again, and are recognised by their message ids. */
static const char sql_outbox_add[] =
    "INSERT INTO outbox(id, subject, msg_id, traceparent, payload) VALUES (?, ?, ?, ?, ?)";
static const char sql_outbox_acked_to[] = "UPDATE outbox_state SET acked_to = ?, at_ms = ?";
static const char sql_outbox_state[] = "SELECT acked_to, at_ms FROM outbox_state";
static const char sql_outbox_prune[] = "DELETE FROM outbox WHERE id BETWEEN ? AND ?";
static const char sql_outbox_load[] = "SELECT id, subject, msg_id, traceparent, payload FROM outbox"
                                      " WHERE id > ? ORDER BY id LIMIT ?";
static const char sql_outbox_ids[] = "SELECT id FROM outbox WHERE id > ? ORDER BY id";

static const char *const sql_inbox_clear[2] = {"DELETE FROM inbox0", "DELETE FROM inbox1"};
static const char sql_inbox_turn[] = "UPDATE inbox_state SET current = ?, since_ms = ?";

#define OUTBOX_LOAD_ROWS 1024

int outbox_store(struct engine *g, size_t from, struct err *e)
{
    for (size_t i = from; i < g->fx.out.n; i++) {
        struct out *o = &g->fx.out.v[i];
        if (o->outbox_id != -1) {
            continue;
        }
        if (db_run(g->db, e, sql_outbox_add, "itttb", g->next_id, o->subject, o->msg_id,
                   o->traceparent, BYTES(o->payload, o->payload_n)) < 0) {
            return -1;
        }
        o->outbox_id = g->next_id++;
    }
    return 0;
}

static int load_state(struct engine *g, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;

    if (db_query(g->db, e, &r, sql_outbox_state, "") < 0) {
        return -1;
    }
    int rc = db_next(r, e);
    if (rc <= 0) {
        return rc < 0 ? -1 : err_set(e, ERR_INTERNAL, "database has no outbox state");
    }
    g->acked_to = db_int(r, 0);
    g->acked_at_ms = db_int(r, 1);
    return 0;
}

int outbox_open(struct engine *g, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    int rc;

    if (load_state(g, e) < 0 || db_query(g->db, e, &r, sql_outbox_ids, "i", g->acked_to) < 0) {
        return -1;
    }
    g->next_id = g->acked_to + 1;
    while ((rc = db_next(r, e)) > 0) {
        sent_push(&g->sent)->id = db_int(r, 0);
        g->next_id = db_int(r, 0) + 1;
        g->unacked++;
    }
    g->last_id = g->next_id - 1; /* what an earlier life left is pruned in its time */
    return rc;
}

/* NULL: it is at most acked_to. */
static struct sent *find_sent(const struct engine *g, int64_t id)
{
    size_t low = g->sent.head, high = g->sent.n;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (g->sent.v[mid].id < id) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low < g->sent.n && g->sent.v[low].id == id ? &g->sent.v[low] : NULL;
}

static int is_acked(const struct engine *g, int64_t id)
{
    const struct sent *s = find_sent(g, id);

    return !s || s->acked;
}

static int load_outbox(struct engine *g, struct err *e)
{
    _cleanup_rows_ struct db_rows *r = NULL;
    size_t rows = 0;
    int rc;

    if (db_query(g->db, e, &r, sql_outbox_load, "ii", g->loaded_up_to_id,
                 (int64_t)OUTBOX_LOAD_ROWS) < 0) {
        return -1;
    }
    while ((rc = db_next(r, e)) > 0) {
        rows++;
        g->loaded_up_to_id = db_int(r, 0);
        if (!g->load_acked && is_acked(g, g->loaded_up_to_id)) {
            continue;
        }
        struct out *o = out_push(&g->ready);
        struct bytes payload = db_blob(r, 4);
        o->outbox_id = g->loaded_up_to_id;
        o->subject = xstrdup(db_text(r, 1));
        o->msg_id = xstrdup(db_text(r, 2));
        snprintf(o->traceparent, sizeof(o->traceparent), "%s", db_text(r, 3));
        o->payload = xmemdup(payload.p, payload.n);
        o->payload_n = payload.n;
    }
    g->more_in_db = rows == OUTBOX_LOAD_ROWS;
    return rc;
}

int engine_requeue_outbox(struct engine *g, int recent, struct err *e)
{
    struct out_list keep = {0};

    if (g->acks_unrecorded) {
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
    /* All that is left of rows with PubAck is from the time just before the last one was recorded.
     */
    g->load_acked = recent && g->clock(g->clock_arg) - g->acked_at_ms <= ENGINE_OUTBOX_KEEP_MS;
    g->loaded_up_to_id = g->load_acked ? 0 : g->acked_to;
    return load_outbox(g, e);
}

int engine_next_out(struct engine *g, struct outgoing *ret)
{
    while (g->ready.head == g->ready.n && g->more_in_db) {
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
    struct sent *s = find_sent(g, outbox_id);

    if (!s || s->acked) {
        return; /* it went out twice */
    }
    s->acked = 1;
    g->unacked--;
    if (!g->acks_unrecorded) {
        g->acks_unrecorded = 1;
        g->acks_since_ms = g->clock(g->clock_arg);
    }
}

int outbox_flush_acks(struct engine *g, int64_t *ret, struct err *e)
{
    *ret = g->acked_to;
    for (size_t i = g->sent.head; i < g->sent.n && g->sent.v[i].acked; i++) {
        *ret = g->sent.v[i].id;
    }
    return *ret == g->acked_to
               ? 0
               : db_run(g->db, e, sql_outbox_acked_to, "ii", *ret, g->clock(g->clock_arg));
}

void outbox_acks_flushed(struct engine *g, int64_t acked_to)
{
    if (acked_to != g->acked_to) {
        g->acked_to = acked_to;
        g->acked_at_ms = g->clock(g->clock_arg);
    }
    while (g->sent.head < g->sent.n && g->sent.v[g->sent.head].id <= acked_to) {
        g->sent.head++;
    }
    /* The tail must not wander through memory for ever. */
    if (g->sent.head > 4096 && g->sent.head > g->sent.n / 2) {
        g->sent.n -= g->sent.head;
        memmove(g->sent.v, g->sent.v + g->sent.head, g->sent.n * sizeof(g->sent.v[0]));
        g->sent.head = 0;
    }
    g->acks_unrecorded = 0;
}

/* Rows up to `id`, but those that still wait for their PubAck. */
static int prune_up_to(struct engine *g, int64_t id, struct err *e)
{
    int64_t from = 0;

    for (size_t i = g->sent.head; i < g->sent.n && g->sent.v[i].id <= id; i++) {
        int64_t kept = g->sent.v[i].id;
        if (g->sent.v[i].acked) {
            continue;
        }
        if (kept > from && db_run(g->db, e, sql_outbox_prune, "ii", from, kept - 1) < 0) {
            return -1;
        }
        from = kept + 1;
    }
    return from <= id ? db_run(g->db, e, sql_outbox_prune, "ii", from, id) : 0;
}

int engine_prune(struct engine *g, struct err *e)
{
    int64_t now = g->clock(g->clock_arg);

    if (g->last_id && (!g->n_marks || now - g->marks[g->n_marks - 1].at_ms >= PRUNE_EVERY_MS) &&
        (!g->n_marks || g->marks[g->n_marks - 1].id != g->last_id) && g->n_marks < PRUNE_MARKS) {
        g->marks[g->n_marks++] = (struct prune_mark){.at_ms = now, .id = g->last_id};
    }
    if (g->n_marks && now - g->marks[0].at_ms > ENGINE_OUTBOX_KEEP_MS) {
        if (prune_up_to(g, g->marks[0].id, e) < 0) {
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

size_t engine_unpublished(const struct engine *g)
{
    return g->unacked;
}

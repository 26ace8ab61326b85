#include <stdint.h>

#include "common/engine_int.h"

static const char sql_outbox_add[] =
    "INSERT INTO outbox(subject, msg_id, traceparent, payload) VALUES (?, ?, ?, ?)";
static const char sql_outbox_ack[] =
    "UPDATE outbox SET acked_ms = ? WHERE id BETWEEN ? AND ? AND acked_ms IS NULL";
static const char sql_outbox_prune[] = "DELETE FROM outbox WHERE id <= ? AND acked_ms IS NOT NULL";
static const char sql_outbox_load[] =
    "SELECT id, subject, msg_id, traceparent, payload FROM outbox"
    " WHERE id > ? AND (acked_ms IS NULL OR acked_ms >= ?) ORDER BY id LIMIT ?";
static const char sql_outbox_unacked[] = "SELECT count(*) FROM outbox WHERE acked_ms IS NULL";

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
        if (db_run(g->db, e, sql_outbox_add, "tttb", o->subject, o->msg_id, o->traceparent,
                   BYTES(o->payload, o->payload_n)) < 0) {
            return -1;
        }
        o->outbox_id = db_last_rowid(g->db);
    }
    return 0;
}

int outbox_count_unacked(struct engine *g, struct err *e)
{
    int64_t n = 0;

    if (db_get_int(g->db, e, 0, &n, sql_outbox_unacked, "") < 0) {
        return -1;
    }
    g->unacked = (size_t)n;
    return 0;
}

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
int outbox_flush_acks(struct engine *g, struct err *e)
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

int engine_prune(struct engine *g, struct err *e)
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

size_t engine_unpublished(const struct engine *g)
{
    return g->unacked;
}

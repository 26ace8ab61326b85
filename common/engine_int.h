/* The engine's insides, shared by its three files and nobody else. */
#ifndef COFFER_ENGINE_INT_H
#define COFFER_ENGINE_INT_H

#include "common/engine.h"

#define PRUNE_MARKS 16 /* (time, highest outbox id) pairs, one every PRUNE_EVERY_MS */
#define PRUNE_EVERY_MS 10000
#define ACK_FLUSH_MS 1000

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

/* Rows in the order of their ids, whether each has its PubAck. */
struct sent {
    int64_t id;
    int acked;
};
struct sent_list {
    struct sent *v;
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
    int borrowed_db;
    clock_fn clock;
    void *clock_arg;

    struct effects fx;           /* of this transaction, not yet durable */
    struct out_list ready;       /* durable, to be handed out */
    struct action_list doable;   /* likewise */
    struct out handed;           /* what engine_next_out lent */
    struct action handed_action; /* what engine_next_action lent */

    struct sent_list sent; /* durable rows above acked_to */
    size_t unacked;        /* of those, without PubAck */
    int64_t acked_to;      /* every row up to this has its PubAck; as the database has it */
    int64_t acked_at_ms;   /* when it was written there */
    int64_t next_id;       /* of the next row: never an old one again */
    int acks_unrecorded;   /* PubAcks came since the last commit */
    int64_t acks_since_ms;

    int64_t loaded_up_to_id; /* requeue: rows above are still in the database only */
    int load_acked;          /* requeue: those with PubAck are sent again too */
    int more_in_db;

    int64_t last_id;
    struct prune_mark marks[PRUNE_MARKS];
    size_t n_marks;

    int inbox_current;
    int64_t inbox_since_ms;
    int inbox_before; /* as they were when the transaction began */
    int64_t inbox_since_before_ms;
    int opened;
    struct engine_stats stats;
};

/* engine_effects.c: what handlers want done. */
void out_done(struct out *o);
struct out *out_push(struct out_list *l);
struct action *action_push(struct action_list *l);
struct sent *sent_push(struct sent_list *l);
void out_truncate(struct out_list *l, size_t n);
void action_truncate(struct action_list *l, size_t n);
void effects_clear(struct effects *fx);

/* engine_outbox.c: what leaves, and what is forgotten. */
/* Gives the durable effects from `from` on their outbox rows. */
int outbox_store(struct engine *g, size_t from, struct err *e);
/* What the database knows of PubAcks, at open. */
int outbox_open(struct engine *g, struct err *e);
/* Writes how far the PubAcks go; *ret is that, for outbox_acks_flushed after the commit. */
int outbox_flush_acks(struct engine *g, int64_t *ret, struct err *e);
void outbox_acks_flushed(struct engine *g, int64_t acked_to);
/* Forgets outbox rows that were acknowledged long enough ago, and turns the inbox. */
int engine_prune(struct engine *g, struct err *e);

#endif

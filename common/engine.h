/* How a service runs, without any I/O but its own database: messages in, one transaction, effects
 * out (DESIGN §3). The shell (common/shell.h) puts NATS and a clock around it; the simulator puts a
 * simulated bus, clock and crashes around the very same code.
 *
 *   engine_begin
 *   engine_handle(message) …  inbox check, savepoint, handler, inbox mark, outbox rows
 *   engine_tick                 what is due
 *   engine_commit
 *   engine_next_out / engine_next_action: only now does anything leave
 *   acknowledge the messages; engine_published(id) as PubAcks come
 */
#ifndef COFFER_ENGINE_H
#define COFFER_ENGINE_H

#include "common/config.h"
#include "common/db.h"
#include "proto/subjects.h"

#define TRACEPARENT_LEN 55

/* One message in; everything borrowed for the call. */
struct msg {
    enum subject subject;
    const char *key; /* the subject's last token; "" when it has none */
    struct bytes payload;
    const char *msg_id;      /* Nats-Msg-Id, "" when none: then nothing is deduplicated */
    const char *reply_to;    /* where the Reply goes; "" when nobody waits */
    const char *traceparent; /* "" when none */
    uint32_t deliveries;     /* 1 for the first */
};

/* What a handler wants done once its transaction is durable. */
struct effects;
/* Publishes on a durable or fact subject. `msg_id` must be the same when the same thing is
 * published again (e.g. "<job>.<attempt>.verdict"); for durable subjects it is required. Fails
 * (ERR_INTERNAL) if the table says that this service may not publish it, ERR_TOO_LARGE over the
 * subject's cap. */
int fx_publish(struct effects *fx, enum subject s, const char *key, const char *msg_id,
               const ProtobufCMessage *m, struct err *e);
/* Answers a request; nothing when m->reply_to is "". */
int fx_reply(struct effects *fx, const struct msg *m, const Coffer__V1__Reply *r, struct err *e);
int fx_reply_refusal(struct effects *fx, const struct msg *m, const struct err *why, struct err *e);
/* Something the service itself does after the commit (start a process): kind is its own enum. */
void fx_action(struct effects *fx, int kind, struct bytes data);

/* A running service instance as its handlers see it. */
struct svc {
    struct db *db;
    int64_t now_ms;              /* Unix time; fixed during one handler */
    const struct config *config; /* values of the service's config table */
    void *priv;                  /* the service's own, set by open */
    enum service id;
};

/* Returns 0 when the message is dealt with (a refusal that was answered or recorded included). On
 * -1: transient codes (err_is_transient) are rolled back and delivered again later with backoff, up
 * to ENGINE_MAX_DELIVERIES; any other code is rolled back, answered with a Refusal when somebody
 * waits, put on the dead-letter subject (durable messages only), counted, and never tried again. */
typedef int (*handler_fn)(struct svc *s, const struct msg *m, struct effects *fx, struct err *e);

struct handler {
    enum subject subject;
    handler_fn fn;
};

struct service_def {
    enum service id;
    const char *const *migrations; /* the service's own tables */
    size_t n_migrations;
    const struct handler *handlers;
    size_t n_handlers;
    /* After the database is open, in no transaction: load keys, build svc->priv. May be NULL. */
    int (*open)(struct svc *s, struct err *e);
    void (*close)(struct svc *s);
    /* Once after open, in a transaction: take up what a crash left (may emit effects). May be NULL.
     */
    int (*resume)(struct svc *s, struct effects *fx, struct err *e);
    /* Handles everything due at s->now_ms, bounded work per call. May be NULL. */
    int (*tick)(struct svc *s, struct effects *fx, struct err *e);
    /* When tick is next needed (Unix ms), INT64_MAX for never. Read from the database. */
    int64_t (*next_tick_ms)(struct svc *s);
    const struct config_item *config; /* the service's own items, beside the common ones */
    size_t n_config;
};

#define ENGINE_MAX_DELIVERIES 8
#define ENGINE_INBOX_KEEP_MS (10 * 60 * 1000)
#define ENGINE_OUTBOX_KEEP_MS (120 * 1000)

struct engine;
typedef int64_t (*clock_fn)(void *arg); /* Unix ms */

struct engine_opts {
    const char *db_path;
    clock_fn clock;
    void *clock_arg;
    const struct config *config; /* borrowed for the engine's life */
    /* An opened and migrated database to use instead of db_path; not closed by engine_close, so
     * that a simulated crash leaves what was committed. NULL otherwise. */
    struct db *db;
};

int engine_open(const struct service_def *def, const struct engine_opts *o, struct engine **ret,
                struct err *e);
/* Drops everything that is not committed, as a crash does. */
void engine_close(struct engine *g);
DEFINE_CLEANUP(struct engine *, engine_close);
struct svc *engine_svc(struct engine *g);

enum disposition {
    DISP_ACK, /* done: acknowledge after the commit */
    DISP_NAK, /* deliver again after *ret_delay_ms */
};

int engine_begin(struct engine *g, struct err *e);
/* Never fails because of the message. -1 only when the database fails: roll back the batch and let
 * all of it be delivered again. `why`, when not NULL, gets the handler's error for the log (code
 * NONE if there was none). */
int engine_handle(struct engine *g, const struct msg *m, enum disposition *ret, int *ret_delay_ms,
                  struct err *why, struct err *e);
int engine_tick(struct engine *g, struct err *e);
/* Lets code outside of a message (a child exited, a host's timer) act as a handler does: inside the
 * transaction, with effects. */
typedef int (*engine_call_fn)(struct svc *s, void *arg, struct effects *fx, struct err *e);
int engine_call(struct engine *g, engine_call_fn fn, void *arg, struct err *e);
int engine_commit(struct engine *g, struct err *e);
void engine_rollback(struct engine *g);
int64_t engine_next_tick_ms(struct engine *g);

/* What leaves after the commit. Borrowed until the next call on the engine. */
struct outgoing {
    int64_t outbox_id; /* 0: not durable, no PubAck expected */
    const char *subject;
    const char *msg_id;
    const char *traceparent;
    struct bytes payload;
    int is_reply;
};
/* 1 and one message, or 0. */
int engine_next_out(struct engine *g, struct outgoing *ret);
/* 1 and one action (kind, data), or 0. */
int engine_next_action(struct engine *g, int *ret_kind, struct bytes *ret_data);
/* A PubAck came for this outbox row; recorded with the next commit. */
void engine_published(struct engine *g, int64_t outbox_id);
/* Puts every row that has no PubAck back into the queue (after a reconnect), or, with `recent`,
 * also those acknowledged less than ENGINE_OUTBOX_KEEP_MS ago (at start: a PubAck is not an fsync).
 */
int engine_requeue_outbox(struct engine *g, int recent, struct err *e);
size_t engine_unpublished(const struct engine *g); /* queued or without PubAck */

/* Counters for logs and metrics. */
struct engine_stats {
    uint64_t handled, duplicates, refused, retried, dead, commits, published;
};
const struct engine_stats *engine_stats(const struct engine *g);

/* Helpers for handlers. */
/* Unpacks the payload as the subject's message; ERR_INVALID / ERR_TOO_LARGE name the subject. Free
 * with protobuf_c_message_free_unpacked (or the cleanup below). */
int msg_unpack(const struct msg *m, ProtobufCMessage **ret, struct err *e);
static inline void pb_freep(void *p)
{
    ProtobufCMessage *m = *(ProtobufCMessage **)p;
    if (m) {
        protobuf_c_message_free_unpacked(m, NULL);
    }
}
#define _cleanup_pb_ _cleanup_(pb_freep)
/* Fills a Refusal from an error; strings are borrowed from `why` and static text. */
void refusal_from_err(Coffer__V1__Refusal *r, const struct err *why, enum service by);
void err_from_refusal(struct err *e, const Coffer__V1__Refusal *r);

#endif

/* Inside the bus: shared by bus.c (messages), bus_conn.c (connection), bus_js.c (JetStream),
 * bus_request.c and bus_provision.c. */
#ifndef COFFER_BUS_INT_H
#define COFFER_BUS_INT_H

#include <nats/nats.h>
#include <pthread.h>

#include "common/bus.h"
#include "common/bus_parse.h"

#define BUS_SUBS_MAX 48
#define BUS_PULLS_MAX 8
#define BUS_REQUESTS_MAX 16
#define BUS_SUBJECT_MAX 224

enum sub_kind { SUB_MESSAGES, SUB_PULL, SUB_PUBACK, SUB_REPLY };

struct bus_sub {
    enum sub_kind kind;
    char subject[BUS_SUBJECT_MAX];
    const char *queue; /* static; NULL for none */
    int index;         /* SUB_PULL, SUB_REPLY: of the pull, of the request */
    natsSubscription *s;
};

/* A connection as the library's own threads (its timer, its callback thread) see it. Lives until
 * both the bus and the library's closed callback let go; `bus` is NULL once the bus has. */
struct link {
    pthread_mutex_t mu; /* a leaf: nothing of nats is called with it held */
    int refs;
    struct bus *bus;
    int fd, want, dead;
    unsigned gen;
    int n_errors; /* not reported yet; `error` is the last */
    natsStatus error;
};

/* One durable publish in flight. */
struct slot {
    natsMsg *msg; /* NULL: free */
    int64_t tag;
    uint32_t gen;
    size_t bytes;
    double due;     /* send (again) then */
    unsigned tries; /* refused by back-pressure, in a row */
    int request;    /* bus_schedule's pending request, -1 none */
};

struct pull {
    struct bus *bus;
    const struct consumer_info *consumer;
    char durable[128];
    size_t batch;
    size_t credit; /* asked for and not come yet */
    uint32_t next_id;
    int alive;  /* it has answered since we connected */
    int silent; /* reported */
    double heard, probe_s;
    ev_timer timer;
};

struct request {
    struct bus *bus;
    int used;
    int subscribed; /* to the slot's reply subjects; kept */
    int raw;
    int durable; /* answered even after a reconnect */
    int stored;  /* durable: the PubAck came */
    int duplicate;
    uint32_t gen;
    ev_timer timer;
    bus_reply_fn fn;
    /* raw requests (provisioning): the body as it came, or why not. */
    void (*raw_fn)(struct bytes body, const struct err *why, void *arg);
    void *arg;
};

struct bus {
    struct ev_loop *loop;
    pthread_t owner;
    struct bus_opts o; /* copies, as far as pointers are kept */
    char *url, *tls_name, *ca_pem, *host;
    struct secret *seed;
    char public_key[64];
    char name[96];
    char inbox[128]; /* without the last dot */

    natsConnection *nc;
    struct link *link;
    ev_io io;
    ev_async async;
    unsigned have_gen;
    int have_want;
    ev_timer retry;
    double backoff_s;
    int started, freeing, in_callback;
    struct err last_error;

    struct bus_sub subs[BUS_SUBS_MAX];
    size_t n_subs;
    struct pull pulls[BUS_PULLS_MAX];
    size_t n_pulls;
    int paused;

    struct slot slots[BUS_WINDOW];
    uint16_t free_slots[BUS_WINDOW];
    size_t n_free;
    size_t window_bytes;
    uint32_t next_gen;
    ev_timer js_timer;
    int backpressure;

    struct request requests[BUS_REQUESTS_MAX];
    struct bus_stats stats;
};

/* bus_conn.c */
void conn_init(struct bus *b);
void conn_open(struct bus *b);
void conn_close(struct bus *b);
int conn_publish(struct bus *b, natsMsg *msg, struct err *e);
int conn_publish_text(struct bus *b, const char *subject, const char *reply, const char *text,
                      size_t n);

/* bus.c */
void bus_event(struct bus *b, enum bus_event ev, const struct err *e);
int sub_add(struct bus *b, enum sub_kind kind, const char *subject, const char *queue, int index,
            struct err *e);
int sub_open(struct bus *b, struct bus_sub *s, struct err *e);
void subs_drain(struct bus *b);
int out_msg(const struct bus_out *o, const char *reply, natsMsg **ret, struct err *e);
const char *msg_header(natsMsg *msg, const char *name); /* "" when none */
/* Checks and wraps; takes msg. NULL when it was dropped. `p` for a durable message. */
struct bus_msg *msg_accept(struct bus *b, natsMsg *msg, const struct pull *p);
int pack_checked(enum subject s, const ProtobufCMessage *m, struct buf *ret, struct err *e);
int may_publish(const struct bus *b, enum subject s, struct err *e);
/* Runs the loop until *done or the time is over. -1 for the latter. */
int run_until(struct bus *b, const int *done, int timeout_ms);

/* bus_js.c */
void js_init(struct bus *b);
void js_done(struct bus *b);
void js_connected(struct bus *b);
void js_lost(struct bus *b);
void js_puback(struct bus *b, natsMsg *msg);
void js_pulled(struct bus *b, struct pull *p, natsMsg *msg);
int js_add_pull(struct bus *b, const struct consumer_info *c, struct err *e);
int js_publish(struct bus *b, const struct bus_out *o, int64_t tag, int request, struct err *e);

/* bus_request.c */
void request_lost(struct bus *b);
void request_reply(struct bus *b, natsMsg *msg);
/* The server says that nobody listens for what this slot asked. */
void request_nobody(struct bus *b, int index);
/* Likewise for some durable publish: no stream stores its subject. */
void js_nobody(struct bus *b);
/* The PubAck of a durable request, or why it will never be stored. */
void request_stored(struct bus *b, int index, int duplicate, const struct err *why);
void request_done_all(struct bus *b);
int request_raw(struct bus *b, const char *subject, struct bytes body, int timeout_ms,
                void (*fn)(struct bytes, const struct err *, void *), void *arg, struct err *e);

#endif

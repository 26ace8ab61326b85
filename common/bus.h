/* The bus: one TLS connection to nats-server, authenticated by an nkey, driven by a libev loop.
 * Everything here runs in the loop's thread; nothing blocks it but the connecting itself (at most
 * connect_timeout_ms) and the helpers named "blocking" below, which run the loop.
 *
 * Three styles (proto/subjects.def): REQUEST and FACT are core NATS; DURABLE is JetStream, spoken
 * by its wire API. A lost connection is made anew with backoff; subscriptions and pulls come back
 * by themselves, and durable publishes without a PubAck are sent again with the same Nats-Msg-Id.
 *
 * Every message that comes in is checked before anything else: known subject, at most the subject's
 * max_bytes, well-formed headers, a reply address that belongs to somebody who may ask. What fails
 * is counted, reported as BUS_DROPPED, and never delivered (durable: terminated; a request that is
 * too large gets a Refusal).
 */
#ifndef COFFER_BUS_H
#define COFFER_BUS_H

#include <ev.h>

#include "common/engine.h"
#include "common/secret.h"

#define BUS_REPLY_MAX_BYTES (768u * 1024)
#define BUS_MSG_ID_MAX 240
#define BUS_WINDOW 256               /* durable publishes without a PubAck at once */
#define BUS_WINDOW_BYTES (8u << 20)  /* and their payloads together */
#define BUS_BUFFERED_MAX (16u << 20) /* unsent bytes; beyond, core publishes get ERR_BUSY */
#define BUS_PUBACK_TIMEOUT_MS 5000   /* then it is sent again */
#define BUS_PULL_EXPIRES_MS 60000
#define BUS_PULL_HEARTBEAT_MS 30000
#define BUS_PING_MS 30000

struct bus;

enum bus_event {
    BUS_CONNECTED,
    BUS_LOST,           /* the connection; it is being made anew */
    BUS_CONNECT_FAILED, /* one attempt; the next follows */
    BUS_REFUSED,      /* the server refused something: permissions, limits (the last, if several) */
    BUS_DROPPED,      /* one incoming message was dropped */
    BUS_BACKPRESSURE, /* a stream is full or missing: durable publishes are being held back */
    BUS_CONSUMER_SILENT /* a durable consumer does not answer: is it provisioned? */
};
/* "bus.connected", ...: for logs. */
const char *bus_event_name(enum bus_event ev);

/* A message that came in. The receiver of on_msg owns it. */
struct bus_msg {
    struct msg m;     /* everything it points at lives as long as this */
    int durable;      /* must be settled: bus_ack, bus_nak or bus_term */
    char job[65];     /* Coffer-Job, or from the message id; "" when none. For logs, not trusted */
    uint32_t attempt; /* Coffer-Attempt, likewise; 0 when none */
    void *priv;
};
void bus_msg_free(struct bus_msg *m);
DEFINE_CLEANUP(struct bus_msg *, bus_msg_free);

struct bus_opts {
    const char *url;           /* "nats://host:port" or "tls://host:port": TLS either way */
    const char *tls_name;      /* the name the certificate must carry; NULL: the url's host */
    const char *ca_file;       /* PEM; either this */
    const char *ca_pem;        /* or this text */
    const char *seed_file;     /* nkey seed, 0600; either this */
    const struct secret *seed; /* or this (copied) */
    enum service service;      /* who we are */
    int admin;                 /* the provisioner instead of a service */
    const char *host;          /* launcher: its host's name */
    int connect_timeout_ms;    /* 0: 2000 */
    void *arg;                 /* of the callbacks; any of which may be NULL */
    void (*on_event)(struct bus *b, enum bus_event ev, const struct err *e, void *arg);
    void (*on_msg)(struct bus *b, struct bus_msg *m, void *arg);
    /* A durable publish is stored (why NULL), or will never be (why says so). `tag` as given. */
    void (*on_puback)(struct bus *b, int64_t tag, const struct err *why, void *arg);
};

/* Reads keys, makes no connection. Strings are copied. ERR_INVALID (url, seed, missing option),
 * ERR_IO, ERR_DENIED (mode of the seed file). */
int bus_new(const struct bus_opts *o, struct ev_loop *loop, struct bus **ret, struct err *e);
void bus_free(struct bus *b);
DEFINE_CLEANUP(struct bus *, bus_free);

/* Connects now, blocking at most connect_timeout_ms; a failure is reported by on_event and tried
 * again with backoff (50 ms to 5 s). */
void bus_start(struct bus *b);
int bus_connected(const struct bus *b);
/* Blocking: starts if needed and runs the loop until connected. ERR_TIMEOUT with the last reason.
 */
int bus_wait_connected(struct bus *b, int timeout_ms, struct err *e);

/* Takes up everything that proto/subjects.def says the service receives: requests in its queue
 * group, facts, pulls on its durable consumers. Call once. ERR_INVALID (launcher without host). */
int bus_serve(struct bus *b, struct err *e);
/* Core subscription to a fact or durable subject that the service may receive, from now on (what
 * was published before is not seen). `key` NULL: all. ERR_DENIED by the table, ERR_INVALID key,
 * ERR_BUSY too many. */
int bus_subscribe(struct bus *b, enum subject s, const char *key, struct err *e);
/* Stops (1) or resumes (0) asking the consumers for more; what was asked for still comes. */
void bus_pause(struct bus *b, int paused);

/* One message out. */
struct bus_out {
    const char *subject;  /* whole name */
    struct bytes payload; /* copied */
    const char *msg_id;   /* durable: required; Coffer-Job and Coffer-Attempt are taken from it */
    const char *traceparent; /* NULL or "" for none */
    const char *reply_to;    /* header Coffer-Reply-To; NULL for none */
};
/* Core publish: a fact, or a reply. ERR_BUSY when not connected (it is then lost, as core NATS
 * loses) or too much is unsent; ERR_TOO_LARGE. */
int bus_publish(struct bus *b, const struct bus_out *o, struct err *e);
/* Durable publish. It is sent until the stream has it; on_puback tells. A tag that is still in
 * flight is not sent twice. Works without a connection: it goes out when there is one. ERR_BUSY
 * when the window is full (see bus_room), ERR_INVALID without a message id, ERR_TOO_LARGE. */
int bus_publish_durable(struct bus *b, const struct bus_out *o, int64_t tag, struct err *e);
/* As bus_publish_durable from a message: formats, packs and checks the table and the cap. */
int bus_send(struct bus *b, enum subject s, const char *key, const char *msg_id,
             const ProtobufCMessage *m, const char *traceparent, int64_t tag, struct err *e);
/* How many more durable publishes the window takes now (0: wait for on_puback). */
size_t bus_room(const struct bus *b);
size_t bus_in_flight(const struct bus *b);

/* Settle a durable message; nothing for others. Lost settlements lead to a redelivery. */
void bus_ack(struct bus *b, const struct bus_msg *m);
void bus_nak(struct bus *b, const struct bus_msg *m, int delay_ms);
void bus_term(struct bus *b, const struct bus_msg *m);

/* The answer, or NULL and why: ERR_TIMEOUT, ERR_BUSY (nobody listens), ERR_IO (connection lost: it
 * may have been handled), ERR_INVALID (a reply that does not parse). A Refusal is an answer. Both
 * are borrowed. */
typedef void (*bus_reply_fn)(struct bus *b, const Coffer__V1__Reply *r, const struct err *why,
                             void *arg);
/* ERR_DENIED by the table, ERR_TOO_LARGE, ERR_BUSY (not connected, too many at once). */
int bus_request_async(struct bus *b, enum subject s, const char *key, const ProtobufCMessage *m,
                      int timeout_ms, bus_reply_fn fn, void *arg, struct err *e);
/* Blocking: connects if needed, asks, runs the loop until the reply. Errors as above. Free the
 * reply with coffer__v1__reply__free_unpacked. Not from a callback of the bus. */
int bus_request(struct bus *b, enum subject s, const char *key, const ProtobufCMessage *m,
                int timeout_ms, Coffer__V1__Reply **ret, struct err *e);
/* Blocking: a durable request. 0 with *ret: the answer. 0 with *ret NULL: it is stored and will be
 * handled, but there was no answer within timeout_ms (or the stream had this id already).
 * ERR_TIMEOUT when it is not known to be stored: the same msg_id may be sent again. */
int bus_schedule(struct bus *b, enum subject s, const char *key, const char *msg_id,
                 const ProtobufCMessage *m, const char *traceparent, int timeout_ms,
                 Coffer__V1__Reply **ret, struct err *e);

/* Blocking: runs the loop until everything is sent and every durable publish has its PubAck. -1
 * when timeout_ms passed first. */
int bus_flush(struct bus *b, int timeout_ms);

struct bus_stats {
    uint64_t in, out, dropped, too_large, connects, resent, refused;
};
const struct bus_stats *bus_stats(const struct bus *b);

/* Creates or updates the streams and durable consumers of proto/streams.def (launcher consumers for
 * `hosts`), idempotently, over a connection of its own; `admin` with admin = 1. What the server
 * echoes is compared, since old servers ignore what they do not know. A consumer whose filter
 * differs is an error: filters are never changed (nats-server 2.9 loses messages then). Blocking,
 * about 100 ms. ERR_TIMEOUT, ERR_IO, ERR_DENIED (permissions), ERR_WRONG_STATE (exists otherwise).
 */
int bus_provision(const struct bus_opts *admin, const char *const *hosts, size_t n_hosts,
                  struct err *e);

/* The durable consumers that a row of proto/streams.def stands for: one, or for a per_host row one
 * for each subject of the stream, named "<durable>-<last token of the subject>-<host>" and filtered
 * to the subject of that host. (A filter must lie within one subject of the stream and
 * nats-server 2.9 has one filter per consumer; so commands on different subjects may overtake each
 * other.) */
struct bus_durable {
    char name[128];
    char filter[192]; /* "" for none */
};
#define BUS_DURABLES_MAX 4
/* How many, or -1 when the host is no token or there are too many. */
int bus_durables(const struct consumer_info *c, const char *host,
                 struct bus_durable ret[BUS_DURABLES_MAX]);

#endif

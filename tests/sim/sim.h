/* The simulator: the services' own libraries in one process, around them a bus, a clock, a disk and
 * hosts that are made up, driven by one seed (docs/SIMULATOR.md).
 *
 *   sim_core.c     time, events, chance, trace, violations
 *   sim_random.c   what the code under test takes for randomness
 *   sim_bus.c      JetStream and core NATS
 *   sim_node.c     one service: engine, database, crashes
 *   sim_host.c     launchers' backends: CVMs that boot, hang, vanish
 *   sim_worker.c   the worker inside of a CVM, with made-up workloads
 *   sim_world.c    keys, trust, configuration and what the KBS holds: made once, used by all seeds
 *   sim_client.c   consumer, data owner, reviewer
 *   sim_attack.c   whoever else can publish
 *   sim_check.c    the invariants of DESIGN §6
 *   sim_main.c     options, processes, reports
 */
#ifndef COFFER_SIM_H
#define COFFER_SIM_H

#include <setjmp.h>

#include "common/engine.h"
#include "common/keyfile.h"
#include "common/log.h"
#include "common/spec.h"
#include "svc-launcher/launcher.h"

#define SIM_START_S INT64_C(1800000000)
#define SIM_HOSTS 2
#define SIM_JOBS 6
#define SIM_CVMS 256
#define SIM_NODES (4 + SIM_HOSTS)
#define SIM_MAX_MS (2 * 3600 * 1000) /* after the faults ended */
#define SIM_MAX_EVENTS 400000
#define ACK_WAIT_MS 30000
#define PUBACK_WAIT_MS 5000

/* Ends the program: the simulator itself is wrong. */
#define MUST(x)                                                                                    \
    do {                                                                                           \
        struct err must_e_ = {0};                                                                  \
        struct err *e = &must_e_;                                                                  \
        if (x) {                                                                                   \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #x, must_e_.msg);               \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

struct sim;
struct event;
struct node;
struct cvm_run;

/* ---- deliberate faults (--break), each of which an invariant must catch -----------------------
 */

#define SIM_BREAKS(X)                                                                              \
    X(NONE, "none", "nothing")                                                                     \
    X(OUTBOX, "outbox", "what was not acknowledged is never sent again")                           \
    X(RECENT, "recent", "a starting service sends only what was not acknowledged")                 \
    X(INBOX, "inbox", "services do not remember what they handled")                                \
    X(ACK_EARLY, "ack-early", "messages are acknowledged before they are handled")                 \
    X(FENCE, "fence", "facts about old attempts pass for facts about the latest")                  \
    X(RELEASE_TWICE, "release-twice", "the KBS forgets its releases when it crashes")              \
    X(TRUST, "trust", "a stranger's key is among the verifiers of trust.json")                     \
    X(HELD_LEAKS, "held-leaks", "the gate stores the output of a held result as released")         \
    X(UNDECIDED, "undecided", "the gate forgets its decisions")                                    \
    X(NO_DESTROY, "no-destroy", "hosts ignore orders to destroy a CVM")                            \
    X(AMNESIA, "amnesia", "a crash undoes the last committed transaction")                         \
    X(PLAIN_RESULT, "plain-result", "a worker sends its output in the clear")                      \
    X(KEY_IN_EVENT, "key-in-event", "a worker names a data key when it says why it ends")          \
    X(FOREIGN, "foreign", "a service publishes what is another's to say")                          \
    X(DEADLINES, "deadlines", "the scheduler's timers never fire")

#define X(id, name, what) BREAK_##id,
enum sim_break { SIM_BREAKS(X) BREAK_N };
#undef X
extern const char *const break_names[BREAK_N], *const break_texts[BREAK_N];

/* ---- what goes wrong, how often: chosen by the seed --------------------------------------------
 */

/* Per mille of the occasions. */
struct faults {
    unsigned crash;        /* a turn of a service */
    unsigned lose_core;    /* a core message */
    unsigned lose_publish; /* a publish that does not arrive at the server */
    unsigned lose_puback;
    unsigned lose_delivery;
    unsigned lose_ack;
    unsigned duplicate; /* a delivery or a stored message comes twice */
    unsigned reorder;   /* a delivery is late */
    unsigned launch;    /* a CVM does not start, hangs or dies */
    unsigned server;    /* restarts, per minute */
    unsigned jump;      /* clocks, per minute */
    unsigned attack;    /* per second */
    unsigned cut;       /* a service loses the bus for a while, per minute */
    unsigned power;     /* server and services lose power at once, per minute */
    unsigned disk;      /* a commit that fails */
    int64_t until_ms;   /* of the simulation */
};

/* ---- the bus ------------------------------------------------------------------------------------
 */

struct payload {
    int refs;
    size_t n;
    uint8_t p[];
};
struct payload *payload_new(struct bytes b);
struct payload *payload_ref(struct payload *p);
void payload_unref(struct payload *p);

/* One message on its way, owned by whoever holds it. */
struct wire {
    enum subject subject;
    char key[72];
    char msg_id[420];
    char reply_to[64];
    char traceparent[TRACEPARENT_LEN + 1];
    struct payload *payload;
};

/* A stored message and one consumer's view of it. */
struct delivery {
    struct wire wire; /* its own reference to the payload */
    struct node *to;
    uint32_t deliveries;
    unsigned token; /* of the one event that is under way */
    int acked;
    int64_t acked_ms, stored_ms;
};

struct stored {
    struct wire wire;
    int64_t at_ms;
};

struct js {
    struct stored *v;
    size_t n, size;
};

typedef void (*reply_fn)(struct sim *s, void *arg, const Coffer__V1__Reply *r);
struct request {
    reply_fn fn;
    void *arg;
    struct node *from; /* NULL: a client */
    unsigned epoch;
    int done;
};

/* What a service hands out. `outbox_id` 0: no PubAck. */
void bus_send(struct sim *s, struct node *from, const struct outgoing *o);
/* Anybody, without permissions; durable ones are stored, others reach who listens. */
void bus_inject(struct sim *s, const char *who, enum subject subject, const char *key,
                const char *msg_id, struct bytes payload, const char *reply_to);
/* A request by a client or (from) a worker. `fn` is called at most once, perhaps never. */
void bus_ask(struct sim *s, struct node *from, enum subject subject, const ProtobufCMessage *m,
             reply_fn fn, void *arg);
void bus_ack(struct sim *s, struct delivery *d);
void bus_nak(struct sim *s, struct delivery *d, int delay_ms);
void bus_restart(struct sim *s);
void bus_power_loss(struct sim *s); /* of the server: what it stored last is gone */
void bus_done(struct sim *s);
void bus_drop(const struct event *ev); /* frees what an event that never comes holds */
void host_drop(const struct event *ev);
/* A random stored message of that subject, NULL when there is none. */
const struct stored *bus_pick(struct sim *s, enum subject subject);

/* ---- nodes --------------------------------------------------------------------------------------
 */

struct inmsg {
    struct wire wire;
    struct delivery *delivery; /* NULL: core */
    uint32_t deliveries;
};

struct handled {
    uint64_t key; /* hash of subject, message id and payload */
    int64_t at_ms;
};

struct node {
    struct sim *sim;
    enum service id;
    char name[40];
    const char *host; /* launchers and workers */
    const struct service_def *def;
    const struct config *config;
    struct db *db;
    struct engine *engine; /* NULL: down */
    unsigned epoch;        /* +1 for each life */
    int64_t skew_ms;       /* its clock is ahead of the simulation's */
    int64_t cut_until_ms;  /* no bus until then */
    struct inmsg *in;
    size_t n_in, size_in;
    int turn_due;
    struct handled *handled; /* durable: committed[0..n_handled), then of this transaction */
    size_t n_handled, n_handling, size_handled;
    unsigned tick_token;
    int64_t tick_not_before_ms;
    unsigned spins;
    struct cvm_run *cvm; /* workers */
    struct db *before;   /* BREAK_AMNESIA: as it was before the last commit */
};

struct node *node_open(struct sim *s, enum service id, const char *name, const char *host,
                       const struct service_def *def, const struct config *config);
void node_start(struct node *n);
void node_crash(struct node *n, const char *when);
/* Takes the wire's payload reference. */
void node_deliver(struct node *n, struct inmsg *m);
/* A transaction of its own; its effects leave. -1 when it failed or crashed (nothing happened, or
 * the node is gone). */
int node_call(struct node *n, engine_call_fn fn, void *arg);
void node_published(struct node *n, unsigned epoch, int64_t outbox_id);
int node_hears(const struct node *n);
void node_free(struct node *n);
int64_t node_clock(void *node);

/* ---- hosts and workers --------------------------------------------------------------------------
 */

struct to_launcher;

struct cvm_run {
    struct sim *sim;
    struct node *launcher;
    char job[JOB_ID_LEN + 1];
    uint32_t attempt;
    char tee[32];
    char *spec_jws;
    int64_t deadline_ms;
    int alive;
    int go;                   /* its launcher has recorded it */
    int kept;                 /* its keeper is there */
    unsigned epoch;           /* of the launcher that the keeper is connected to */
    int64_t seq;              /* of what the keeper said last */
    struct to_launcher *held; /* what it said and no launcher has stored */
    int stray;                /* made by an attacker's message */
    struct node *worker;      /* NULL before it booted */
    struct worker_launch *launch;
    char thumbprint[JKEY_THUMBPRINT_LEN + 1];
    int told_phase;
};

void host_action(struct node *launcher, int kind, struct bytes data);
void host_started(struct node *launcher); /* after each start of its service */
void host_crashed(struct node *launcher);
void host_event(struct cvm_run *c, enum backend_event_kind kind, const char *detail,
                const Coffer__V1__Refusal *refusal, int exit_code);
void cvm_kill(struct cvm_run *c, const char *why); /* nothing of it is left; tells nobody */
void cvm_ended(struct cvm_run *c, int exit_code);  /* and its launcher notices */
void cvm_forget(struct cvm_run *c);                /* its keeper is gone, too */
size_t cvms_alive(const struct sim *s);

void worker_boot(struct cvm_run *c);
void worker_action(struct node *worker, int kind);
void worker_look(struct node *worker); /* after each transaction: phases, end */
const struct jkey *worker_public_key(const struct cvm_run *c); /* NULL: no worker */

/* ---- jobs
 * ------------------------------------------------------------------------------------------ */

enum workload { WL_OK, WL_FAIL, WL_VERBATIM, WL_NEVER, WL_BAD_TYPE, WL_N };
enum review_plan { REVIEW_NEVER, REVIEW_APPROVE, REVIEW_REJECT };

struct sim_job {
    struct sim *sim;
    size_t index;
    char job[JOB_ID_LEN + 1];
    char *jws;
    const struct jkey *consumer;
    enum workload workload;
    enum review_plan review;
    const char *plan;     /* readable */
    const char *expected; /* terminal state without faults; NULL: depends on time */
    int64_t submit_ms, cancel_ms, revoke_ms; /* 0: never */
    int64_t attempts;
    int accepted, refused; /* as its consumer was told */
    int cancelled;         /* was told so */
    int reviewed, review_tries, cancel_tries, revoked, fetched, fetch_tries;
    int64_t run_ms;

    /* what was seen, for the invariants */
    int64_t last_seq;
    char state[16];
    int terminal;
    int64_t terminal_attempt;
    int64_t max_attempt;     /* launched */
    int64_t decided_attempt; /* GATE_RELEASED: the latest, and all as bits */
    uint64_t released_attempts, held_attempts, rejected_attempts, failed_attempts;
    int64_t held_attempt;
    int64_t final_attempt, final_ms; /* the gate's last word on it, and when it was first said */
};

struct release_seen {
    char job[JOB_ID_LEN + 1];
    uint32_t attempt;
    char cnf[JKEY_THUMBPRINT_LEN + 1];
    uint8_t jwe_sha256[32];
};
struct verdict_seen {
    char job[JOB_ID_LEN + 1];
    uint32_t attempt;
    char cnf[JKEY_THUMBPRINT_LEN + 1], jti[32];
    int affirming;
    int64_t exp;
};

/* ---- one run
 * ---------------------------------------------------------------------------------------- */

typedef void (*event_fn_)(struct sim *s, void *arg, int64_t n);
struct event {
    int64_t at;
    uint64_t seq;
    event_fn_ fn;
    void *arg;
    int64_t n;
};

struct sim {
    uint64_t seed, rng, hash;
    enum sim_break brk;
    int trace;   /* print as it goes */
    int64_t now; /* ms since 1970 */
    struct event *heap;
    size_t n_heap, size_heap;
    uint64_t event_seq, events;
    struct faults f;
    int quiet; /* no faults at all: the outcomes are known */

    struct js streams[STREAM_N];
    struct delivery **deliveries;
    size_t n_deliveries, size_deliveries;
    struct request **requests;
    size_t n_requests, size_requests;

    struct node *scheduler, *verifier, *kbs, *gate, *hosts[SIM_HOSTS];
    struct node *workers[SIM_CVMS];
    struct cvm_run *cvms[SIM_CVMS];
    size_t n_workers, n_cvms;
    struct sim_job jobs[SIM_JOBS];
    size_t n_jobs;

    struct release_seen *releases;
    struct verdict_seen *verdicts;
    size_t n_releases, size_releases, n_verdicts, size_verdicts;

    char *lines[400]; /* the trace's tail */
    size_t n_lines;
    int64_t settled_ms; /* since when all is over; 0: it is not */
    char violation[1024];
    jmp_buf stop;
    uint64_t counts[16];
};

/* Known to --stats. */
enum sim_count {
    COUNT_MESSAGES,
    COUNT_CRASHES,
    COUNT_ATTEMPTS,
    COUNT_RELEASES,
    COUNT_ATTACKS,
    COUNT_DEAD,
    COUNT_RELEASED,
    COUNT_HELD,
    COUNT_OTHER_END,
    COUNT_JOBS,
    COUNT_OPENED,
    COUNT_STALE,
    COUNT_DISK,
    COUNT_N
};
extern const char *const count_names[COUNT_N];

/* One seed from start to end; 0, or -1 with s->violation. */
int sim_run(struct sim *s);
void sim_free(struct sim *s);

void sim_at(struct sim *s, int64_t at, event_fn_ fn, void *arg, int64_t n);
static inline void sim_in(struct sim *s, int64_t ms, event_fn_ fn, void *arg, int64_t n)
{
    sim_at(s, s->now + ms, fn, arg, n);
}
uint64_t sim_random(struct sim *s, uint64_t below); /* 0 when below is 0 */
int64_t sim_between(struct sim *s, int64_t from, int64_t to);
int sim_chance(struct sim *s, unsigned per_mille); /* never after the faults ended */
int sim_faulty(const struct sim *s);
void sim_trace(struct sim *s, const char *who, const char *fmt, ...) _printf_(3, 4);
/* Does not return. */
void sim_fail(struct sim *s, const char *fmt, ...) _printf_(2, 3) __attribute__((noreturn));

/* ---- sim_random.c
 * ----------------------------------------------------------------------------------- */

/* From here on getrandom and OpenSSL draw from this seed: a run replays to the byte. */
void random_install(void);
void random_seed(uint64_t seed);

/* ---- sim_world.c
 * ------------------------------------------------------------------------------------- */

enum sim_dataset { DS_GOOD, DS_EXPIRING, DS_REVOKED, DS_HARDWARE, DS_UNKNOWN, DS_N };

struct sim_world {
    char dir[128];
    struct jkey *consumer, *other_consumer, *owner, *reviewer, *attacker;
    struct jkey *verifier, *kbs_sign, *kbs_seal, *gate, *gate_seal;
    char dataset[DS_N][128];
    struct secret *key[DS_N];
    char grant[DS_N][32];
    char image_key[128];
    struct secret *image_secret;
    struct buf plain; /* of every dataset */
    struct config *config[SVC_N], *host_config[SIM_HOSTS], *broken_config[SVC_N];
    struct db *template[SVC_N];
};
extern struct sim_world world;
void world_make(void);
void world_done(void);
struct db *world_db(enum service id); /* a fresh copy of the template */
char *world_sign(json_t *payload /* taken over */, const struct jkey *by, const char *typ);
extern const char world_output[]; /* what a good workload writes */
extern const char *const host_names[SIM_HOSTS];

/* ---- sim_client.c, sim_attack.c
 * ------------------------------------------------------------------------ */

void client_plan(struct sim *s);
void client_saw_decision(struct sim *s, const Coffer__V1__GateDecision *d);
struct sim_job *sim_job_find(struct sim *s, const char *job);
void attack_start(struct sim *s);

/* ---- sim_check.c
 * ------------------------------------------------------------------------------------------ */

void check_make(void); /* the canaries, once */
/* Everything that leaves a service, before the bus can lose it. */
void check_out(struct node *n, const struct outgoing *o);
/* Whether bytes hold a canary; its name or NULL. */
const char *check_canary(struct bytes b);
void check_commit(struct node *n);
void check_wire(struct sim *s, const char *who, const struct wire *w);
/* Of every row of every table. */
uint64_t check_dump(struct node *n);
void check_release_used(struct cvm_run *c, const struct secret *release, int *ret_genuine);
int check_settled(struct sim *s);
void check_end(struct sim *s);

#endif

/* svc-scheduler: takes jobs, places them on hosts, and drives each through its states.
 *
 * It is trusted for availability only. Nothing here decides who sees a key or an output: the state
 * of a job says how far it came, and what proves it is in the signed verdict, release and decision.
 *
 * Parts: handlers.c (messages), query.c (questions), timers.c (what is due), job_state.c (the
 * states' table and the only writer of a state), place.c (which host), store.c and store_host.c
 * (all SQL). */
#ifndef COFFER_SCHEDULER_H
#define COFFER_SCHEDULER_H

#include "common/engine.h"
#include "common/spec.h"

extern const struct service_def scheduler_service;

#define CANCEL_JWS_TYP "coffer-cancel+jws"
#define HOST_NAME_MAX_BYTES 64
#define HOST_MAX_BACKENDS 16
#define HOST_MAX_SLOTS 4096
#define BACKEND_NAME_MAX_BYTES 32
#define TYPES_MAX_BYTES 256

/* ---- states (docs/PROTOCOL.md "Job states") -------------------------------------------------- */

/* In the order of a run; from RELEASED on a state is terminal. Values are stored: append only, and
 * the queue's indexes name QUEUED as 0. */
#define JOB_STATES(X)                                                                              \
    X(QUEUED, "queued")                                                                            \
    X(LAUNCHING, "launching")                                                                      \
    X(BOOTED, "booted")                                                                            \
    X(ATTESTED, "attested")                                                                        \
    X(RUNNING, "running")                                                                          \
    X(HELD, "held")                                                                                \
    X(RELEASED, "released")                                                                        \
    X(REJECTED, "rejected")                                                                        \
    X(FAILED, "failed")                                                                            \
    X(REFUSED, "refused")                                                                          \
    X(TIMED_OUT, "timed-out")                                                                      \
    X(CANCELLED, "cancelled")

#define X(id, name) JOB_##id,
enum job_state { JOB_STATES(X) JOB_STATE_N };
#undef X

/* What can happen to a job: facts about its latest attempt, and what is due or asked for. */
#define JOB_CAUSES(X)                                                                              \
    X(PLACED) /* LaunchCvm goes out */                                                             \
    X(BOOTED)                                                                                      \
    X(VERDICT) /* with an EAR */                                                                   \
    X(VERDICT_REFUSED)                                                                             \
    X(KEYS) /* a release with a JWE */                                                             \
    X(KEYS_REFUSED)                                                                                \
    X(RESULT_SENT) /* the worker ended after it had sent its manifest */                           \
    X(GATE_RELEASED)                                                                               \
    X(GATE_HELD)                                                                                   \
    X(GATE_REJECTED)                                                                               \
    X(GATE_FAILED)                                                                                 \
    X(LAUNCH_FAILED)                                                                               \
    X(EXITED) /* without a result */                                                               \
    X(LOST)   /* the CVM or its host */                                                            \
    X(DEADLINE)                                                                                    \
    X(CANCEL)

#define X(id) CAUSE_##id,
enum job_cause { JOB_CAUSES(X) CAUSE_N };
#undef X

/* Entries of the table: nothing happens; another attempt, or FAILED when there is none left; a
 * state. */
#define NEXT_STAY 0
#define NEXT_RETRY 1
#define NEXT_TO(state) ((uint8_t)((state) + 2))

/* "queued", ...; -1 when unknown. */
const char *job_state_name(enum job_state s);
int job_state_parse(const char *name, enum job_state *ret);
int job_state_terminal(enum job_state s);
/* The table: NEXT_STAY, NEXT_RETRY or NEXT_TO(state). */
uint8_t job_next(enum job_state s, enum job_cause c);

/* Why something happened, with every text bounded and printable: refusals come from others. */
struct reason {
    char code[32], clause[128], expected[256], actual[256], message[512], by[32];
};
void reason_from_err(struct reason *ret, const struct err *why);
void reason_from_refusal(struct reason *ret, const Coffer__V1__Refusal *r);
/* Borrows from `why`. */
void reason_fill(Coffer__V1__Refusal *ret, const struct reason *why);
/* Copies what fits; bytes other than printable ASCII become '?'. */
void text_clean(char *out, size_t size, const char *in);

struct job {
    int64_t id; /* order of arrival */
    char job[JOB_ID_LEN + 1];
    char digest[65];
    char name[129];
    char consumer[JKEY_THUMBPRINT_LEN + 1];
    char image[80];
    enum job_state state;
    int64_t attempt, attempts; /* latest (0: none yet), most */
    int64_t host_id;           /* of the latest attempt */
    char host[HOST_NAME_MAX_BYTES + 1];
    char backend[BACKEND_NAME_MAX_BYTES + 1];
    int downgraded;
    int64_t created_ms, updated_ms, queued_ms;
    int64_t last_seq;
    int64_t deadline_ms; /* of the state it is in; 0: none */
    enum tee_mode tee_mode;
    char tee_types[TYPES_MAX_BYTES]; /* separated by spaces */
    int64_t cpu_millis, memory_bytes, timeout_ms;
    int64_t shape; /* see place.c */
    int has_reason;
    struct reason reason;
};

/* One attempt's CVM, as the scheduler knows it. It holds its host's resources while live. */
struct attempt {
    int exists;
    int live; /* not known to be gone */
    int done; /* its worker ended after sending a result */
    int64_t host_id;
    char host[HOST_NAME_MAX_BYTES + 1];
    int64_t cpu_millis, memory_bytes;
    int64_t phases;      /* bits of the phases already in the job's events */
    int64_t destroy_n;   /* DestroyCvm messages sent */
    int64_t deadline_ms; /* the launcher destroys it then by itself */
};

struct placement {
    int64_t host_id;
    char host[HOST_NAME_MAX_BYTES + 1];
    char backend[BACKEND_NAME_MAX_BYTES + 1];
    int downgraded;
};

/* What goes with a cause. */
struct happening {
    enum job_cause cause;
    const struct reason *reason;       /* NULL: none */
    const char *detail;                /* NULL: none */
    const struct placement *placement; /* CAUSE_PLACED only */
};

/* Stores a new job as QUEUED with its first event. The only other writer of states is
 * job_transition. `j->id` is set. */
int job_create(struct svc *s, struct effects *fx, struct job *j, const char *spec_jws,
               struct err *e);
/* Applies a cause to the latest attempt of a job: the table, the row, one event for every state
 * passed, LaunchCvm when placed, DestroyCvm when the attempt is given up or no longer needed. A
 * cause that the table ignores in this state changes nothing and is not an error. `j` is updated.
 */
int job_transition(struct svc *s, struct effects *fx, struct job *j, const struct happening *h,
                   struct err *e);
/* An event without a change of state (a phase of the worker). Not in terminal states: ERR_INTERNAL.
 * `deadline_ms`, when not 0, is the state's new deadline. */
int job_note(struct svc *s, struct effects *fx, struct job *j, const char *detail,
             int64_t deadline_ms, struct err *e);
/* Sends DestroyCvm number n for an attempt and plans the next one. */
int attempt_destroy(struct svc *s, struct effects *fx, int64_t job_id, const char *job,
                    int64_t attempt, const char *host, int64_t n, const char *why, struct err *e);

/* ---- placement ------------------------------------------------------------------------------- */

struct host_backend {
    char name[BACKEND_NAME_MAX_BYTES + 1], tee[BACKEND_NAME_MAX_BYTES + 1];
};

struct host {
    int64_t id;
    char name[HOST_NAME_MAX_BYTES + 1];
    int64_t slots, cpu_millis, memory_bytes; /* what it has */
    int64_t used_slots, used_cpu_millis, used_memory_bytes;
    int64_t seen_ms;
    int reserved; /* this pass: kept for an older, larger job */
    int changed;  /* this pass: its use must be written */
    size_t n_backends;
    struct host_backend backends[HOST_MAX_BACKENDS]; /* available ones only */
};

struct host_list {
    struct host *v;
    size_t n, size;
};
void host_list_done(struct host_list *l);

/* Jobs that need the same are one shape: mode, types, and sizes to the power of two above. When the
 * oldest of a shape has no place, the others wait behind it. */
int64_t place_shape(enum tee_mode mode, const char *types, int64_t cpu_millis,
                    int64_t memory_bytes);
/* Picks a host and backend for a job (docs/PROTOCOL.md "Placement"). 0, or -1 with the reason why
 * there is none now: ERR_BUSY when it fits a host once that is free, ERR_UNSUPPORTED when none is.
 */
int place_pick(struct host_list *hosts, const struct job *j, int64_t waited_ms,
               int64_t prefer_wait_ms, struct placement *ret, struct host **ret_host,
               struct err *why);
/* Serves the queue, oldest first, at most PLACE_MAX_JOBS; 1 when more could be placed at once. */
#define PLACE_MAX_JOBS 512
int place_queue(struct svc *s, struct effects *fx, struct err *e);
/* Why this job has not been placed, for its time-out. */
int place_explain(struct svc *s, const struct job *j, struct err *ret_why, struct err *e);

/* ---- handlers' parts ------------------------------------------------------------------------- */

/* What is not in the database: it can be lost at any time. */
struct scheduler {
    int dirty;              /* the queue or the capacity changed since the last placement */
    int64_t queued_at_most; /* -1: unknown */
    int64_t counted_ms;     /* when it was counted */
    int64_t shape_cursor;   /* where the next pass starts when there are very many shapes */
    int64_t next_scan_ms;
};

int scheduler_query(struct svc *s, const struct msg *m, struct effects *fx, struct err *e);
int scheduler_tick(struct svc *s, struct effects *fx, struct err *e);
int64_t scheduler_next_tick_ms(struct svc *s);
int scheduler_resume(struct svc *s, struct effects *fx, struct err *e);

/* ---- store ----------------------------------------------------------------------------------- */

#define SCHEDULER_N_MIGRATIONS 1
extern const char *const scheduler_migrations[SCHEDULER_N_MIGRATIONS];

/* Lookups return 1 when found, 0 when not, -1 on error. `ret_attempt` may be NULL; with it, the row
 * of attempt `attempt` comes along (exists = 0 when there is none). */
int store_job(struct db *db, const char *job, int64_t attempt, struct job *ret,
              struct attempt *ret_attempt, struct err *e);
int store_job_by_id(struct db *db, int64_t id, struct job *ret, struct err *e);
int store_job_add(struct db *db, struct job *j, const char *spec_jws, struct err *e);
int store_job_update(struct db *db, const struct job *j, struct err *e);
/* Owned by the caller; "" once the job is over. */
int store_spec(struct db *db, int64_t id, char **ret, struct err *e);
int store_spec_drop(struct db *db, int64_t id, struct err *e);
int store_event_add(struct db *db, int64_t id, int64_t seq, struct bytes packed, struct err *e);
/* Calls `fn` with packed events from `seq` on until it returns non-zero. */
typedef int (*event_fn)(void *arg, struct bytes packed);
int store_events(struct db *db, int64_t id, int64_t seq, int64_t limit, event_fn fn, void *arg,
                 struct err *e);
/* Newest first; state < 0 and consumer "" mean all. */
typedef int (*job_fn)(void *arg, const struct job *j);
int store_list(struct db *db, int state, const char *consumer, int64_t limit, job_fn fn, void *arg,
               struct err *e);
int store_count_queued(struct db *db, int64_t at_most, int64_t *ret, struct err *e);
/* The oldest queued job of the first shape > after; 1, 0, -1. */
int store_next_shape(struct db *db, int64_t after, int64_t *ret_shape, int64_t *ret_id,
                     struct err *e);
int store_oldest_of_shape(struct db *db, int64_t shape, int64_t after_id, int64_t *ret_id,
                          struct err *e);
int store_any_queued(struct db *db, int *ret, struct err *e);

int store_attempt_add(struct db *db, const struct job *j, int64_t deadline_ms, struct err *e);
int store_attempt_done(struct db *db, int64_t job_id, int64_t attempt, struct err *e);
int store_attempt_phases(struct db *db, int64_t job_id, int64_t attempt, int64_t phases,
                         struct err *e);
int store_attempt_destroy(struct db *db, int64_t job_id, int64_t attempt, int64_t n,
                          int64_t next_ms, int *ret_live, struct err *e);
/* Frees what the attempt held. A second call changes nothing. */
int store_attempt_gone(struct db *db, int64_t job_id, int64_t attempt, const struct attempt *a,
                       int64_t now_ms, struct err *e);

struct due_attempt {
    int64_t job_id, attempt;
    char job[JOB_ID_LEN + 1];
    char why[64];
    struct attempt a;
    int host_alive;
    int64_t host_seen_ms;
};
/* At most `max` ids; the number found, or -1. */
int store_due_jobs(struct db *db, int64_t now_ms, int64_t *ret, size_t max, struct err *e);
int store_due_destroys(struct db *db, int64_t now_ms, struct due_attempt *ret, size_t max,
                       struct err *e);
int store_host_attempts(struct db *db, int64_t host_id, struct due_attempt *ret, size_t max,
                        struct err *e);
int store_min_deadline(struct db *db, int64_t *ret_ms, struct err *e);
int store_min_destroy(struct db *db, int64_t *ret_ms, struct err *e);
int store_min_seen(struct db *db, int64_t *ret_ms, struct err *e);
/* Nothing that was due while the scheduler was down may be judged before its facts are read. */
int store_grace(struct db *db, int64_t until_ms, int64_t seen_ms, struct err *e);

/* From a report: adds or updates the host. `ret_back`: it was not alive before. */
int store_host_report(struct db *db, const Coffer__V1__HostReport *r, struct bytes packed,
                      int64_t now_ms, int64_t max_hosts, int64_t *ret_id, int *ret_back,
                      struct err *e);
int store_host_set_dead(struct db *db, int64_t host_id, struct err *e);
int store_host_hurry(struct db *db, int64_t host_id, int64_t now_ms, struct err *e);
int store_host_use(struct db *db, const struct host *h, struct err *e);
int store_hosts_alive(struct db *db, struct host_list *ret, struct err *e);
/* Ids of alive hosts not seen since `before_ms`; the number, or -1. */
int store_hosts_silent(struct db *db, int64_t before_ms, int64_t *ret, size_t max, struct err *e);
int store_hosts_forget(struct db *db, int64_t before_ms, struct err *e);
typedef int (*host_fn)(void *arg, struct bytes report, int64_t seen_ms, int alive, int64_t placed);
int store_hosts(struct db *db, host_fn fn, void *arg, struct err *e);

#endif

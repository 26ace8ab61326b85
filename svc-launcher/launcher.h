/* svc-launcher, one per host: reports what the host can do, and launches, watches and destroys CVMs
 * through a table of backends.
 *
 * The handlers (handlers.c, run_state.c, store.c) are pure: they turn LaunchCvm and DestroyCvm into
 * rows and actions, and what a backend tells into CvmEvents. supervisor.c, run.c and adopt.c do the
 * actions with real processes; the simulator plays that part with made-up ones. */
#ifndef COFFER_LAUNCHER_H
#define COFFER_LAUNCHER_H

#include "common/engine.h"
#include "common/spec.h"

extern const struct service_def launcher_service;

#define LAUNCHER_MAX_BACKENDS 8
#define LAUNCHER_NAME_MAX_BYTES 32

/* ---- actions, for who plays the backend ------------------------------------------------------ */

enum launcher_action {
    LAUNCHER_ACT_LAUNCH,  /* data: packed LaunchCvm */
    LAUNCHER_ACT_DESTROY, /* data: packed DestroyCvm; may come again, and for a CVM of an earlier
                             life of the launcher: see launcher_cvm */
    LAUNCHER_ACT_ADOPT, /* data: packed DestroyCvm, of a CVM of an earlier life of the launcher: go
                           on with it, or tell BACKEND_LOST */
};

enum backend_event_kind {
    BACKEND_STARTED, /* a process exists: pid, pid_start, boot_id */
    BACKEND_BOOTED,  /* the worker runs */
    BACKEND_PHASE,   /* detail */
    BACKEND_REFUSED, /* refusal: why the worker will end without a result */
    BACKEND_DONE,    /* the worker sent its result */
    BACKEND_FAILED,  /* it could not be launched and nothing of it is left; refusal says why */
    BACKEND_GONE,    /* it ended, and nothing of it is left; exit_code */
    BACKEND_LOST, /* nothing of it is left, and how it ended is not known, or was that no launcher
                     was there; exit_code */
};

struct backend_event {
    enum backend_event_kind kind;
    const char *job;
    uint32_t attempt;
    /* Numbers what one CVM tells: what is not above the highest stored changes nothing. 0: none. */
    int64_t seq;
    const char *detail;
    const Coffer__V1__Refusal *refusal;
    int exit_code; /* 0-255, or 128 + signal */
    int64_t pid, pid_start;
    const char *boot_id;
};

/* An engine_call_fn; `arg` is a struct backend_event. Events of a CVM that is not known, or is
 * gone, change nothing. */
int launcher_on_backend_event(struct svc *s, void *arg, struct effects *fx, struct err *e);

/* What the host offers now, as probed: the next reports say so, and launches are checked against
 * it. Before the first call no backend is available. */
struct host_backend_facts {
    char name[LAUNCHER_NAME_MAX_BYTES + 1], tee[LAUNCHER_NAME_MAX_BYTES + 1];
    int available;
    char why[256]; /* when not; else what is worth knowing, or "" */
};
struct host_facts {
    uint32_t cpu_millis;
    uint64_t memory_bytes;
    uint32_t slots;
    size_t n_backends;
    struct host_backend_facts backends[LAUNCHER_MAX_BACKENDS];
};
void launcher_set_facts(struct svc *s, const struct host_facts *f);
/* NULL when the host has no backend of that name. */
const struct host_backend_facts *launcher_backend(struct svc *s, const char *name);

/* Everything that is not gone is stopped as lost, in an orderly end of the launcher. An
 * engine_call_fn without `arg`. */
int launcher_stop_all(struct svc *s, void *arg, struct effects *fx, struct err *e);

/* ---- a CVM's states -------------------------------------------------------------------------- */

#define CVM_STATES(X)                                                                              \
    X(STARTING, "starting")                                                                        \
    X(RUNNING, "running")                                                                          \
    X(STOPPING, "stopping")                                                                        \
    X(GONE, "gone")

#define X(id, name) CVM_##id,
enum cvm_state { CVM_STATES(X) CVM_STATE_N };
#undef X

enum cvm_cause {
    RUN_BOOTED,
    RUN_STOP,   /* DestroyCvm, the deadline, or an orderly end of the launcher */
    RUN_FAILED, /* never ran, nothing is left */
    RUN_ENDED,  /* nothing is left */
    RUN_CAUSE_N
};

enum stop_why { STOP_NONE, STOP_ASKED, STOP_DEADLINE, STOP_LOST };

/* A process: with the host's boot it is named for ever. */
struct cvm_process {
    int64_t pid, pid_start;
    char boot_id[64];
};

struct cvm {
    int64_t id;
    char job[JOB_ID_LEN + 1];
    uint32_t attempt;
    char backend[LAUNCHER_NAME_MAX_BYTES + 1];
    enum cvm_state state;
    enum stop_why stop;
    int booted, done;
    int64_t deadline_ms;
    int64_t due_ms;   /* when the tick must look at it again; 0: never */
    int64_t n_events; /* CvmEvents sent */
    int64_t n_phases;
    int64_t seq;                /* of the last event of the backend */
    struct cvm_process process; /* its keeper; pid 0: none was recorded */
    int has_reason;
    char code[32], clause[128], expected[256], actual[256], message[512], by[32];
};

/* 1 and the CVM as it is recorded, if it is not gone; 0; -1. */
int launcher_cvm(struct svc *s, const char *job, uint32_t attempt, struct cvm *ret, struct err *e);

const char *cvm_state_name(enum cvm_state s);
/* The table: the next state, or the same one when the cause changes nothing. */
enum cvm_state cvm_next(enum cvm_state s, enum cvm_cause c);
/* The only writer of a CVM's state: the row, the CvmEvents, LAUNCHER_ACT_DESTROY when it stops.
 * `why` is for RUN_STOP, `exit_code` for RUN_ENDED. */
int cvm_transition(struct svc *s, struct effects *fx, struct cvm *c, enum cvm_cause cause,
                   enum stop_why why, int exit_code, struct err *e);
/* A CvmEvent without a change of state; counts in the row. */
int cvm_tell(struct svc *s, struct effects *fx, struct cvm *c, Coffer__V1__CvmEventKind kind,
             const char *detail, int exit_code, struct err *e);
/* Asks the backend to destroy it, now and again until it is gone. */
int cvm_destroy_again(struct svc *s, struct effects *fx, struct cvm *c, struct err *e);
/* Asks the backend to go on with it. */
void cvm_adopt(struct effects *fx, const struct cvm *c);
void cvm_set_reason(struct cvm *c, const Coffer__V1__Refusal *r);
void cvm_set_reason_err(struct cvm *c, const struct err *why);

/* ---- what is not in the database ------------------------------------------------------------- */

struct launcher {
    struct host_facts facts;
    char boot[32]; /* of the launcher, not of the host */
    int64_t next_report_ms;
    int64_t next_prune_ms;
};

/* ---- store ----------------------------------------------------------------------------------- */

#define LAUNCHER_N_MIGRATIONS 2
extern const char *const launcher_migrations[LAUNCHER_N_MIGRATIONS];

/* 1 found, 0 not, -1 error. */
int store_cvm(struct db *db, const char *job, uint32_t attempt, struct cvm *ret, struct err *e);
int store_cvm_add(struct db *db, struct cvm *c, int64_t now_ms, struct err *e);
int store_cvm_update(struct db *db, const struct cvm *c, int64_t now_ms, struct err *e);
/* The highest attempt of a job seen on this host; 0 when none. */
int store_cvm_latest(struct db *db, const char *job, int64_t *ret, struct err *e);
int store_cvm_count_live(struct db *db, int64_t *ret, struct err *e);
/* At most `max` rows; the number, or -1. */
int store_cvms_of_job(struct db *db, const char *job, uint32_t below, struct cvm *ret, size_t max,
                      struct err *e);
int store_cvms_live(struct db *db, int64_t after_id, struct cvm *ret, size_t max, struct err *e);
int store_cvms_due(struct db *db, int64_t now_ms, struct cvm *ret, size_t max, struct err *e);
int store_cvm_min_due(struct db *db, int64_t *ret, struct err *e);
int store_cvm_prune(struct db *db, int64_t before_ms, struct err *e);

#endif

/* Shared by the parts of the supervisor: supervisor.c does the actions, starts and stops; run.c
 * watches a keeper; adopt.c finds those of an earlier life of the launcher. */
#ifndef COFFER_LAUNCHER_SUPERVISOR_INT_H
#define COFFER_LAUNCHER_SUPERVISOR_INT_H

#include <ev.h>

#include "svc-launcher/link.h"
#include "svc-launcher/supervisor.h"

/* A CVM with a keeper, or what there is of one. */
struct run {
    struct run *next;
    struct supervisor *sup;
    char job[JOB_ID_LEN + 1];
    uint32_t attempt;
    const struct backend *backend; /* NULL: it was never started */
    struct cvm_handle h;
    ev_io link, pidfd;
    ev_child child;
    ev_timer again; /* what could not be stored */
    ev_timer stays; /* a keeper that does not answer, or does not end */
    int own;        /* the keeper is a child of this process */
    int greeted;
    int over;    /* the keeper is gone */
    int ended;   /* how it ended is known: end, end_seq */
    int told;    /* ... and stored */
    int unknown; /* the database knows nothing of it, so that nobody is told */
    enum backend_event_kind end_kind;
    int exit_code;
    uint64_t end_seq;
    uint64_t seen, told_seq; /* the last message that was dealt with, and the last stored */
    struct buf held;         /* a message that could not be stored */
    ev_tstamp phase_told;
    ev_timer phase_timer;
    char phase[sizeof(((struct lifecycle *)0)->phase)]; /* not told yet; "" when there is none */
    uint64_t phase_seq;
};

struct supervisor {
    struct shell *sh;
    struct run *runs;
    struct backend_env env;
    char cvm_dir[1024], keeper[32], tpm_ca[1024], swtpm_setup[1024];
    struct host_facts facts;
    ev_timer probe;
    int inhabited; /* there were processes of CVMs at the start */
};

/* ---- run.c ----------------------------------------------------------------------------------- */

struct run *run_new(struct supervisor *sup, const char *job, uint32_t attempt);
void run_free(struct run *r);
struct run *run_find(struct supervisor *sup, const char *job, uint32_t attempt);
void run_work_dir(const struct run *r, char *out, size_t size);
/* One event for the service. -1: it could not be stored (logged). */
int run_tell(struct run *r, struct backend_event *ev);
/* Begins to watch the keeper in r->h: a child, or by its pidfd alone. */
void run_watch(struct run *r);
/* Nothing is left of it: tells the service, again and again if need be, and forgets it once the
 * keeper is gone, too. */
void run_finish(struct run *r, enum backend_event_kind kind, int exit_code);
/* The keeper is to end; it is killed if it does not. `sig`: SIGTERM or KEEPER_SIGNAL_FORGET. */
void run_end_keeper(struct run *r, int sig);
/* Of what has no keeper any more: its processes, and its work directory and socket. */
void run_end_inhabitants(struct run *r);
void run_remove_files(struct run *r);

/* ---- adopt.c --------------------------------------------------------------------------------- */

/* Goes on with a CVM of an earlier life of the launcher, or ends what there is of it: then it is
 * lost. */
void adopt(struct supervisor *sup, const char *job, uint32_t attempt);
/* Ends what lies in the directory of CVMs without being known as live. */
void adopt_sweep(struct supervisor *sup);

#endif

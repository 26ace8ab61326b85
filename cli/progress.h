/* Progress: of a job as lines, and of long work on a file as one line that is rewritten. */
#ifndef COFFER_CLI_PROGRESS_H
#define COFFER_CLI_PROGRESS_H

#include "common/buf.h"
#include "proto/subjects.h"

/* A job's events in order, without repeats. Pure. */
struct progress {
    uint64_t next_seq; /* 1 at first: set by progress_init */
    int64_t start_ms, last_ms;
    char state[32];
    char last_phase[64];
    uint32_t attempt;
    int terminal; /* also for "held": nothing more comes by itself */
    int missing;  /* an event came whose predecessors have not */
    int downgraded;
    int color;
};
void progress_init(struct progress *p, int color);
/* Takes one event; appends the line(s) to show, if any. An event that was taken before gives none;
 * one that is too early sets `missing`, and is to be given again after those before it. */
void progress_event(struct progress *p, const Coffer__V1__JobEvent *ev, struct buf *out);

/* Shows on stderr how large the file has become, from 2 s on, when stderr is a terminal. `total` 0:
 * unknown. NULL when it shows nothing. */
struct meter;
struct meter *meter_start(int fd, uint64_t total_bytes);
void meter_stop(struct meter *m);

#endif

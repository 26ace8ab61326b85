/* What goes through the pipeline: a dataset with a grant, an image key, and jobs that use both. */
#ifndef COFFER_BENCH_WORK_H
#define COFFER_BENCH_WORK_H

#include "bench/bench.h"
#include "common/bus.h"
#include "common/spec.h"

struct work {
    struct jkey *consumer, *owner;
    char dataset[96 + 8], image_key[96 + 8];
};

struct job_ticket {
    char job[JOB_ID_LEN + 1];
    char *spec_jws;
    double sent_s, decided_s, ended_s; /* 0: not yet */
};

/* Seals a dataset into the stack's store and gives keys and a grant to the KBS. */
void work_prepare(struct work *w, const struct stack *s, struct bus *client);
/* Makes and signs `n` specs. */
struct job_ticket *work_sign(const struct work *w, size_t n);
void work_tickets_free(struct job_ticket *t, size_t n);
void work_done(struct work *w);

#endif

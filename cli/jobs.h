/* What the verbs about jobs share. */
#ifndef COFFER_CLI_JOBS_H
#define COFFER_CLI_JOBS_H

#include "cli/client.h"

/* Reads and checks a job's YAML, filling imageKeys from the image in the store when it has none,
 * and saying so. The recipient "self" is `self`, which may be NULL for checks that need no key. */
int job_spec_read(struct cli *c, const char *path, const struct jkey *self, struct spec **ret,
                  struct err *e);
/* Sends a signed spec. A Refusal is an error. `*ret_duplicate`: it was accepted before. */
int job_submit(struct cli *c, const struct spec *s, const struct jkey *consumer, int *ret_duplicate,
               struct err *e);
/* One page of events from `from_seq` on. */
int job_events_from(struct cli *c, const char *job, uint64_t from_seq, Coffer__V1__Reply **ret,
                    struct err *e);

/* Follows a job from its first event on: lines to the error stream (none with --json) or, as
 * `events` does, through `fn`. Ends when the job is over or held, after timeout_ms (0: never), or
 * at SIGINT or SIGTERM. */
enum follow_end { FOLLOW_OVER, FOLLOW_TIMEOUT, FOLLOW_DETACHED };
struct follow {
    const char *job;
    int64_t timeout_ms;
    int past_hold; /* a held job is followed until it is reviewed */
    void (*on_event)(const Coffer__V1__JobEvent *ev, void *arg);
    void *arg;
    /* out: */
    char state[32];
    int downgraded;
    json_t *reason; /* owned; the last event's, or NULL */
};
/* Must be called before what may cause events, so that none is missed. */
int follow_prepare(struct cli *c, const char *job, struct err *e);
int follow_run(struct cli *c, struct follow *f, enum follow_end *ret, struct err *e);

/* JSON of what came; new references. */
json_t *json_of_status(const Coffer__V1__JobStatus *s);
json_t *json_of_event(const Coffer__V1__JobEvent *ev);
json_t *json_of_refusal(const Coffer__V1__Refusal *r); /* null for NULL */
json_t *json_of_held(const Coffer__V1__HeldResult *h);

/* Shows a refusal's clause, expected, actual and message, indented. */
void say_refusal(struct cli *c, const Coffer__V1__Refusal *r);

/* The gate's view of a result: decided or held; NULL when it has none to show. Free *ret_reply. */
const Coffer__V1__HeldResult *gate_view(struct cli *c, const char *job,
                                        Coffer__V1__Reply **ret_reply);
const char *outcome_text(Coffer__V1__GateOutcome o);
void say_gate_view(struct cli *c, const Coffer__V1__HeldResult *h);

#endif

#include "svc-worker/worker.h"

#define NO (-1)

/* Rows: from. Columns: event. NO: refused. */
static const signed char next_state[EX_N][XV_N] = {
    /*                 CHALLENGE      EVIDENCE      KEYS      RUN         OUTCOME     PUBLISHED
       REFUSE */
    [EX_NEW] = {EX_CHALLENGED, NO, NO, NO, NO, NO, EX_REFUSED},
    [EX_CHALLENGED] = {NO, EX_SUBMITTED, NO, NO, NO, NO, EX_REFUSED},
    [EX_SUBMITTED] = {NO, NO, EX_KEYED, NO, NO, NO, EX_REFUSED},
    [EX_KEYED] = {NO, NO, NO, EX_RUNNING, EX_SEALING, NO, EX_REFUSED},
    [EX_RUNNING] = {NO, NO, NO, NO, EX_SEALING, NO, NO},
    [EX_SEALING] = {NO, NO, NO, NO, NO, EX_DONE, NO},
    [EX_DONE] = {NO, NO, NO, NO, NO, NO, NO},
    [EX_REFUSED] = {NO, NO, NO, NO, NO, NO, NO},
};

static const char *const event_needs[XV_N] = {
    [XV_CHALLENGE] = "new",         [XV_EVIDENCE] = "challenged",
    [XV_KEYS] = "submitted",        [XV_RUN] = "keyed",
    [XV_OUTCOME] = "running",       [XV_PUBLISHED] = "sealing",
    [XV_REFUSE] = "before the run",
};

const char *exec_state_name(enum exec_state st)
{
    static const char *const names[EX_N] = {
        [EX_NEW] = "new",     [EX_CHALLENGED] = "challenged", [EX_SUBMITTED] = "submitted",
        [EX_KEYED] = "keyed", [EX_RUNNING] = "running",       [EX_SEALING] = "sealing",
        [EX_DONE] = "done",   [EX_REFUSED] = "refused",
    };

    return (unsigned)st < EX_N ? names[st] : "unknown";
}

int exec_next(enum exec_state st, enum exec_event ev, enum exec_state *ret, struct err *e)
{
    if ((unsigned)st >= EX_N || (unsigned)ev >= XV_N) {
        return err_set(e, ERR_INTERNAL, "worker: state %d, event %d", (int)st, (int)ev);
    }
    if (next_state[st][ev] == NO) {
        return err_refuse(e, ERR_WRONG_STATE, "worker.state", event_needs[ev], "%s",
                          exec_state_name(st));
    }
    *ret = (enum exec_state)next_state[st][ev];
    return 0;
}

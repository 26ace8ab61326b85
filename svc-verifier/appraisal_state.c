#include "svc-verifier/appraisal_state.h"

#include "svc-verifier/store.h"
#include "svc-verifier/verifier.h"

#define NEVER (-1)

/* clang-format off */
static const int next_state[CHALLENGE_STATE_N][CHALLENGE_EVENT_N] = {
    /*                       ISSUE             APPRAISED            REFUSED            REPEAT */
    [CHALLENGE_NONE]      = {CHALLENGE_ISSUED, NEVER,               NEVER,             NEVER},
    [CHALLENGE_ISSUED]    = {NEVER,            CHALLENGE_APPRAISED, CHALLENGE_REFUSED, NEVER},
    [CHALLENGE_APPRAISED] = {NEVER,            NEVER,               NEVER,             CHALLENGE_APPRAISED},
    [CHALLENGE_REFUSED]   = {NEVER,            NEVER,               NEVER,             CHALLENGE_REFUSED},
};
/* clang-format on */

const char *challenge_state_name(enum challenge_state s)
{
    switch (s) {
    case CHALLENGE_NONE:
        return "none";
    case CHALLENGE_ISSUED:
        return "issued";
    case CHALLENGE_APPRAISED:
        return "appraised";
    case CHALLENGE_REFUSED:
        return "refused";
    case CHALLENGE_STATE_N:
        break;
    }
    return "unknown";
}

int challenge_next(enum challenge_state s, enum challenge_event ev, enum challenge_state *ret,
                   struct err *e)
{
    int next = (unsigned)s < CHALLENGE_STATE_N && (unsigned)ev < CHALLENGE_EVENT_N
                   ? next_state[s][ev]
                   : NEVER;

    if (next == NEVER) {
        return err_set(e, ERR_WRONG_STATE, "a challenge that is %s does not take event %d",
                       challenge_state_name(s), (int)ev);
    }
    *ret = (enum challenge_state)next;
    return 0;
}

int challenge_apply(struct db *db, struct challenge *c, enum challenge_event ev, int64_t now_ms,
                    struct bytes answer, struct err *e)
{
    enum challenge_state next;

    if (challenge_next(c->state, ev, &next, e)) {
        return -1;
    }
    struct challenge moved = *c;
    moved.state = next;
    switch (ev) {
    case ON_ISSUE:
        moved.expires_ms = now_ms + CHALLENGE_LIFE_MS;
        if (verifier_store_insert(db, &moved, now_ms + ATTEMPT_KEEP_MS, e)) {
            return -1;
        }
        break;
    case ON_APPRAISED:
    case ON_REFUSED:
        if (verifier_store_set_answer(db, &moved, now_ms + ANSWER_KEEP_MS, answer, e)) {
            return -1;
        }
        break;
    case ON_REPEAT:
    case CHALLENGE_EVENT_N:
        break;
    }
    *c = moved;
    return 0;
}

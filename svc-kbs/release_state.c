#include "svc-kbs/release_state.h"

#include "svc-kbs/kbs.h"
#include "svc-kbs/store.h"

#define NEVER (-1)

/* clang-format off */
static const int next_state[RELEASE_STATE_N][RELEASE_EVENT_N] = {
    /*                    CLEARED           REFUSED_VERDICT   SAME_VERDICT */
    [RELEASE_NONE]     = {RELEASE_RELEASED, RELEASE_REFUSED,  NEVER},
    [RELEASE_REFUSED]  = {RELEASE_RELEASED, RELEASE_REFUSED,  NEVER},
    [RELEASE_RELEASED] = {NEVER,            RELEASE_RELEASED, RELEASE_RELEASED},
};
/* clang-format on */

const char *release_state_name(enum release_state s)
{
    switch (s) {
    case RELEASE_NONE:
        return "none";
    case RELEASE_REFUSED:
        return "refused";
    case RELEASE_RELEASED:
        return "released";
    case RELEASE_STATE_N:
        break;
    }
    return "unknown";
}

int release_next(enum release_state s, enum release_event ev, enum release_state *ret,
                 struct err *e)
{
    int next =
        (unsigned)s < RELEASE_STATE_N && (unsigned)ev < RELEASE_EVENT_N ? next_state[s][ev] : NEVER;

    if (next == NEVER) {
        return err_set(e, ERR_WRONG_STATE, "a release that is %s does not take event %d",
                       release_state_name(s), (int)ev);
    }
    *ret = (enum release_state)next;
    return 0;
}

int release_apply(struct db *db, struct release *r, enum release_event ev, int64_t now_ms,
                  struct err *e)
{
    enum release_state next, before = r->state;
    int rc;

    if (release_next(r->state, ev, &next, e)) {
        return -1;
    }
    r->state = next;
    r->sends++;
    if (next == before && before == RELEASE_RELEASED) {
        rc = kbs_store_release_sent(db, r, e);
    } else {
        rc = kbs_store_release_put(db, r, now_ms + RELEASE_KEEP_MS, e);
    }
    if (rc) {
        r->state = before;
        r->sends--;
    }
    return rc;
}

void release_done(struct release *r)
{
    free(TAKE_PTR(r->jwe));
    free(TAKE_PTR(r->release_jws));
}

/* The release of one (job, attempt), as a table of states, and the only writer of them. There is no
 * way from RELEASED to a second release: invariant 1 of the design is this table.
 */
#ifndef COFFER_RELEASE_STATE_H
#define COFFER_RELEASE_STATE_H

#include "common/db.h"
#include "common/spec.h"

enum release_state { /* kept in the database: append only */
                     RELEASE_NONE,
                     RELEASE_REFUSED,  /* a genuine verdict of it was refused; a later one may do */
                     RELEASE_RELEASED, /* keys went to one cnf; for good */
                     RELEASE_STATE_N
};

enum release_event {
    ON_CLEARED, /* every check holds: new keys leave */
    ON_REFUSED_VERDICT,
    ON_SAME_VERDICT, /* the verdict that was released to came again */
    RELEASE_EVENT_N
};

struct release {
    char job[JOB_ID_LEN + 1];
    uint32_t attempt;
    enum release_state state;
    /* Once released: */
    char jti[23], cnf[44];
    char *jwe, *release_jws; /* owned; NULL when no longer kept */
    int64_t sends;           /* ReleaseKeys published so far */
};

const char *release_state_name(enum release_state s);
/* ERR_WRONG_STATE when the table does not have it. */
int release_next(enum release_state s, enum release_event ev, enum release_state *ret,
                 struct err *e);
/* Moves *r and its row, and counts one more ReleaseKey. For ON_CLEARED jti, cnf, jwe and
 * release_jws are those of the new release. */
int release_apply(struct db *db, struct release *r, enum release_event ev, int64_t now_ms,
                  struct err *e);
void release_done(struct release *r);

#endif

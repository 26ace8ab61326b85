/* The states of a challenge, as a table, and the only writer of them. One challenge takes one piece
 * of evidence: what is found about it stands, and the same evidence gets the same answer again.
 */
#ifndef COFFER_APPRAISAL_STATE_H
#define COFFER_APPRAISAL_STATE_H

#include "common/db.h"
#include "common/spec.h"

enum challenge_state { /* kept in the database: append only */
                       CHALLENGE_NONE,
                       CHALLENGE_ISSUED,
                       CHALLENGE_APPRAISED, /* answered with an EAR, whatever its status */
                       CHALLENGE_REFUSED,   /* answered with a refusal */
                       CHALLENGE_STATE_N
};

enum challenge_event {
    ON_ISSUE,
    ON_APPRAISED,
    ON_REFUSED,
    ON_REPEAT, /* the same evidence again */
    CHALLENGE_EVENT_N
};

struct challenge {
    uint8_t nonce[32];
    char job[JOB_ID_LEN + 1];
    uint32_t attempt;
    enum challenge_state state;
    int64_t expires_ms;
    uint8_t evidence_sha256[32]; /* once answered */
    int has_proof;               /* the evidence must show a secret that went with it */
    uint8_t proof[32];           /* credential_proof */
};

const char *challenge_state_name(enum challenge_state s);
/* The state after the event, or -1 when the table does not have it: ERR_WRONG_STATE. */
int challenge_next(enum challenge_state s, enum challenge_event ev, enum challenge_state *ret,
                   struct err *e);
/* Moves *c (state CHALLENGE_NONE for ON_ISSUE) and its row. `answer` is the packed Verdict for
 * ON_APPRAISED and ON_REFUSED, else empty. */
int challenge_apply(struct db *db, struct challenge *c, enum challenge_event ev, int64_t now_ms,
                    struct bytes answer, struct err *e);

#endif

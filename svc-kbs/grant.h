/* Grants: what a data owner signed, and whether it covers what a job wants. Pure. */
#ifndef COFFER_GRANT_H
#define COFFER_GRANT_H

#include "common/spec.h"
#include "common/trust.h"

#define GRANT_JWS_MAX_BYTES (32u * 1024)
#define GRANT_LIST_MAX 64

struct grant {
    json_t *json;            /* owned */
    const char *id, *secret; /* borrowed from json, as are the lists */
    json_t *consumers, *images, *tee_types, *recipients;
    const char *tee_status;
    int64_t hold_at, reject_at, max_verbatim_percent, max_bytes;
    int64_t nbf, exp; /* seconds */
};

/* From the payload of a grant JWS: strict. ERR_INVALID, ERR_TOO_LARGE, naming the member. */
int grant_parse(struct bytes payload, struct grant *ret, struct err *e);
void grant_done(struct grant *g);

/* What wants the keys. Everything in it was verified before. */
struct grant_ask {
    const struct spec *spec;
    const char *consumer; /* thumbprint */
    const char *tee;      /* the EAR's */
    const char *status;
    int64_t now_ms;
};

/* Whether the grant covers the ask: every clause, in the order of docs/PROTOCOL.md. A refusal names
 * the first clause that fails ("grant.images", ...) and *ret_passed says how many held before it.
 */
int grant_covers(const struct grant *g, int revoked, const struct grant_ask *ask,
                 unsigned *ret_passed, struct err *e);

#endif

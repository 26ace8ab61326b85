/* Opening a released result: nothing of it is believed until the gate's signed decision says so. */
#ifndef COFFER_CLI_RESULT_OPEN_H
#define COFFER_CLI_RESULT_OPEN_H

#include "common/area.h"
#include "common/result.h"
#include "common/trust.h"
#include "proto/coffer.pb-c.h"

#define DECISION_JWS_TYP "coffer-decision+jws"
#define DECISION_MAX_BYTES (128u * 1024)
#define RESULT_HEADER_MAX_BYTES (256u * 1024)

struct opened_result {
    json_t *decision; /* owned; the verified payload */
    struct area *plain;
    struct {
        const char *path, *type; /* borrowed from `decision` */
        struct bytes content;    /* borrowed from `plain` */
    } files[SPEC_MAX_FILES];
    size_t n_files;
};

/* Checks, in this order: the decision's signature by a gate of trust.json; that it is of this job
 * and says "released"; the header (job, attempt, and the same files as the decision); that
 * `recipient` opens its copy of the data key; the sealed stream; and the HMAC of every file that
 * the decision names, which together fill the stream. ERR_BAD_SIGNATURE, ERR_DENIED, ERR_INVALID,
 * all naming the clause. */
int result_check_open(const struct trust *trust, const struct jkey *recipient, const char *job,
                      const char *decision_jws, const char *header_json, struct bytes sealed,
                      struct opened_result *ret, struct err *e);
void opened_result_done(struct opened_result *r);

/* The decision alone: signature, shape, job. *ret is a new reference. */
int decision_verify(const struct trust *trust, const char *job, const char *decision_jws,
                    json_t **ret, struct err *e);

/* Is what the gate is said to show what it signed? Compares job, attempt, outcome, score and
 * reasons with decision_jws. ERR_BAD_SIGNATURE, ERR_DENIED (clause "shown.<member>"), ERR_INVALID.
 */
int held_verify(const struct trust *trust, const char *job, const Coffer__V1__HeldResult *h,
                struct err *e);

#endif

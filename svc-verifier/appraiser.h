/* The appraisers: one per kind of evidence, each a pure function of evidence and policy, in one
 * table. No I/O and no clock of their own, so that the command line links them too.
 */
#ifndef COFFER_APPRAISER_H
#define COFFER_APPRAISER_H

#include "common/jcs.h"
#include "common/trust.h"

struct appraisal_policy {
    int allow_sample; /* believe sample evidence, which proves nothing */
};

struct appraisal {
    json_t *claims;           /* owned: what the evidence says, for the EAR's annotated evidence */
    int vector[EAR_VECTOR_N]; /* in the order of ear_vector_members */
    const char *policy_id;    /* static */
};

struct appraiser {
    const char *tee; /* the name in specs, grants and EARs */
    /* Takes evidence apart, checks that it is genuine and bound to report_data, and judges it.
     * Evidence that is genuine but not good enough is no error: its vector says so. ERR_INVALID,
     * ERR_TOO_LARGE, ERR_BAD_SIGNATURE, ERR_DENIED, with a clause "evidence...". */
    int (*appraise)(struct bytes evidence, const uint8_t report_data[64],
                    const struct appraisal_policy *policy, struct appraisal *ret, struct err *e);
};

/* NULL when nobody appraises that. */
const struct appraiser *appraiser_find(const char *tee);
/* "sample, ..." for messages. */
const char *appraiser_names(void);
void appraisal_done(struct appraisal *a);

int sample_appraise(struct bytes evidence, const uint8_t report_data[64],
                    const struct appraisal_policy *policy, struct appraisal *ret, struct err *e);

/* Index into a vector. */
enum ear_claim {
    EAR_CONFIGURATION,
    EAR_EXECUTABLES,
    EAR_FILE_SYSTEM,
    EAR_HARDWARE,
    EAR_INSTANCE_IDENTITY,
    EAR_RUNTIME_OPAQUE,
    EAR_SOURCED_DATA,
    EAR_STORAGE_OPAQUE,
};

#endif

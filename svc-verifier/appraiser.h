/* The appraisers: one per kind of evidence, each a pure function of evidence and policy, in one
 * table. No I/O and no clock of their own, so that the command line links them too.
 */
#ifndef COFFER_APPRAISER_H
#define COFFER_APPRAISER_H

#include "common/refvals.h"
#include "common/tpmhosts.h"
#include "svc-verifier/credential.h"

struct appraisal_policy {
    int allow_sample;                  /* believe sample evidence, which proves nothing */
    const struct refvals *refvals;     /* what good images measure to; NULL: none is good */
    const struct tpm_hosts *tpm_hosts; /* whose virtual TPMs are genuine; NULL: nobody's */
};

/* What a challenge adds for a TEE that must show that it has a key. */
struct appraisal_challenge {
    struct buf credential;                 /* goes to the worker; cap CREDENTIAL_MAX_BYTES */
    uint8_t proof[CREDENTIAL_PROOF_BYTES]; /* stays with the challenge */
};

struct appraisal_input {
    struct bytes evidence;
    const uint8_t *report_data; /* 64 bytes */
    const uint8_t *proof;       /* of the challenge that this answers; NULL when it has none */
    int64_t now_ms;
};

struct appraisal {
    json_t *claims;           /* owned: what the evidence says, for the EAR's annotated evidence */
    int vector[EAR_VECTOR_N]; /* in the order of ear_vector_members */
    const char *policy_id;    /* static */
};

struct appraiser {
    const char *tee; /* the name in specs, grants and EARs */
    /* Makes the credential for ChallengeRequest.attest_key; NULL for a TEE that needs none, whose
     * attest_key is empty. Errors as appraise. */
    int (*challenge)(struct bytes attest_key, const struct appraisal_policy *policy, int64_t now_ms,
                     struct appraisal_challenge *ret, struct err *e);
    /* Takes evidence apart, checks that it is genuine and bound to report_data, and judges it.
     * Evidence that is genuine but not good enough is no error where its vector can say so.
     * ERR_INVALID, ERR_TOO_LARGE, ERR_BAD_SIGNATURE, ERR_DENIED, ERR_EXPIRED, ERR_UNSUPPORTED, with
     * a clause "evidence...". */
    int (*appraise)(const struct appraisal_input *in, const struct appraisal_policy *policy,
                    struct appraisal *ret, struct err *e);
};

/* NULL when nobody appraises that. */
const struct appraiser *appraiser_find(const char *tee);
/* "sample, ..." for messages. */
const char *appraiser_names(void);
void appraisal_done(struct appraisal *a);

int sample_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                    struct appraisal *ret, struct err *e);

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

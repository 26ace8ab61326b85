/* The appraisers: one per kind of evidence, each a pure function of evidence and policy, in one
 * table. No I/O and no clock of their own, so that the command line links them too.
 */
#ifndef COFFER_APPRAISER_H
#define COFFER_APPRAISER_H

#include "appraise/collateral.h"
#include "appraise/credential.h"
#include "appraise/needs.h"
#include "common/refvals.h"
#include "common/tpmhosts.h"

struct appraisal_policy {
    int allow_sample;                  /* believe sample evidence, which proves nothing */
    const struct refvals *refvals;     /* what good images measure to; NULL: none is good */
    const struct tpm_hosts *tpm_hosts; /* whose virtual TPMs are genuine; NULL: nobody's */
    /* Roots trusted beside the makers' pinned ones, for TEEs whose evidence is certified; borrowed.
     */
    const struct cert *const *roots;
    size_t n_roots;
    /* Refuses (ERR_STALE) collateral of a lower evaluation number than one seen before under that
     * key, and remembers the number; NULL: nobody keeps count. */
    int (*floor)(void *arg, const char *key, int64_t number, struct err *e);
    void *floor_arg;
};

/* What a challenge adds for a TEE that must show that it has a key. */
struct appraisal_challenge {
    struct buf credential;                 /* goes to the worker; cap CREDENTIAL_MAX_BYTES */
    uint8_t proof[CREDENTIAL_PROOF_BYTES]; /* stays with the challenge */
};

struct appraisal_input {
    struct bytes evidence;
    /* What the evidence must be bound to: 64 bytes, all compared with REPORTDATA (TDX, SGX, SNP),
     * or user data and extraData where the TEE has those. NULL: nobody asks, which only the command
     * line may do; the claims then show what it is bound to. */
    const uint8_t *report_data;
    /* NVIDIA, Nitro, TPM: the nonce that must be in the evidence; empty: not asked. */
    struct bytes nonce;
    const uint8_t *proof; /* of the challenge that this answers; NULL when it has none */
    int64_t now_ms;
    /* NULL: none. Not const: what is parsed and verified of it is remembered in it. */
    struct collateral *collateral;
};

/* TCB status as Intel's QVL names them; of other TEEs UpToDate, OutOfDate, Revoked or none. */
enum tcb_status {
    TCB_NONE,       /* the TEE has no such thing */
    TCB_UNVERIFIED, /* no collateral: "unverified-tcb" */
    TCB_UP_TO_DATE,
    TCB_SW_HARDENING_NEEDED,
    TCB_CONFIGURATION_NEEDED,
    TCB_CONFIGURATION_AND_SW_HARDENING_NEEDED,
    TCB_OUT_OF_DATE,
    TCB_OUT_OF_DATE_CONFIGURATION_NEEDED,
    TCB_TD_RELAUNCH_ADVISED,
    TCB_TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
    TCB_REVOKED,
    TCB_NOT_SUPPORTED,
    TCB_STATUS_N
};
/* "UpToDate", ...; "unverified-tcb"; "" for TCB_NONE. */
const char *tcb_status_name(enum tcb_status s);

/* What stands between the workload and its host: the answer's headline. */
enum tier {
    TIER_NONE,     /* proves nothing (sample) */
    TIER_VTPM,     /* a TPM that the host owns */
    TIER_TPM,      /* a hardware TPM: what was booted, memory in the clear */
    TIER_ENCLAVE,  /* isolated by a hypervisor that the cloud attests (Nitro) */
    TIER_HARDWARE, /* memory encrypted and attested by the CPU, or a GPU in confidential mode */
    TIER_N
};
const char *tier_name(enum tier t); /* "none", "vtpm", "tpm", "enclave", "hardware" */

struct appraisal {
    json_t *claims;           /* owned: what the evidence says, for the EAR's annotated evidence */
    int vector[EAR_VECTOR_N]; /* in the order of ear_vector_members */
    const char *policy_id;    /* static */
    enum tcb_status tcb_status;
    json_t *advisories; /* owned array of strings, sorted, each once; NULL: none */
    enum tier tier;
    /* Owned array of strings: checks that could not be made, for want of collateral, by name
     * ("pck_crl", "tcb_info", ...); NULL: all were made. */
    json_t *unchecked;
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
    int by_policy; /* an appraisal policy has the last word on its vector */
    /* Names the collateral that this evidence would be appraised with; NULL: none. What cannot be
     * read needs nothing. */
    void (*needs)(struct bytes evidence, struct needs *ret);
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

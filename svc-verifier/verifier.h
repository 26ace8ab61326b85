/* The verifier: gives out challenges, appraises evidence, signs verdicts (docs/PROTOCOL.md,
 * Attestation). It holds no secret but its signing key, and decides nothing about data.
 */
#ifndef COFFER_VERIFIER_H
#define COFFER_VERIFIER_H

#include "appraise/appraiser.h"
#include "appraise/policy.h"
#include "common/engine.h"
#include "common/keyfile.h"
#include "common/shell.h"
#include "svc-verifier/shelf.h"

extern const struct service_def verifier_service;

#define CHALLENGE_BYTES 32u
#define CHALLENGE_LIFE_MS (5 * 60 * 1000)
/* An answered challenge is kept so that the same evidence gets the same verdict again: for as long
 * as that verdict is worth something. */
#define ANSWER_KEEP_MS ((EAR_LIFE_S + EAR_SKEW_S) * 1000)
/* How many verdicts an attempt was sent is known for longer than any of its answers. */
#define ATTEMPT_KEEP_MS (CHALLENGE_LIFE_MS + ANSWER_KEEP_MS + 10 * 60 * 1000)
#define CHALLENGES_PER_JOB_MAX 8
#define CHALLENGES_MAX 200000
#define ANSWERS_MAX 1000000
#define EVIDENCE_MAX_BYTES (256u * 1024)
#define RUNTIME_DATA_MAX_BYTES 4096u
/* Less than EAR_MAX_BYTES, because the KBS puts it into the key release. */
#define EAR_MADE_MAX_BYTES (48u * 1024)

/* Certificates that are kept parsed and verified. */
#define VERIFIER_CERTS 8192

/* svc->priv */
struct verifier {
    struct service_keys keys;       /* sign */
    struct appraisal_policy policy; /* borrows from what is below */
    struct refvals *refvals;
    struct tpm_hosts *tpm_hosts;
    struct policy *rules;   /* the appraisal policy; NULL: none is configured */
    struct policy *shipped; /* for TEEs that it is not for */
    struct certs *certs;
    struct cert *roots[CERT_CHAIN_MAX]; /* held; beside the makers' */
    struct shelf *shelf;
};

/* What the shell does for the service once its transaction is durable. */
enum verifier_action {
    VERIFIER_ACT_FETCH, /* data: a struct need */
};

/* fetching.c: the shell's side of the shelf. */
extern const struct shell_hooks verifier_hooks;
/* Where something of that source is fetched, "": nowhere. Borrowed from the configuration. */
const char *verifier_base_url(const struct config *c, enum need_source source);

/* handlers.c */
int verifier_on_challenge(struct svc *s, const struct msg *m, struct effects *fx, struct err *e);
int verifier_on_evidence(struct svc *s, const struct msg *m, struct effects *fx, struct err *e);

/* ear.c */
struct ear_input {
    const char *job, *nonce, *tee;
    uint32_t attempt;
    const struct jkey *cnf;
    const struct appraisal *appraisal;
    const uint8_t *report_data; /* 64 bytes */
    int64_t now_ms;
};
/* A signed EAR (JWT) with a fresh jti. ERR_TOO_LARGE over EAR_MADE_MAX_BYTES. */
int ear_make(const struct jkey *sign, const struct ear_input *in, char **ret, struct err *e);

#endif

/* Evidence and collateral from files, appraised at a time of one's choosing: what `coffer appraise`
 * and `coffer policy test` share. No server, no network, no configuration. */
#ifndef COFFER_CLI_APPRAISE_JOB_H
#define COFFER_CLI_APPRAISE_JOB_H

#include "appraise/appraiser.h"
#include "appraise/policy.h"
#include "cli/cli.h"

#define APPRAISE_MAX_ROOTS 4

struct appraise_job {
    const struct appraiser *tee;
    struct buf evidence, nonce;
    uint8_t report_data[64];
    int has_report_data;
    int64_t at_ms;
    struct strings collateral_paths;
    struct certs *certs;
    struct collateral *collateral;
    size_t passed_over;      /* files of directories that were of no known form */
    struct refvals *refvals; /* NULL: none */
    struct strings root_paths;
    struct cert *roots[APPRAISE_MAX_ROOTS]; /* held */
    size_t n_roots;
    struct appraisal appraisal;
};

/* The options that name evidence; rows of opts_appraise and opts_policy_test. */
#define APPRAISE_OPTS                                                                              \
    {"tee", 0, "TEE", VALUE_TEXT, "what made the evidence: " APPRAISE_TEES, 0},                    \
        {"collateral",                                                                             \
         'c',                                                                                      \
         "FILE|DIR",                                                                               \
         VALUE_FILE,                                                                               \
         "certificates, CRLs, TCB infos, QE identities, RIMs; every form of docs/APPRAISE.md",     \
         1},                                                                                       \
        {"at", 0, "RFC3339", VALUE_TEXT, "the time of the appraisal (default: now)", 0},           \
        {"report-data",                                                                            \
         0,                                                                                        \
         "HEX",                                                                                    \
         VALUE_TEXT,                                                                               \
         "what the evidence must be bound to; shorter than 64 bytes: padded with zeros",           \
         0},                                                                                       \
        {"nonce", 0, "HEX", VALUE_TEXT, "the nonce that must be in the evidence", 0},              \
        {"reference-values",                                                                       \
         0,                                                                                        \
         "FILE",                                                                                   \
         VALUE_FILE,                                                                               \
         "signed reference values that policies refer to, one JWS a line",                         \
         0},                                                                                       \
        {"root",                                                                                   \
         0,                                                                                        \
         "FILE",                                                                                   \
         VALUE_FILE,                                                                               \
         "certificate (PEM) of a root to trust beside the makers' own",                            \
         1},                                                                                       \
    {                                                                                              \
        "release-key", 0, "JWK", VALUE_FILE, "public key of who signs reference values", 1         \
    }

#define APPRAISE_TEES "tdx, sgx, snp, nitro, tpm, az-snp-vtpm, az-tdx-vtpm, nvidia"

/* Reads options and the evidence; with evidence NULL only the time and the reference values. An
 * error is the command line's: CLI_USAGE. */
int appraise_job_read(struct cli *c, const char *evidence, struct appraise_job *j, struct err *e);
/* Reads the collateral and appraises. An error is a refusal. */
int appraise_job_run(struct appraise_job *j, struct err *e);
void appraise_job_done(struct appraise_job *j);

#endif

/* AMD SEV-SNP: reports verified up to AMD's roots, and what they claim.
 *
 * AMD publishes no list of TCB statuses as Intel does. What stands for one: UpToDate when the
 * platform reports its whole current TCB and has committed to it (REPORTED, COMMITTED and CURRENT
 * are the same, and the firmware cannot be rolled back), OutOfDate otherwise. Whether that TCB is
 * new enough is for a policy to say, by the claims reported_tcb_*. */
#ifndef COFFER_SNP_H
#define COFFER_SNP_H

#include "appraise/appraiser.h"
#include "appraise/needs.h"
#include "appraise/snp_certs.h"
#include "appraise/snp_evidence.h"

struct snp_verified {
    struct snp_report report;
    enum snp_product product; /* of the certificate; the report's agrees where it names one */
    struct snp_vek vek;       /* its certificate is borrowed from the aids */
    const struct crl *crl;    /* borrowed from the aids; NULL: there was none */
    struct snp_tcb current, reported, committed, launch;
    enum tcb_status tcb_status;
    int provisional;    /* runs firmware that it has not committed to */
    int chip_id_masked; /* a VCEK's report without a CHIP_ID: no telling which chip */
};

/* Genuine, or a refusal: the report's form; which of the aids is its VEK (right kind, product,
 * HWID, TCB); the VEK's chain and the CRL; the signature; certificate TCB == REPORTED_TCB and HWID
 * == CHIP_ID; TCB versions and firmware versions in order, component by component. Errors of
 * snp_report_parse, snp_vek_parse and snp_vek_verify; ERR_NOT_FOUND "evidence.vcek" or
 * "evidence.vlek" when no such certificate is there: nothing is genuine before its signature is
 * checked; ERR_BAD_SIGNATURE "evidence.report.signature"; ERR_DENIED
 * "evidence.report.signing_key", "evidence.vcek.hwid", "evidence.vcek.tcb", ... */
int snp_verify(struct certs *store, struct bytes report, const struct snp_aids *aids,
               const struct snp_roots *roots, int64_t at_ms, struct snp_verified *ret,
               struct err *e);

/* Trustee's names, and more (docs/APPRAISE.md). Owned. */
json_t *snp_claims(const struct snp_verified *v);
/* Hardware, configuration and runtime-opaque; the rest stays as it is. A VMPL other than 0 and a
 * migration agent are a warning: something the measurement does not show has the guest's memory.
 * DEBUG is a contraindication. */
void snp_vector(const struct snp_verified *v, int vector[EAR_VECTOR_N]);

/* What evidence and collateral hold for a verification; borrowed from both, which outlive it. */
struct snp_gathered {
    struct snp_aids aids;
    struct cert **certs; /* owned arrays */
    struct crl **crls;
};
void snp_gather(const struct snp_evidence *ev, const struct collateral *c,
                struct snp_gathered *ret);
void snp_gathered_done(struct snp_gathered *g);

int snp_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                 struct appraisal *ret, struct err *e);
/* As snp_appraise, by other roots than AMD's. */
int snp_appraise_by(const struct appraisal_input *in, const struct snp_roots *roots,
                    struct appraisal *ret, struct err *e);
/* What AMD's key service has for that evidence: chain, CRL, and the VCEK if it is not in it. */
void snp_needs(struct bytes evidence, struct needs *ret);

#endif

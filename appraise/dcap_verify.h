/* Is a DCAP quote genuine, and how good is its platform? In the order of Intel's QVL, over
 * collateral that is verified once and looked at every time.
 */
#ifndef COFFER_DCAP_VERIFY_H
#define COFFER_DCAP_VERIFY_H

#include "appraise/appraiser.h"
#include "appraise/dcap_tcb.h"

enum dcap_unchecked {
    DCAP_NO_ROOT_CRL = 1,
    DCAP_NO_PCK_CRL = 2,
    DCAP_NO_TCB_INFO = 4,
    DCAP_NO_QE_IDENTITY = 8,
};

struct dcap_result {
    struct cert *chain[3]; /* PCK, its CA, the root; borrowed from the store */
    struct pck pck;
    unsigned unchecked; /* enum dcap_unchecked */
    /* Borrowed from the collateral; NULL when there is none. */
    const struct tcb_info *tcb_info;
    const struct qe_identity *qe_identity;
    const struct crl *root_crl, *pck_crl;
    struct tcb_verdict tcb; /* status TCB_UNVERIFIED without TCB info */
    /* Of all that was used with a date. */
    int64_t earliest_issue_ms, latest_issue_ms, earliest_expiration_ms;
};

/* 0: genuine, whatever its TCB status. Otherwise a refusal with a clause "evidence..." or
 * "collateral...": ERR_BAD_SIGNATURE, ERR_DENIED, ERR_EXPIRED, ERR_INVALID, ERR_UNSUPPORTED. */
int dcap_verify(const struct dcap_quote *q, struct collateral *collateral,
                const struct appraisal_policy *policy, int64_t now_ms, struct dcap_result *ret,
                struct err *e);

#endif

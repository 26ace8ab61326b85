/* Between dcap_verify.c (the quote) and dcap_collateral.c (what is said of its platform). */
#ifndef COFFER_DCAP_INT_H
#define COFFER_DCAP_INT_H

#include "appraise/dcap_verify.h"

/* One verification under way. */
struct dcap_run {
    const struct dcap_quote *q;
    struct collateral *collateral;
    struct certs *certs;
    const struct appraisal_policy *policy;
    int64_t now_ms;
    const struct cert *anchors[8];
    size_t n_anchors;
    struct dcap_result r;
    struct err *e;
};

/* Chooses collateral that fits (CRLs, TCB info, QE identity), verifies it, checks revocation and
 * the QE's identity, and evaluates the TCB. After r.chain and r.pck are known. */
int dcap_use_collateral(struct dcap_run *run);
/* A chain up to an anchor, valid now. */
int dcap_check_chain(struct dcap_run *run, const char *what, struct cert *const *chain, size_t n);

#endif

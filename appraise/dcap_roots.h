#ifndef COFFER_DCAP_ROOTS_H
#define COFFER_DCAP_ROOTS_H

#include "appraise/certs.h"

/* The pinned Intel SGX Root CA; borrowed from the store. */
int dcap_root(struct certs *certs, struct cert **ret, struct err *e);
/* Intel's PCK CAs and TCB signing certificates, 0 <= i < dcap_n_known(). Not trusted by
 * themselves. */
size_t dcap_n_known(void);
int dcap_known(struct certs *certs, size_t i, struct cert **ret, struct err *e);

#endif

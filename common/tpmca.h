/* The local CA that certifies the endorsement keys of a host's virtual TPMs (swtpm_localca(8) signs
 * with it). What it proves is what the host says: see docs/threat-model.md, vtpm. */
#ifndef COFFER_TPMCA_H
#define COFFER_TPMCA_H

#include "common/err.h"

#define TPMCA_ROOT "issuercert.pem" /* what a verifier pins; public */
#define TPMCA_KEY "signkey.pem"
#define TPMCA_SERIAL "certserial"

/* Makes signkey.pem (0600) and issuercert.pem in `dir`, which exists, unless they are there: P-256,
 * ten years, CN "Coffer TPM CA of host <host>". ERR_INVALID (a certificate that is not of the key),
 * ERR_IO. */
int tpmca_make(const char *dir, const char *host, struct err *e);

#endif

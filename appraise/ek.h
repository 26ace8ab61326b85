/* Endorsement keys: certificates that a TPM carries, up to a root of an enrolled host (TCG EK
 * Credential Profile 2.5). */
#ifndef COFFER_EK_H
#define COFFER_EK_H

#include "common/tpmhosts.h"

#define EK_MAX_CERTS 8
#define EK_CERT_MAX_BYTES 4096u

struct ek {
    EVP_PKEY *key;               /* owned */
    const struct tpm_host *host; /* borrowed: whose it is */
    uint8_t sha256[32];          /* of the certificate */
};

/* The first certificate is the key's, in DER; the others may stand between it and a root. Dates are
 * judged at now_ms, with a minute's grace for a certificate that is just being made.
 * ERR_INVALID, ERR_DENIED (nobody who is enrolled), ERR_EXPIRED; clause "evidence.ek_certs". */
int ek_verify(const struct bytes *certs, size_t n, const struct tpm_hosts *hosts, int64_t now_ms,
              struct ek *ret, struct err *e);
void ek_done(struct ek *k);

#endif

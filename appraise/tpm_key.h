/* TPM keys as OpenSSL's. */
#ifndef COFFER_TPM_KEY_H
#define COFFER_TPM_KEY_H

#include <openssl/types.h>

#include "appraise/tpm.h"

/* Owned by the caller. ERR_INVALID when there is no such key. */
int tpm_public_key(const struct tpm_public *pub, EVP_PKEY **ret, struct err *e);
/* A point on TPM_ECC_P256 or TPM_ECC_P384. */
int tpm_ecc_key(uint16_t curve, struct bytes x, struct bytes y, EVP_PKEY **ret, struct err *e);

#endif

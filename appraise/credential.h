/* TPM2_MakeCredential without a TPM (TPM 2.0 Library, Part 1, "Credential Protection"): a secret
 * that only the TPM with that endorsement key can open, and only when it holds the attestation key
 * of that name. */
#ifndef COFFER_CREDENTIAL_H
#define COFFER_CREDENTIAL_H

#include <openssl/types.h>

#include "common/buf.h"

#define CREDENTIAL_SECRET_BYTES 32u
#define CREDENTIAL_MAX_BYTES 1024u

/* Appends TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET. The endorsement key decides the rest, as the
 * TCG EK Credential Profile's templates do: RSA-2048 and P-256 SHA-256 and AES-128, RSA-3072 and
 * P-384 SHA-384 and AES-256. ERR_UNSUPPORTED for other keys. */
int credential_make(EVP_PKEY *ek, struct bytes ak_name,
                    const uint8_t secret[CREDENTIAL_SECRET_BYTES], struct buf *ret, struct err *e);

/* What a challenge keeps instead of the secret: it tells whether somebody has it, for that key of
 * that TPM, and gives it to nobody. */
#define CREDENTIAL_PROOF_BYTES 32u
int credential_proof(struct bytes secret, struct bytes ak_pub, struct bytes ek_cert,
                     uint8_t ret[CREDENTIAL_PROOF_BYTES], struct err *e);

#endif

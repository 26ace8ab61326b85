/* Evidence of a VM's virtual TPM: appraise/vtpm.h has its form. */
#ifndef COFFER_ATTEST_TPM_H
#define COFFER_ATTEST_TPM_H

#include <tss2/tss2_tpm2_types.h>

#include "svc-worker/worker.h"

/* An attestation key is made under the TPM's endorsement hierarchy, for this attempt alone, and is
 * gone from the TPM after end(). ERR_IO (no TPM, or one that fails or is too slow), ERR_NOT_FOUND
 * (without an endorsement certificate), ERR_BAD_SIGNATURE (a credential that is not for this TPM),
 * ERR_INVALID. */
int vtpm_begin(void **ret_state, struct buf *ret_key, struct err *e);
int vtpm_collect(void *state, const uint8_t report_data[64], struct bytes credential,
                 struct buf *ret, struct err *e);
void vtpm_end(void *state);

/* Challenge.credential: exactly these two. ERR_INVALID, clause "challenge.credential". */
int vtpm_read_credential(struct bytes in, TPM2B_ID_OBJECT *ret_id,
                         TPM2B_ENCRYPTED_SECRET *ret_secret, struct err *e);

/* For tests: another TPM (tpm_link_open) and log than the kernel's; borrowed. `step_ms` for
 * ATTEST_STEP_MS. */
void vtpm_use(const char *device, const char *event_log, int step_ms);

#endif

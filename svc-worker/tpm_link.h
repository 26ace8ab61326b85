/* The way to a TPM, as a TCTI for tpm2-tss: the kernel's /dev/tpmrm0, or the unix socket of a
 * software TPM that takes commands as they are. No command waits past the deadline, which tpm2-tss
 * itself does not promise. */
#ifndef COFFER_TPM_LINK_H
#define COFFER_TPM_LINK_H

#include <tss2/tss2_tcti.h>

#include "common/err.h"

#include <stdint.h>

struct tpm_link;

/* ERR_IO. Without a deadline yet: set one. */
int tpm_link_open(const char *path, struct tpm_link **ret, struct err *e);
/* What is asked from here on has to be answered within ms; then it fails, and so does all after it.
 */
void tpm_link_allow(struct tpm_link *l, int ms);
TSS2_TCTI_CONTEXT *tpm_link_tcti(struct tpm_link *l); /* borrowed */
int tpm_link_timed_out(const struct tpm_link *l);
void tpm_link_free(struct tpm_link *l);

#endif

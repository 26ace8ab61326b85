/* Evidence of a VM with a virtual TPM: a quote over its measured boot (docs/PROTOCOL.md, vtpm).
 * The TPM is a process of the host, so all of it is the host's word: what it proves is which image
 * an honest host booted, never anything against the host (docs/threat-model.md).
 *
 * Evidence: {"v":1,"ak_pub":b64url TPMT_PUBLIC,"ek_certs":[base64 DER...],"credential":b64url,
 * "quote":b64url TPMS_ATTEST,"sig":b64url TPMT_SIGNATURE,"pcrs":{"0":hex,...},"eventlog":b64url};
 * attest_key: its members ak_pub and ek_certs. */
#ifndef COFFER_VTPM_H
#define COFFER_VTPM_H

#include "appraise/appraiser.h"
#include "appraise/eventlog.h"

/* SHA-256 registers that a quote has to be of, and no others: 0-7, 9, 11, 12. */
#define VTPM_PCRS 0x1affu

int vtpm_challenge(struct bytes attest_key, const struct appraisal_policy *policy, int64_t now_ms,
                   struct appraisal_challenge *ret, struct err *e);
int vtpm_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                  struct appraisal *ret, struct err *e);

/* vtpm_compare.c: the image that these registers are of. Otherwise ERR_DENIED with the clause
 * "evidence.pcr[n]", and in `expected` and `actual` what was changed, as far as the log, which
 * replays to the registers, tells: "initramfs <digest>". *ret_size is the VM's. */
int vtpm_compare(uint8_t pcr[TPM_PCRS][32], const struct eventlog *log, const struct refvals *refs,
                 const struct refvals_image **ret, const char **ret_size, struct err *e);
/* Whether these reference values can be used: every image for vtpm gives exactly the registers of
 * VTPM_PCRS. ERR_INVALID. */
int vtpm_check_refvals(const struct refvals *refs, struct err *e);

#endif

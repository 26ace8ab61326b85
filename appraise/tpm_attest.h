/* The appraiser `tpm`: quotes of a TPM 2.0, with their PCR values and maybe an event log. */
#ifndef COFFER_TPM_ATTEST_H
#define COFFER_TPM_ATTEST_H

#include "appraise/appraiser.h"
#include "appraise/tpm_quote.h"

/* Trustee's {"ak_public" (SubjectPublicKeyInfo), "tpm_quote":{..}} and go-tpm-tools' Attestation
 * (protobuf: TPMT_PUBLIC, quotes of several banks, event log, AK certificate).
 *
 * The key is trusted when the collateral has a certificate of it, or its own certificate leads up
 * to one of the policy's roots. Otherwise "ak" is unchecked, the tier is none, and the vector says
 * that the instance is not known: anybody can make such a quote. */
int tpm_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                 struct appraisal *ret, struct err *e);

/* ---- between tpm_attest.c and tpm_forms.c ---- */

#define TPM_QUOTES_MAX 4
#define TPM_EVIDENCE_MAX_BYTES (2u * 1024 * 1024)

struct tpm_signed {
    struct bytes message, signature; /* TPMS_ATTEST, TPMT_SIGNATURE */
    struct tpm_bank bank;
};
struct tpm_evidence {
    struct tpm_ak ak;
    struct tpm_signed quotes[TPM_QUOTES_MAX]; /* each of another bank */
    size_t n_quotes;
    struct bytes event_log;             /* may be empty */
    struct bytes certs[CERT_CHAIN_MAX]; /* DER: the key's, and intermediates */
    size_t n_certs;
    struct tpm_quote_json json; /* owns what the JSON form's views are into */
    struct buf scratch, log, ak_der;
};
/* ERR_INVALID, ERR_TOO_LARGE, ERR_UNSUPPORTED, ERR_DENIED; borrows from `in`. */
int tpm_evidence_take(struct bytes in, struct tpm_evidence *ret, struct err *e);
void tpm_evidence_done(struct tpm_evidence *ev);

#endif

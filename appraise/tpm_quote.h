/* TPM 2.0 quotes with the PCR values that they are said to be of, and the key that signed them:
 * what plain TPM evidence and Azure's confidential VMs have in common. */
#ifndef COFFER_TPM_QUOTE_H
#define COFFER_TPM_QUOTE_H

#include <jansson.h>
#include <openssl/types.h>

#include "appraise/eventlog.h"

/* Values of one bank. */
struct tpm_bank {
    uint16_t hash; /* TPM_ALG_* */
    uint32_t pcrs; /* bit n: there is a value of PCR n */
    uint8_t v[TPM_PCRS][TPM_MAX_DIGEST];
};

/* A public key as OpenSSL has it, in the form that tpm_signature_verify takes: any scheme that fits
 * its kind. Owns what `pub` borrows. */
struct tpm_ak {
    struct tpm_public pub;
    struct buf parts;
    int has_attributes; /* `pub` was a TPMT_PUBLIC, whose attributes tell */
};
void tpm_ak_done(struct tpm_ak *ak);
/* RSA of 2048 bits or more, P-256, P-384. ERR_UNSUPPORTED with clause `what`. */
int tpm_ak_from_pkey(const char *what, EVP_PKEY *key, struct tpm_ak *ret, struct err *e);
/* A SubjectPublicKeyInfo in DER, and nothing else. */
int tpm_ak_from_spki(const char *what, struct bytes der, struct tpm_ak *ret, struct err *e);
/* A TPMT_PUBLIC, of a restricted signing key that cannot leave its TPM: ERR_DENIED otherwise.
 * Borrows from `in`. */
int tpm_ak_from_public(const char *what, struct bytes in, struct tpm_ak *ret, struct err *e);

/* Is this a genuine quote by `ak` of exactly those values? Magic, type, signature (no SHA-1),
 * selection and digest, by the hash of the signing scheme (TPM 2.0 Library, Part 3, TPM2_Quote).
 * The bank's values must be those selected: each of them, and no other. ERR_INVALID,
 * ERR_UNSUPPORTED, ERR_BAD_SIGNATURE "evidence.quote.signature", ERR_DENIED
 * "evidence.quote.pcrs" and "evidence.quote.pcr_digest". */
int tpm_quote_verify(const struct tpm_ak *ak, struct bytes message,
                     const struct tpm_signature *signature, const struct tpm_bank *bank,
                     struct tpm_quote *ret, struct err *e);

/* extraData is exactly the nonce, or the report data; what is empty or NULL is not asked.
 * ERR_DENIED, "evidence.nonce" and "evidence.report_data". */
int tpm_quote_bound(const struct tpm_quote *q, struct bytes nonce, const uint8_t *report_data,
                    struct err *e);
/* The log's replay gives the bank's values, for each PCR that the log has events of; at least one.
 * ERR_DENIED "evidence.event_log". */
int tpm_log_matches(const struct eventlog *log, const struct tpm_bank *bank, struct err *e);

/* "pcr00", ... as hex. */
void tpm_put_pcrs(json_t *claims, const struct tpm_bank *bank);

/* {"signature","message","pcrs"} in any of Trustee's forms: base64 or hex texts, or arrays of
 * numbers; the PCRs are all 24 of the SHA-256 bank. A message holds a TPMT_SIGNATURE or, with
 * `bare`, what RSASSA with SHA-256 gives. */
struct tpm_quote_json {
    struct buf message, signature;
    struct tpm_bank bank;
};
int tpm_quote_json_take(const json_t *j, struct tpm_quote_json *ret, struct err *e);
void tpm_quote_json_done(struct tpm_quote_json *q);
/* Bytes of a member: base64, base64url, hex, or an array of numbers. ERR_INVALID. */
int tpm_json_bytes(const char *what, const json_t *v, size_t max, struct buf *ret, struct err *e);

#endif

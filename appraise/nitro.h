/* AWS Nitro Enclaves attestation documents ("Verifying the root of trust", AWS Nitro Enclaves User
 * Guide; attestation_process.md of the NSM API): COSE_Sign1 by a key that AWS certifies for a few
 * hours, up to its pinned root.
 *
 * Binding: a job's 64 bytes of report data are the document's user_data, all of it; a nonce that is
 * asked for is the document's nonce, all of it.
 */
#ifndef COFFER_NITRO_H
#define COFFER_NITRO_H

#include "appraise/appraiser.h"
#include "appraise/cose.h"

#define NITRO_PCRS 32
#define NITRO_PCR_BYTES 48
#define NITRO_CABUNDLE_MAX (CERT_CHAIN_MAX - 1)
#define NITRO_FIELD_MAX 1024

/* Borrowed from the document. */
struct nitro_doc {
    struct cose_sign1 cose;
    struct bytes module_id;
    int64_t timestamp_ms;
    uint32_t has_pcr; /* bit n: PCR n */
    const uint8_t *pcr[NITRO_PCRS];
    struct bytes certificate;
    struct bytes cabundle[NITRO_CABUNDLE_MAX]; /* root first */
    size_t n_cabundle;
    /* p is NULL where there is none. */
    struct bytes public_key, user_data, nonce;
};

/* The document and nothing else, signed or not. Sizes as AWS states them; each member once, members
 * that are not known passed over. ERR_INVALID, ERR_TOO_LARGE, ERR_UNSUPPORTED with clauses
 * "evidence.cose..." and "evidence.<member>". */
int nitro_parse(struct bytes in, struct nitro_doc *ret, struct err *e);

struct nitro_verified {
    struct cert *chain[CERT_CHAIN_MAX]; /* leaf first; borrowed from the store */
    size_t n_chain;
};

/* Genuine, or a refusal: the chain up to AWS's root or one of the policy's, at that time; the leaf
 * may sign and is no CA; all keys P-384; the signature. ERR_BAD_SIGNATURE
 * ("evidence.chain[0].signature", "evidence.signature"), ERR_EXPIRED, ERR_DENIED
 * ("evidence.chain.root", ...), ERR_INVALID. */
int nitro_verify(const struct nitro_doc *d, struct certs *store,
                 const struct appraisal_policy *policy, int64_t at_ms, struct nitro_verified *ret,
                 struct err *e);

/* New reference. */
json_t *nitro_claims(const struct nitro_doc *d, const struct nitro_verified *v);

/* Evidence: the document, tagged or not; base64 or hex of it; dstack's SCALE form; an X.509
 * certificate with the document in hex as a DNS name; {"document": ...}. PCR 0, 1 and 2 must be
 * there, and not zero, as they are in an enclave in debug mode: ERR_DENIED, "evidence.pcrs". */
int nitro_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                   struct appraisal *ret, struct err *e);

/* The document in any of those forms; borrowed from the evidence or *scratch. */
int nitro_evidence(struct bytes evidence, struct buf *scratch, struct bytes *ret, struct err *e);

#endif

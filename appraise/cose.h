/* COSE_Sign1 (RFC 9052 §4.2) as attestation documents use it: everything that matters in the
 * protected header, nothing in the other, the payload inside, and exactly one ES384 signature. */
#ifndef COFFER_COSE_H
#define COFFER_COSE_H

#include "appraise/cbor.h"
#include "appraise/sigs.h"

#define COSE_MAX_BYTES (64u * 1024)
#define COSE_ES384 (-35)
#define COSE_ES384_BYTES 96u

/* Borrowed from what was parsed. */
struct cose_sign1 {
    struct bytes protected_header; /* as it came, without its length */
    struct bytes payload;
    const uint8_t *signature; /* COSE_ES384_BYTES: r || s */
};

/* Exactly one, with tag 18 or without a tag. The algorithm must be ES384; labels stand once; a
 * `crit` header is refused, for nothing that it may name is known here; the unprotected header must
 * be empty. ERR_INVALID, ERR_TOO_LARGE, ERR_UNSUPPORTED; clauses "<what>.cose..." */
int cose_sign1_parse(const char *what, struct bytes in, struct cose_sign1 *ret, struct err *e);
/* The signature over Sig_structure (RFC 9052 §4.4) without external data. ERR_BAD_SIGNATURE with
 * clause "<what>.signature". */
int cose_sign1_verify(const char *what, const struct cose_sign1 *c, const struct ec_key *key,
                      struct err *e);

#endif

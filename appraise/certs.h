/* X.509 certificates and CRLs as the appraisers need them: parsed once, signatures checked once.
 *
 * A certificate is known by the SHA-256 of its DER form. A `certs` store keeps the parsed form and
 * remembers which issuer's key was found to have signed it; so a chain that was verified before
 * costs a lookup, while dates, revocation and constraints are looked at every time, at the time
 * that the caller gives. Not thread-safe: one store for one thread.
 */
#ifndef COFFER_CERTS_H
#define COFFER_CERTS_H

#include <openssl/types.h>

#include "appraise/sigs.h"
#include "common/buf.h"

#define CERT_MAX_BYTES (16u * 1024)
#define CRL_MAX_BYTES (4u * 1024 * 1024)
#define CERT_CHAIN_MAX 8

struct certs; /* the store */

/* One certificate. Borrowed from its store and valid as long as that, unless evicted: hold one
 * across calls that add certificates only with cert_ref. */
struct cert {
    uint8_t sha256[32]; /* of the DER form */
    X509 *x;
    EVP_PKEY *key;
    int64_t not_before_ms, not_after_ms;
};

/* At most `max` certificates are kept; the one not used for longest goes first. */
struct certs *certs_new(size_t max);
void certs_free(struct certs *s);
DEFINE_CLEANUP(struct certs *, certs_free);

/* Takes one DER certificate (exactly, no byte behind it). ERR_INVALID, ERR_TOO_LARGE with clause
 * `what`. */
int certs_add_der(struct certs *s, const char *what, struct bytes der, struct cert **ret,
                  struct err *e);
/* The certificate of that SHA-256, if it is there; borrowed, else NULL. */
struct cert *certs_find(struct certs *s, const uint8_t sha256[32]);
/* Takes all certificates of a PEM text, in their order, at most `max` of them; other text between
 * them is refused, white space and zero bytes behind the last are not. */
int certs_add_pem(struct certs *s, const char *what, struct bytes pem, struct cert **ret,
                  size_t max, size_t *ret_n, struct err *e);
/* The certificate's key on that curve, made once; borrowed. ERR_INVALID with clause `what` when it
 * is of another kind. */
int cert_ec_key(struct cert *c, enum ec_curve curve, const char *what, const struct ec_key **ret,
                struct err *e);
/* A memory of what was verified, by SHA-256 of all that the verification was about: key, message
 * and signature. Bounded: older ones are forgotten. */
int certs_known(const struct certs *s, const uint8_t digest[32]);
void certs_know(struct certs *s, const uint8_t digest[32]);
void certs_forget_known(struct certs *s); /* all of it: for measurements */
struct cert *cert_ref(struct cert *c);
void cert_unref(struct cert *c);
DEFINE_CLEANUP(struct cert *, cert_unref);

/* Whether `issuer` signed `c`: issuer name, and signature by the issuer's key (RFC 5280 §6.1.3 a);
 * remembered. Says nothing about dates or constraints. ERR_BAD_SIGNATURE, clause `what`. */
int cert_signed_by(struct certs *s, const char *what, struct cert *c, struct cert *issuer,
                   struct err *e);

struct chain_rules {
    const char *what;                  /* prefix of clauses, e.g. "pck_chain" */
    int64_t at_ms;                     /* the time at which all must be valid */
    const struct cert *const *anchors; /* trusted roots: same key and subject as one of them */
    size_t n_anchors;
    int leaf_is_ca; /* the first certificate may be a CA */
    /* OIDs of critical extensions that the caller has looked at itself; NULL-terminated, or NULL.
     */
    const char *const *critical;
};
/* Verifies chain[0] (leaf) .. chain[n-1] (a root equal to an anchor: same subject and public key):
 * links, dates, basicConstraints CA and pathLen, keyCertSign, unknown critical extensions; no
 * revocation. ERR_EXPIRED (clause "<what>.not_after" or ".not_before"), ERR_BAD_SIGNATURE,
 * ERR_DENIED ("<what>.root": not an anchor), ERR_INVALID. RFC 5280 §6.1. */
int chain_verify(struct certs *s, const struct chain_rules *r, struct cert *const *chain, size_t n,
                 struct err *e);

/* ---- CRLs ---- */

struct crl; /* parsed; immutable but for what was verified */

int crl_parse(const char *what, struct bytes der_or_pem, struct crl **ret, struct err *e);
void crl_free(struct crl *c);
DEFINE_CLEANUP(struct crl *, crl_free);
int64_t crl_this_update_ms(const struct crl *c);
int64_t crl_next_update_ms(const struct crl *c); /* INT64_MAX when it has none */
/* CRL number (RFC 5280 §5.2.3), -1 without one. */
int64_t crl_number(const struct crl *c);
/* Same issuer name as the subject of `ca`? */
int crl_is_of(const struct crl *c, const struct cert *ca);
/* Does the issuer's common name hold that text? */
int crl_issuer_has(const struct crl *c, const char *text);
/* Signature by `ca` (remembered), ca may sign CRLs, and dates, with a day of grace at either end.
 * ERR_BAD_SIGNATURE, ERR_EXPIRED, ERR_INVALID for an unknown critical extension, clause
 * "<what>...". */
int crl_verify(struct certs *s, const char *what, struct crl *c, struct cert *ca, int64_t at_ms,
               struct err *e);
/* Is this serial number on it? Only of a verified CRL whose issuer issued `of`. A binary search. */
int crl_has(const struct crl *c, const struct cert *of);

/* ---- names and extensions ---- */

/* The common name of the subject or issuer, as UTF-8 without NUL in it; "" when there is none. */
void cert_subject_cn(const struct cert *c, char ret[128]);
void cert_issuer_cn(const struct cert *c, char ret[128]);
/* The contents (inside the OCTET STRING) of the extension with that dotted OID; empty: none. Twice
 * the same extension is refused when the certificate is taken. */
struct bytes cert_extension(const struct cert *c, const char *oid);
/* Same subject name and same public key. */
int cert_same_key(const struct cert *a, const struct cert *b);
/* Is the issuer's name of `c` the subject's of `ca`? */
int cert_names_issuer(const struct cert *c, const struct cert *ca);

#endif

/* Signature checks over evidence, where they cost most of an appraisal: ECDSA on P-256 and P-384
 * and RSA, over raw keys and raw r || s, with as little around the curve arithmetic as can be
 * (bench/appraise compares them with OpenSSL's own).
 */
#ifndef COFFER_SIGS_H
#define COFFER_SIGS_H

#include <openssl/types.h>

#include "common/buf.h"

enum ec_curve { EC_P256, EC_P384 };

/* A public key ready for verification. Opaque. */
struct ec_key;

/* x || y, big-endian, 2 * 32 or 2 * 48 bytes; checked to be a point of the curve other than
 * infinity (SEC 1 §3.2.2.1). ERR_INVALID with clause `what`. */
int ec_key_new(enum ec_curve curve, const char *what, struct bytes xy, struct ec_key **ret,
               struct err *e);
/* ERR_INVALID when the key is of another kind. */
int ec_key_from_pkey(enum ec_curve curve, const char *what, EVP_PKEY *pkey, struct ec_key **ret,
                     struct err *e);
enum ec_curve ec_key_curve(const struct ec_key *k);
void ec_key_free(struct ec_key *k);
DEFINE_CLEANUP(struct ec_key *, ec_key_free);

/* r || s, big-endian, each as long as the curve's order; 0 < r, s < order. SHA-256 with P-256,
 * SHA-384 with P-384. ERR_BAD_SIGNATURE with clause `what`. */
int ec_verify(const char *what, const struct ec_key *k, struct bytes message, const uint8_t *r_s,
              struct err *e);

#endif

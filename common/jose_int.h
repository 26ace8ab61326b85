/* What the three parts of jose.h (keys, signatures, encryption) share. */
#ifndef COFFER_JOSE_INT_H
#define COFFER_JOSE_INT_H

#include <openssl/evp.h>

#include "common/jose.h"

#define P256_BYTES 32u
#define P256_B64_LEN 43u /* base64url digits of 32 bytes */
#define ES256_SIG_BYTES 64u

static inline void evp_pkey_ctx_freep(EVP_PKEY_CTX **p)
{
    EVP_PKEY_CTX_free(*p);
}
#define _cleanup_pkey_ctx_ _cleanup_(evp_pkey_ctx_freep)

static inline void evp_cipher_ctx_freep(EVP_CIPHER_CTX **p)
{
    EVP_CIPHER_CTX_free(*p);
}
#define _cleanup_cipher_ctx_ _cleanup_(evp_cipher_ctx_freep)

/* The parsed key, borrowed. */
EVP_PKEY *jkey_pkey(const struct jkey *k);
/* Coordinates in base64url, borrowed from the key. */
const char *jkey_x(const struct jkey *k);
const char *jkey_y(const struct jkey *k);
/* Whether `jwk` names the public key k by its x and y; for headers that repeat a key already known.
 */
int jkey_matches_jwk(const struct jkey *k, const json_t *jwk);

/* Algorithms looked up once for the life of the process; they abort when OpenSSL lacks them. */
const EVP_MD *jose_sha256(void);
const EVP_CIPHER *jose_a256gcm(void);
const EVP_CIPHER *jose_a256kw(void);

/* As err_set, with ERR_INTERNAL and OpenSSL's reason; empties OpenSSL's error queue. */
#define err_openssl(e, what) err_openssl_(e, ERR_ORIGIN_, what)
int err_openssl_(struct err *e, const char *origin, const char *what);
/* Empties OpenSSL's error queue after a failure that is the input's fault. */
void openssl_forget_errors(void);

#endif

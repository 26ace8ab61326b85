/* Keys, signatures and encryption in JOSE form: ES256 JWS (RFC 7515), ECDH-ES+A256KW / A256GCM JWE
 * (RFC 7516, 7518) on P-256, RFC 7638 thumbprints. Nothing else is accepted: no alg is ever read
 * from a message and obeyed.
 */
#ifndef COFFER_JOSE_H
#define COFFER_JOSE_H

#include "common/jcs.h"
#include "common/secret.h"

/* A P-256 key, public or private. Opaque; private parts are wiped when it is freed. */
struct jkey;

#define JKEY_THUMBPRINT_LEN 43 /* base64url of SHA-256, without the NUL */

int jkey_generate(struct jkey **ret, struct err *e);
/* From a JWK object {kty:EC, crv:P-256, x, y[, d]}; other members are ignored. The point is checked
 * to be on the curve. ERR_INVALID. */
int jkey_from_jwk(const json_t *jwk, struct jkey **ret, struct err *e);
/* Public JWK {crv,kty,x,y}; new reference. */
json_t *jkey_public_jwk(const struct jkey *k);
/* Thumbprint (RFC 7638, SHA-256, base64url): the name of a party. Borrowed from the key. */
const char *jkey_thumbprint(const struct jkey *k);
int jkey_is_private(const struct jkey *k);
/* Private JWK files: mode 0600, written atomically; reading refuses a file others can read. */
int jkey_read_private(const char *path, struct jkey **ret, struct err *e);
int jkey_write_private(const char *path, const struct jkey *k, struct err *e);
int jkey_read_public(const char *path, struct jkey **ret, struct err *e);
int jkey_write_public(const char *path, const struct jkey *k, struct err *e);
struct jkey *jkey_ref(struct jkey *k);
void jkey_free(struct jkey *k); /* drops a reference */
DEFINE_CLEANUP(struct jkey *, jkey_free);
#define _cleanup_jkey_ _cleanup_(jkey_freep)

/* Compact JWS, alg ES256, `typ` as given (e.g. "coffer-spec+jws", or "JWT"), kid = thumbprint, and,
 * when embed_jwk is set, the public key as `jwk` in the protected header. */
int jws_sign(const struct jkey *k, const char *typ, int embed_jwk, struct bytes payload, char **ret,
             struct err *e);
int jws_sign_json(const struct jkey *k, const char *typ, int embed_jwk, const json_t *payload,
                  char **ret, struct err *e); /* payload in JCS form */

/* Verifies against exactly `k`. The header must say ES256 and `typ`, and may hold only alg, typ,
 * kid, jwk, and no crit. ERR_BAD_SIGNATURE / ERR_INVALID. max bounds the whole JWS. */
int jws_verify(const char *jws, const struct jkey *k, const char *typ, size_t max,
               struct buf *ret_payload, struct err *e);
/* For self-identified signers (consumer, owner): takes the key from the `jwk` header, verifies with
 * it, and returns it. The caller decides whether that party may. */
int jws_verify_embedded(const char *jws, const char *typ, size_t max, struct buf *ret_payload,
                        struct jkey **ret_signer, struct err *e);

/* Flattened JWE JSON {protected, encrypted_key, iv, ciphertext, tag}; the protected header is
 * exactly
 * {"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv","kty","x","y"}} in that order, without
 * white space. */
int jwe_encrypt(const struct jkey *to, struct bytes plain, char **ret, struct err *e);
/* ERR_BAD_SIGNATURE when it does not open. `max` bounds the text. */
int jwe_decrypt(const struct jkey *with, const char *jwe, size_t max, struct secret **ret,
                struct err *e);

#endif

/* A key on its way from its owner to the KBS: a JWE whose plaintext is the 32-byte key followed by
 * the id it is the key of. The id names its owner, so nobody else can have the same box stored as a
 * key of theirs (docs/PROTOCOL.md, Owner commands).
 */
#ifndef COFFER_KEYBOX_H
#define COFFER_KEYBOX_H

#include "common/jose.h"

#define KEYBOX_KEY_BYTES 32u
#define KEYBOX_ID_MAX 96u
#define KEYBOX_MAX_BYTES 4096u /* of the JWE's text */

/* ERR_INVALID when the key is not KEYBOX_KEY_BYTES or the id not 1..KEYBOX_ID_MAX long. */
int keybox_seal(const struct jkey *to, const char *id, const struct secret *key, char **ret_jwe,
                struct err *e);
/* ERR_BAD_SIGNATURE when it does not open; ERR_DENIED (clause "jwe.id") when it is the key of
 * another id; ERR_INVALID, ERR_TOO_LARGE. */
int keybox_open(const struct jkey *with, const char *jwe, const char *id, struct secret **ret_key,
                struct err *e);

/* Checks an image key's descriptor {"kind":"image-key","name","owner":JWK,"salt":16 bytes,"v":1}
 * and computes its id: name "." 26 base32 digits of SHA-256(JCS(descriptor)) (docs/PROTOCOL.md,
 * Ids). ERR_INVALID names the member. ret_owner may be NULL. */
int image_key_id(const json_t *descriptor, char ret_id[KEYBOX_ID_MAX + 1], struct jkey **ret_owner,
                 struct err *e);
/* Whether `id` has the shape of a dataset's or image key's id. */
int secret_id_valid(const char *id);

#endif

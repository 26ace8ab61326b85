/* A service's own private keys in its data directory: sign.jwk (signs), seal.jwk (opens what is
 * sealed to it) and kek (32 bytes: seals at rest), each with mode 0600 (docs/PROTOCOL.md, Parties).
 * Beside a generated sign.jwk or seal.jwk the public half is written as sign.pub.jwk or
 * seal.pub.jwk, for the trust file.
 */
#ifndef COFFER_KEYFILE_H
#define COFFER_KEYFILE_H

#include "common/jose.h"
#include "common/trust.h"

#define KEYFILE_KEK_BYTES 32u

enum keyfile {
    KEYFILE_SIGN = 1,
    KEYFILE_SEAL = 2,
    KEYFILE_KEK = 4,
};

struct service_keys {
    struct jkey *sign, *seal; /* owned; NULL unless asked for */
    struct secret *kek;
};

/* Loads the keys of `want` (bits of enum keyfile) from `dir`; makes those that are missing and
 * whose bit is in `generate`. ERR_NOT_FOUND names a missing file that may not be made; ERR_DENIED a
 * file that others can read; ERR_INVALID a file that is no such key; ERR_IO. Nothing is left in
 * *ret on failure; keys that were made stay on disk. */
int service_keys_load(const char *dir, unsigned want, unsigned generate, struct service_keys *ret,
                      struct err *e);
void service_keys_done(struct service_keys *k);

/* A service whose own key the trust file does not name would work for nobody: ERR_DENIED, clause
 * "trust.<who>", with the thumbprint to add. */
int service_key_trusted(const struct trust_keys *keys, const char *who, const struct jkey *own,
                        struct err *e);

#endif

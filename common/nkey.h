/* NATS nkeys: Ed25519 keys of users in NATS's own text form (base32 of prefix, key and CRC-16).
 * Seeds are secret and stay in `struct secret`; public keys are text ("U...", 56 characters). */
#ifndef COFFER_NKEY_H
#define COFFER_NKEY_H

#include "common/buf.h"
#include "common/secret.h"

#define NKEY_SEED_CHARS 58   /* "SU..." */
#define NKEY_PUBLIC_CHARS 56 /* "U..." */
#define NKEY_SIG_BYTES 64

/* A fresh user key. The secret is the seed's text without a NUL. Aborts if the kernel's generator
 * fails. */
struct secret *nkey_new_user_seed(void);
/* Reads a seed file: mode 0600 or less, one line, a user seed with a good checksum. ERR_IO,
 * ERR_DENIED (mode), ERR_INVALID; no message holds any of the content. */
int nkey_read_seed(const char *path, struct secret **ret, struct err *e);
/* Checks a seed's text (trailing newline allowed) and copies it without. ERR_INVALID. */
int nkey_parse_seed(struct bytes text, struct secret **ret, struct err *e);
/* The public key of a seed. ERR_INVALID when it is none. */
int nkey_public(const struct secret *seed, char ret[NKEY_PUBLIC_CHARS + 1], struct err *e);
/* Ed25519 signature over `text`. ERR_INVALID, ERR_INTERNAL. */
int nkey_sign(const struct secret *seed, struct bytes text, uint8_t ret[NKEY_SIG_BYTES],
              struct err *e);

#endif

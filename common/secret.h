/* Secret bytes: page-locked where the limit allows, excluded from core dumps, zero in a forked
 * child, wiped before they are freed, compared in constant time, and of a type of their own so that
 * no printf takes them. */
#ifndef COFFER_SECRET_H
#define COFFER_SECRET_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct secret; /* opaque: fixed size after creation */

#define SECRET_MAX_BYTES (1u << 20)

/* n zero bytes; n in 1..SECRET_MAX_BYTES (aborts otherwise: a programming error). */
struct secret *secret_new(size_t n);
struct secret *secret_from(const void *p, size_t n);
/* Fresh bytes from the kernel's generator; aborts if it fails. */
struct secret *secret_random(size_t n);
/* Reads a file of 1..max bytes whose mode gives nothing to group and others.
 * ERR_IO, ERR_TOO_LARGE, ERR_DENIED (mode), ERR_INVALID (empty, or not a regular file). */
int secret_read_file(const char *path, size_t max, struct secret **ret, struct err *e);
/* Writes with mode 0600 to a temporary file, fsyncs, renames over `path`, fsyncs the directory. */
int secret_write_file(const char *path, const struct secret *s, struct err *e);

uint8_t *secret_p(struct secret *s);
const uint8_t *secret_cp(const struct secret *s);
size_t secret_n(const struct secret *s);
/* Constant time in the contents; the sizes are not secret. */
int secret_eq(const struct secret *a, const struct secret *b);
/* Wipes and frees. NULL is fine. */
void secret_free(struct secret *s);

DEFINE_CLEANUP(struct secret *, secret_free);
#define _cleanup_secret_ _cleanup_(secret_freep)

/* Fresh bytes from the kernel's generator that are not secret (nonces, ids). Aborts on failure. */
void random_bytes(void *p, size_t n);

#endif

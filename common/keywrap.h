/* The annotation packet: how a layer's private options (its symmetric key) are wrapped with the key
 * of an image, in the form of Confidential Containers' key providers, so that images of either side
 * open with the keys of the other.
 *
 *   {"kid","wrapped_data","iv","wrap_type":"A256GCM"}                                         (v1)
 *   the same with "version":"0.1.0","provider":...,"provider_settings":{},"annotations":{}    (v2)
 *
 * wrapped_data is the AES-256-GCM ciphertext followed by its 16-byte tag, without associated data;
 * iv is 12 bytes; both in padded base64. Only A256GCM is accepted: A256CTR, which the form also
 * knows, does not authenticate what it wraps.
 */
#ifndef COFFER_KEYWRAP_H
#define COFFER_KEYWRAP_H

#include "common/buf.h"
#include "common/secret.h"

#define KEYWRAP_KEK_BYTES 32u
#define KEYWRAP_KID_MAX_BYTES 256u
#define KEYWRAP_OPTS_MAX_BYTES 4096u
#define KEYWRAP_PACKET_MAX_BYTES 16384u

/* Finds the key of an id: *ret is borrowed from `arg` until the call that asked returns.
 * ERR_NOT_FOUND, or whatever kept it. */
typedef int (*keywrap_find_fn)(void *arg, const char *kid, const struct secret **ret,
                               struct err *e);

/* 1 to KEYWRAP_KID_MAX_BYTES printable ASCII bytes without space, quote, comma or backslash. */
int keywrap_kid_check(const char *kid, struct err *e);

/* Wraps 1..KEYWRAP_OPTS_MAX_BYTES with a key of KEYWRAP_KEK_BYTES into a v1 packet (JSON text, the
 * caller frees). ERR_INVALID, ERR_TOO_LARGE. */
int keywrap_wrap(const char *kid, const struct secret *kek, struct bytes opts,
                 char **ret_packet_json, struct err *e);

/* Reads the id of a packet, after checking all of it; the caller frees. ERR_INVALID naming the
 * member, ERR_TOO_LARGE, ERR_UNSUPPORTED (wrap_type). */
int keywrap_kid(struct bytes packet_json, char **ret_kid, struct err *e);

/* Unwraps a packet with the key that `find` gives for its id. As keywrap_kid; what `find` says; and
 * ERR_BAD_SIGNATURE naming the id when the key does not open it. */
int keywrap_unwrap(struct bytes packet_json, keywrap_find_fn find, void *arg,
                   struct secret **ret_opts, struct err *e);

#endif

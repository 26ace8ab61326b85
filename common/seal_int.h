/* What the files of the sealed stream share and nobody else needs. */
#ifndef COFFER_SEAL_INT_H
#define COFFER_SEAL_INT_H

#include "common/seal.h"

#define SEAL_AES256GCM "AES-256-GCM"
#define SEAL_CHACHA20POLY1305 "ChaCha20-Poly1305"

/* Writes all of it, through short writes and EINTR. `what` names the output. */
int seal_write_all(int fd, const void *p, size_t n, const char *what, struct err *e);
/* Reads until n bytes are there or the input ends; *ret_n says how many. */
int seal_read_full(int fd, void *p, size_t n, const char *what, size_t *ret_n, struct err *e);

/* sealer_open with the tag apart from the ciphertext; `out` may be where the ciphertext is. */
int sealer_open_apart(struct sealer *s, uint64_t index, int final, struct bytes cipher,
                      const uint8_t tag[SEAL_TAG_BYTES], uint8_t *out, struct err *e);

#endif

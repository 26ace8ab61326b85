/* The sealed stream: chunked AEAD with random access, used for datasets at rest and for results.
 *
 *   "COFFER1\n" | u32be header_bytes | header (JCS JSON) | chunk 0 | chunk 1 | ... | chunk n-1
 *   chunk = AEAD ciphertext of chunk_bytes (the last one: 0..chunk_bytes) | 16-byte tag
 *   key   = HKDF-SHA256(data key, salt = SHA-256(all bytes before chunk 0), info =
 * "coffer/seal/v1") nonce = 00 00 00 | u64be chunk index | u8 (1 for the last chunk, else 0)
 *
 * So a chunk moved, swapped, cut off, added, or taken from another file does not open; and a
 * changed header changes the key. There is always at least one chunk; the last one is full only if
 * the plaintext is a whole number of chunks. (The STREAM construction, Hoang, Reyhanitabar,
 * Rogaway, Vizár 2015, with the chunk index in the open for random access.)
 *
 * Header members: v (1), kind ("dataset"|"result"), cipher ("AES-256-GCM"|"ChaCha20-Poly1305"),
 * chunk_bytes (4096..1048576, power of two), and for datasets: name, form ("file"|"tar"),
 * owner (public JWK), salt (16 random bytes, b64url), key (JWE of the data key to the owner).
 */
#ifndef COFFER_SEAL_H
#define COFFER_SEAL_H

#include "common/jose.h"

#define SEAL_HEADER_MAX_BYTES 8192u
#define SEAL_TAG_BYTES 16u
#define SEAL_CHUNK_DEFAULT_BYTES 65536u
#define SEAL_KEY_BYTES 32u
#define DATASET_ID_MAX 96 /* name (1..63 of [a-z0-9-]) "." 26 base32 digits */

struct seal_header {
    json_t *json;        /* owned; the whole header */
    char *kind, *cipher; /* owned */
    char *name, *form;   /* owned; NULL unless a dataset */
    struct jkey *owner;  /* owned; NULL unless a dataset */
    uint32_t chunk_bytes;
    uint32_t prefix_bytes;       /* magic + length + header: where chunk 0 starts */
    uint8_t salt[32];            /* SHA-256 of the prefix */
    char id[DATASET_ID_MAX + 1]; /* datasets: "<name>.<26 base32 digits of salt>"; else "" */
};

/* Parses magic, length and header from the first bytes of a sealed stream; `in` may hold more.
 * ERR_INVALID / ERR_TOO_LARGE, naming the member. */
int seal_header_parse(struct bytes in, struct seal_header *ret, struct err *e);
void seal_header_done(struct seal_header *h);
/* Composes the prefix bytes of a dataset and its fresh data key. */
int seal_dataset_header_new(const char *name, const char *form, const char *cipher,
                            uint32_t chunk_bytes, const struct jkey *owner, struct buf *ret_prefix,
                            struct secret **ret_key, struct err *e);
int seal_result_header_new(struct buf *ret_prefix, struct secret **ret_key, struct err *e);
/* The data key out of the header's JWE, with the owner's private key. */
int seal_header_open_key(const struct seal_header *h, const struct jkey *owner, struct secret **ret,
                         struct err *e);

/* One direction of one stream; holds the derived key. */
struct sealer;
int sealer_new(const struct seal_header *h, const struct secret *key, struct sealer **ret,
               struct err *e);
/* out must hold plain.n + SEAL_TAG_BYTES. plain.n == chunk_bytes unless final. */
int sealer_seal(struct sealer *s, uint64_t index, int final, struct bytes plain, uint8_t *out,
                struct err *e);
/* out must hold sealed.n - SEAL_TAG_BYTES. ERR_BAD_SIGNATURE names the chunk. */
int sealer_open(struct sealer *s, uint64_t index, int final, struct bytes sealed, uint8_t *out,
                struct err *e);
void sealer_free(struct sealer *s);
DEFINE_CLEANUP(struct sealer *, sealer_free);

/* Random access over a sealed file. Opening checks that the last chunk is final, so a truncated
 * file is refused at once. */
struct seal_reader;
int seal_reader_open(int fd /* borrowed, pread */, const struct secret *key,
                     struct seal_reader **ret, struct err *e);
/* The same of the first `bytes` of something that does not say its size: a block device. */
int seal_reader_open_sized(int fd, uint64_t bytes, const struct secret *key,
                           struct seal_reader **ret, struct err *e);
const struct seal_header *seal_reader_header(const struct seal_reader *r);
uint64_t seal_reader_size(const struct seal_reader *r); /* plaintext bytes */
int seal_reader_fd(const struct seal_reader *r);        /* as given; borrowed */
/* Up to n bytes at offset; *ret_n is short only at the end. */
int seal_reader_pread(struct seal_reader *r, void *out, size_t n, uint64_t offset, size_t *ret_n,
                      struct err *e);
/* Opens `n` chunks from `first` on, for several threads at once: nothing of the reader changes, and
 * each thread brings a sealer of its own (sealer_new with this header). `out` has room for n chunks
 * and nobody else sees it meanwhile, since they are opened in place; *ret_n says how much was
 * written: less than n chunks only at the end. On an error nothing in `out` is to be used. */
int seal_reader_open_chunks(const struct seal_reader *r, struct sealer *own, uint64_t first,
                            size_t n, uint8_t *out, size_t *ret_n, struct err *e);
void seal_reader_free(struct seal_reader *r);
DEFINE_CLEANUP(struct seal_reader *, seal_reader_free);

/* Streams: copies fd to fd, constant memory. What unseal_fd has written before an error is
 * authentic but not the whole: use none of it. ret_plain_bytes may be NULL. */
int seal_fd(const struct buf *prefix, const struct secret *key, int in_fd, int out_fd,
            uint64_t *ret_plain_bytes, struct err *e);
int unseal_fd(struct seal_reader *r, int out_fd, struct err *e);

#define SEAL_TAR_MAX_ENTRIES 1000000u
#define SEAL_TAR_MAX_DEPTH 64u

/* Writes a directory to out_fd as a tar stream (pax) that is the same for the same contents: sorted
 * bytewise by name, no times, no owners, modes reduced to "executable by its owner or not"; used
 * with seal_fd through a pipe. Takes regular files, directories and symlinks; refuses anything
 * else, and a symlink that points out of the directory, by name (ERR_UNSUPPORTED, ERR_DENIED).
 * Follows no symlink. ERR_TOO_LARGE over SEAL_TAR_MAX_ENTRIES or SEAL_TAR_MAX_DEPTH, ERR_IO. */
int seal_tar_dir(const char *dir, int out_fd, struct err *e);
/* Extracts a tar stream of regular files, directories and symlinks into the existing directory
 * `dir`. Refuses, by name, absolute paths, "..", a path through a symlink, a symlink that points
 * out of `dir`, hard links, devices and everything else (ERR_DENIED, ERR_UNSUPPORTED, ERR_INVALID);
 * ERR_TOO_LARGE over max_bytes of file contents or max_files entries. After an error `dir` holds a
 * part of the stream and must not be used. */
int seal_untar(int in_fd, const char *dir, uint64_t max_bytes, uint64_t max_files, struct err *e);

#endif

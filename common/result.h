/* A result on its way from the worker to the gate: manifest, box, fingerprints (docs/PROTOCOL.md,
 * "Results"). What the one writes and the other reads is defined here once. */
#ifndef COFFER_RESULT_H
#define COFFER_RESULT_H

#include <openssl/evp.h>

#include "common/area.h"
#include "common/seal.h"
#include "common/spec.h"

#define RESULT_CHUNK_BYTES (256u * 1024)
#define RESULT_MAX_CHUNKS 4096u
#define RESULT_MANIFEST_TYP "coffer-result+jws"
#define RESULT_MANIFEST_MAX_BYTES (512u * 1024)
#define RESULT_BOX_MAX_BYTES (128u * 1024)
#define RESULT_EAR_MAX_BYTES (128u * 1024)

#define FP_WINDOW 16u
#define FP_BYTES 8u
#define FP_SALT_BYTES 16u
/* Fingerprints sent at most: 16 MiB of distinct verbatim blocks, far beyond what any score needs.
 */
#define FP_MAX_COUNT (1u << 20)

/* ---- manifest ---- */

struct result_manifest {
    json_t *json;                 /* owned */
    const char *job, *ear, *spec; /* borrowed from json */
    const char *sha256;           /* 64 lower-case hex digits; borrowed */
    int64_t attempt;
    int ok; /* outcome */
    uint32_t chunks;
    uint64_t bytes;
    uint8_t (*chunk_sha256)[32]; /* owned; `chunks` of them */
    json_t *box;                 /* borrowed */
};

/* From a JWS's payload. Strict: all members, no others; chunks, bytes and chunk_sha256 agree; a
 * failed one has no chunks. Refusals name "result.<member>"; ERR_INVALID, ERR_TOO_LARGE (bytes >
 * max_bytes). */
int result_manifest_parse(struct bytes payload, uint64_t max_bytes, struct result_manifest *ret,
                          struct err *e);
void result_manifest_done(struct result_manifest *m);
/* The payload of a compact JWS, before any signature is checked: the EAR inside names the key to
 * check it with. Nothing else may be done with it. */
int result_manifest_peek(const char *jws, struct buf *ret_payload, struct err *e);
/* The digests of the sealed bytes, cut into chunks; ret is a new JSON object with "chunks",
 * "bytes", "sha256", "chunk_sha256". */
json_t *result_digests(struct bytes sealed);
/* How many bytes chunk `index` of a result of `bytes` has; 0 when there is none. */
size_t result_chunk_bytes(uint64_t bytes, uint32_t index);

/* ---- box ---- */

struct result_file {
    const char *path, *type; /* borrowed from the box's json */
    uint64_t bytes;
};

struct result_box {
    json_t *json; /* owned */
    const char *job,
        *tee; /* whose it is: job id and the TEE key's thumbprint; borrowed from json */
    int64_t attempt;
    struct secret *key; /* owned; NULL when the workload failed before there was one */
    struct result_file files[SPEC_MAX_FILES];
    size_t n_files;
    int64_t exit_code;
    struct err refusal; /* code ERR_NONE when there is none */
    int limits_enforced;
    uint8_t fp_salt[FP_SALT_BYTES];
    uint64_t fp_count, fp_total, fp_input_bytes;
};

/* From the JWE's plaintext. Refusals name "box.<member>"; ERR_INVALID, ERR_TOO_LARGE. */
int result_box_parse(struct bytes plain, struct result_box *ret, struct err *e);
void result_box_done(struct result_box *b);
/* {"code","clause","expected","actual","message"}, and back (unknown codes become ERR_INTERNAL). */
json_t *result_refusal_json(const struct err *why);
int result_refusal_parse(const json_t *j, struct err *ret, struct err *e);

/* ---- fingerprints and digests ---- */

struct fp_hasher {
    EVP_MD_CTX *ctx;
    uint8_t salt[FP_SALT_BYTES];
};
int fp_hasher_init(struct fp_hasher *h, const uint8_t salt[FP_SALT_BYTES], struct err *e);
/* First 8 bytes of SHA-256(salt | block), as they stand, in native order: compare only. */
int fp_hash(struct fp_hasher *h, const uint8_t block[FP_WINDOW], uint64_t *ret, struct err *e);
void fp_hasher_done(struct fp_hasher *h);

/* "hmac" of a released file: hex HMAC-SHA256(data key, "coffer/file/v1" | bytes). */
int result_file_hmac(const struct secret *data_key, struct bytes content, char ret_hex[65],
                     struct err *e);

/* ---- the sealed stream in memory ---- */

/* Seals `plain` as a stream of kind result with a fresh key. *ret holds the whole stream. */
int result_seal(struct bytes plain, struct buf *ret, struct secret **ret_key, struct err *e);
/* Opens a whole stream of kind result. ERR_BAD_SIGNATURE, ERR_INVALID. */
int result_open(struct bytes sealed, const struct secret *key, struct area **ret, struct err *e);

#endif

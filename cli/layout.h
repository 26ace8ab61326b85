/* OCI image layouts (image-spec v1.1, image-layout.md), read only as far as the command needs:
 * which manifest, which blobs, wrapped with which keys. Nothing is decrypted here. */
#ifndef COFFER_CLI_LAYOUT_H
#define COFFER_CLI_LAYOUT_H

#include <jansson.h>

#include "cli/cli.h"
#include "common/buf.h"

#define LAYOUT_JSON_MAX_BYTES (1u << 20)
#define LAYOUT_LAYERS_MAX 256
#define LAYOUT_DIGEST_CHARS 71 /* "sha256:" and 64 hex digits */

/* "dir" or "dir:tag"; the caller frees both, *ret_tag may be NULL. ERR_NOT_FOUND. */
int layout_split(const char *arg, char **ret_dir, char **ret_tag, struct err *e);
/* The digest that index.json gives the tag; without a tag there must be one image. ERR_NOT_FOUND,
 * ERR_INVALID. */
int layout_find(const char *dir, const char *tag, char ret[LAYOUT_DIGEST_CHARS + 1], struct err *e);

struct image_info {
    struct strings blobs;   /* digests of all blobs: manifests first, then config and layers */
    struct strings key_ids; /* distinct, in order of appearance */
    size_t n_manifests;     /* how many of the blobs are manifests or indexes */
    size_t layers, encrypted;
    uint64_t bytes; /* of config and layers, as their descriptors say */
};
/* From <dir>/blobs/sha256. Manifests are checked against their digests; of an index, the one for
 * linux/amd64 counts. ERR_NOT_FOUND (a blob), ERR_BAD_SIGNATURE (a digest does not hold),
 * ERR_INVALID, ERR_UNSUPPORTED, ERR_TOO_LARGE. */
int image_info_load(const char *dir, const char *digest, struct image_info *ret, struct err *e);
/* The part that parses one manifest: appends to `ret`. */
int image_manifest_parse(struct bytes text, struct image_info *ret, struct err *e);
void image_info_done(struct image_info *i);

/* Checks a blob's bytes against its digest. ERR_NOT_FOUND, ERR_BAD_SIGNATURE, ERR_IO. */
int layout_blob_check(const char *dir, const char *digest, uint64_t *ret_bytes, struct err *e);

#endif

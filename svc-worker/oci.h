/* Encrypted OCI images: from a pool of blobs to a root filesystem.
 *
 * Blobs come from blobs.h. Nothing of them is trusted: the manifest is checked against the digest
 * the caller names, and everything else against the manifest. (OCI image-spec v1.1, manifest.md,
 * config.md, layer.md; the encryption of layers is that of containers/ocicrypt, with keys wrapped
 * as common/keywrap.h says.)
 */
#ifndef COFFER_OCI_H
#define COFFER_OCI_H

#include "common/secret.h"
#include "svc-worker/blobs.h"

#define OCI_JSON_MAX_BYTES (1u << 20) /* manifest, index or config */
#define OCI_LAYERS_MAX 256u
#define OCI_LAYER_PACKETS_MAX 32u /* wrapped keys of one layer */
#define OCI_STRINGS_MAX 4096u     /* of one list in the config */

/* The keys of an image, by id. All borrowed. */
struct oci_key {
    const char *kid;
    const struct secret *kek; /* 32 bytes */
};

struct oci_keys {
    const struct oci_key *v;
    size_t n;
};

/* What the image says about its process. The lists end with NULL and may be empty; nothing is NULL.
 */
struct oci_config {
    char **entrypoint;
    char **cmd;
    char **env;        /* each NAME=value, NAME not empty */
    char *working_dir; /* absolute, without ".."; "/" when the image has none */
    char *user;        /* as the image has it; "" when it has none */
};

struct oci_image;

/* Reads and checks the manifest, its config and the descriptors of its layers; no layer is read.
 * `store` is borrowed, as long as the image lives. manifest_digest is
 * "sha256:<64 hex>"; if it is an image index (manifest list), it must have exactly one manifest for
 * linux/amd64, which is then taken. A layer that is not encrypted is refused unless allow_plain.
 * ERR_INVALID naming the member, ERR_NOT_FOUND (a blob), ERR_BAD_SIGNATURE (a digest does not
 * hold), ERR_DENIED (plain layer), ERR_UNSUPPORTED (media type, platform), ERR_TOO_LARGE, ERR_IO.
 */
int oci_image_open(const struct blobs *store, const char *manifest_digest, int allow_plain,
                   struct oci_image **ret, struct err *e);
void oci_image_free(struct oci_image *img);
DEFINE_CLEANUP(struct oci_image *, oci_image_free);

/* The distinct ids of the keys that wrap layer keys, in order of first appearance. For each layer
 * any one of its keys is enough. i < oci_image_n_keys; borrowed. */
size_t oci_image_n_keys(const struct oci_image *img);
const char *oci_image_key_id(const struct oci_image *img, size_t i);

/* Borrowed from the image. */
const struct oci_config *oci_image_config(const struct oci_image *img);

/* Unpacks all layers into the existing, empty directory rootfs_dir.
 *
 * Each layer is read once, from its blob to its files: it is hashed, decrypted, decompressed,
 * hashed again and unpacked as it flows. Whether its digest, its HMAC and the digest of the
 * uncompressed tar (diff_id) hold is known at its end only. So: after any error rootfs_dir holds a
 * part that MUST NOT be used, and is to be removed. When the blob itself is not what the manifest
 * names, the error says that, whatever the unpacker made of it.
 *
 * Paths never leave rootfs_dir; devices are refused; set-id bits, owners and extended attributes
 * are dropped (common/untar.h). max_bytes bounds all file contents together, max_files the entries.
 * keys may be NULL for an image of plain layers.
 * ERR_NOT_FOUND (a blob, or none of a layer's keys was given), ERR_BAD_SIGNATURE (digest, HMAC,
 * diff_id, or a key that does not open), ERR_INVALID, ERR_UNSUPPORTED, ERR_DENIED, ERR_TOO_LARGE,
 * ERR_IO; messages name the layer. */
int oci_image_unpack(struct oci_image *img, const struct oci_keys *keys, const char *rootfs_dir,
                     uint64_t max_bytes, uint64_t max_files, struct err *e);

#endif

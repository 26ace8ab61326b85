/* Where a job's ciphertext comes from: sealed datasets, and the blobs of its image.
 *
 * Outside of a VM that is a store directory: datasets/<id>.coffer, blobs/sha256/<hex>. In a VM it
 * is a set of read-only disks (LaunchConfig.disks): one for each dataset, one for each layer, and
 * one "pack", a tar with the image's JSON documents, each named with its 64 hexadecimal digits. A
 * disk is found by its serial number in /sys/block; how long the file on it is says the host.
 *
 * Nothing here is trusted or checked beyond its size: whoever reads compares digests and tags.
 */
#ifndef COFFER_SVC_WORKER_BLOBS_H
#define COFFER_SVC_WORKER_BLOBS_H

#include "common/buf.h"
#include "proto/coffer.pb-c.h"

/* An image has an index, a manifest and a config, each of at most 1 MiB. */
#define BLOBS_PACK_MAX_BYTES (4u << 20)

struct blobs;

/* As the launch configuration says: its disks if it has any, else its store_path. `c` is borrowed
 * as long as the result. ERR_IO, and as blobs_open_disks. */
int blobs_open(const Coffer__V1__LaunchConfig *c, struct blobs **ret, struct err *e);
/* A store directory. ERR_NOT_FOUND, ERR_IO. */
int blobs_open_dir(const char *path, struct blobs **ret, struct err *e);
/* Disks, borrowed; sys_block and dev are "/sys/block" and "/dev" but in tests. Every disk must be
 * there and hold as many bytes as it is said to. Refusals name "launch.disks[i].<member>":
 * ERR_INVALID, ERR_NOT_FOUND, ERR_TOO_LARGE (pack), ERR_IO. */
int blobs_open_disks(Coffer__V1__VmDisk *const *disks, size_t n, const char *sys_block,
                     const char *dev, struct blobs **ret, struct err *e);
void blobs_free(struct blobs *b);
DEFINE_CLEANUP(struct blobs *, blobs_free);
#define _cleanup_blobs_ _cleanup_(blobs_freep)

/* The sealed file of a dataset, for pread(2), and how many bytes of it count: a disk has more. The
 * caller closes it. ERR_NOT_FOUND, ERR_INVALID (not an id, not a regular file), ERR_IO. */
int blobs_dataset(const struct blobs *b, const char *id, int *ret_fd, uint64_t *ret_bytes,
                  struct err *e);
/* The same for a layer, which must have exactly `size` bytes: else ERR_BAD_SIGNATURE. `hex` is 64
 * lower-case digits. */
int blobs_layer(const struct blobs *b, const char *hex, uint64_t size, int *ret_fd, struct err *e);
/* A whole JSON document. `size` may be UINT64_MAX: then any up to max_bytes. The bytes are
 * appended to *ret, an empty buffer with a cap of at least max_bytes. ERR_NOT_FOUND,
 * ERR_BAD_SIGNATURE (another size), ERR_TOO_LARGE, ERR_INVALID, ERR_IO. */
int blobs_document(const struct blobs *b, const char *hex, uint64_t size, size_t max_bytes,
                   struct buf *ret, struct err *e);

/* The path of the disk for scratch, borrowed, and how many bytes it is said to have; NULL where
 * there is none. Nothing has opened it. */
const char *blobs_scratch(const struct blobs *b, uint64_t *ret_bytes);

/* The content of the regular file `name` in a ustar archive; borrowed from `pack`. ERR_NOT_FOUND,
 * ERR_INVALID. */
int blobs_pack_find(struct bytes pack, const char *name, struct bytes *ret, struct err *e);

#endif

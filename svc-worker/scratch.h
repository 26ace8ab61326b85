/* Room for a job to write to, on a disk that the host lends (docs/vm.md, "Scratch").
 *
 *     container ── ext4 ── dm-crypt ── dm-integrity ── virtio-blk "s0" ── a file of the host
 *
 * Each block of 4 KiB is encrypted, and authenticated together with its place, with AES-256-GCM
 * under a fresh random nonce each time it is written. The key is made here, given to the kernel,
 * and wiped; it is nowhere else, and gone when scratch_done() or the VM's end removes the device.
 * So the host sees which blocks are read and written, and nothing of what is in them; what
 * it changes, or moves to another place, reads as an error. It can bring back what it has seen in
 * the same place before. */
#ifndef COFFER_SVC_WORKER_SCRATCH_H
#define COFFER_SVC_WORKER_SCRATCH_H

#include "svc-worker/dm.h"

#define SCRATCH_MKFS "/usr/sbin/mke2fs"

struct scratch {
    struct dm tags, crypt;
    char *dir; /* owned; where it is mounted */
    int mounted;
};
#define SCRATCH_INIT ((struct scratch){.tags = DM_INIT, .crypt = DM_INIT})

/* Makes the disk `device`, of at least `bytes`, an empty file system that belongs to `id` (user and
 * group), and mounts it at `dir` (nosuid, nodev, noexec). `work`: a tmpfs with room for the file
 * system's tables. What was done is in `s` in any case. ERR_INVALID (a disk that is too small),
 * ERR_UNSUPPORTED (no device-mapper, no mke2fs), ERR_IO. */
int scratch_mount(struct scratch *s, const char *device, uint64_t bytes, const char *work,
                  const char *dir, uint32_t id, struct err *e);
/* Takes it all down. What was not yet written never will be. */
void scratch_done(struct scratch *s);

/* ---- for tests ------------------------------------------------------------------------------- */

/* How many sectors of 512 bytes dm-integrity has for data, of its status line; whole blocks.
 * ERR_INVALID. */
int scratch_data_sectors(const char *status, uint64_t *ret, struct err *e);
/* dm-crypt's table; `key` has SCRATCH_KEY_BYTES. */
#define SCRATCH_KEY_BYTES 32u
void scratch_crypt_table(const uint8_t key[SCRATCH_KEY_BYTES], dev_t under,
                         char ret[DM_PARAMS_MAX_BYTES]);
/* Makes an ext4 of `bytes` in the new file `image`: sparse, every block that ext4 will read before
 * it wrote it is written. ERR_UNSUPPORTED, ERR_IO with mke2fs's words. */
int scratch_make_image(const char *image, uint64_t bytes, uint32_t id, struct err *e);
/* Writes what is not a hole of `image` to the same places of `device`. ERR_IO. */
int scratch_copy_image(const char *image, const char *device, struct err *e);

#endif

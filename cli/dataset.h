/* Sealed datasets as files, and grants. */
#ifndef COFFER_CLI_DATASET_H
#define COFFER_CLI_DATASET_H

#include "cli/client.h"
#include "common/seal.h"

/* Seals a file or directory into `out_path`. `name` NULL: from the path. ret_id: DATASET_ID_MAX + 1
 * bytes. */
struct seal_ask {
    const char *path, *out_path, *name, *cipher;
    uint32_t chunk_bytes;
    int force;
};
int dataset_seal(const struct seal_ask *a, const struct jkey *owner, char *ret_id,
                 uint64_t *ret_plain_bytes, struct err *e);
/* Opens into a file, or a directory that is made, both only when the whole of it is genuine. */
int dataset_unseal(const char *path, const struct jkey *owner, const char *out_path, int force,
                   uint64_t *ret_plain_bytes, struct err *e);
/* A dataset's name from a path's last component: lower case, others than [a-z0-9-] as '-'. */
char *dataset_name_from(const char *path);
/* Opens a sealed dataset and reads its header. ret_prefix may be NULL. ERR_INVALID when it is none.
 */
int dataset_open(const char *path, int *ret_fd, struct seal_header *ret, struct buf *ret_prefix,
                 struct err *e);
/* The size of what is in it, from the file's size. ERR_INVALID when it is cut off. */
int dataset_plain_bytes(int fd, const struct seal_header *h, uint64_t *ret, struct err *e);

/* Shared by `dataset grant` and `image grant`: signs a grant for `secret` from the options and
 * sends it. The result is an exit code. `uploaded`: the key was sent before, which is said as well.
 */
int grant_put(struct cli *c, const char *secret, const char *uploaded);
/* The grant's payload from the options; new reference. */
json_t *grant_compose(struct cli *c, const char *secret, const struct jkey *own, int64_t now_s,
                      struct err *e);

#endif

/* Extraction of tar streams that nobody vouches for: the shared core of seal_untar and of the OCI
 * layers. Nothing is ever created, opened, changed or removed outside of the root directory: every
 * path is resolved by openat2(2) below it, the last component is never followed, and a name that is
 * there already is removed before it is created anew. Only directories, regular files, symlinks and
 * (in layers) hard links are made; set-id bits, owners, devices and extended attributes never are.
 */
#ifndef COFFER_UNTAR_H
#define COFFER_UNTAR_H

#include <archive.h>

#include "common/err.h"

#define UNTAR_NAME_MAX_BYTES 4096u
#define UNTAR_DEPTH_MAX 128u

enum untar_rules {
    /* A dataset: no hard links, no path through a symlink, no name twice, and no symlink that
     * points out of the directory. */
    UNTAR_DATASET,
    /* A layer of an OCI image (image-spec layer.md): on top of the layers before, with whiteouts;
     * symlinks are resolved as if the root directory were "/". */
    UNTAR_LAYER,
};

struct untar;

/* `dir` exists. max_bytes bounds the contents of all files together, max_files the entries and the
 * directories made for them, both over all layers. ERR_IO. */
int untar_new(const char *dir, enum untar_rules rules, uint64_t max_bytes, uint64_t max_files,
              struct untar **ret, struct err *e);
void untar_free(struct untar *u);
DEFINE_CLEANUP(struct untar *, untar_free);

/* A reader of the tar format and nothing else, not yet opened; archive_read_free it. */
struct archive *untar_archive_new(void);
/* Extracts all entries of an opened reader; each call is a layer. After an error the directory
 * holds a part and must not be used. ERR_INVALID, ERR_DENIED, ERR_UNSUPPORTED, ERR_TOO_LARGE,
 * ERR_IO, all naming the entry. When a callback of the reader failed, the error is ERR_INVALID with
 * the reader's text: the callback's owner knows better. */
int untar_archive(struct untar *u, struct archive *a, struct err *e);

/* Whether a symlink at depth `parents` below a root can only ever lead below that root: it is
 * relative, climbs at its start only, and not above the root. */
int untar_symlink_stays(const char *target, unsigned parents);

#endif

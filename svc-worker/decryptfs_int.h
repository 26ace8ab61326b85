/* What the parts of DecryptFS share with each other and their tests. */
#ifndef COFFER_SVC_WORKER_DECRYPTFS_INT_H
#define COFFER_SVC_WORKER_DECRYPTFS_INT_H

#include <sys/types.h>

#include "common/area.h"
#include "svc-worker/decryptfs.h"

/* --- decryptfs_tar.c: the headers of a tar stream --- */

/* Where plaintext is read from. */
struct dfs_source {
    uint64_t bytes;
    /* Exactly n bytes at offset, all of them below `bytes`. */
    int (*read)(void *arg, void *out, size_t n, uint64_t offset, struct err *e);
    void *arg;
};

struct dfs_tar_entry {
    char type; /* '0' file, '5' directory, '2' symlink */
    const char *name, *target;
    mode_t mode;
    uint64_t offset, bytes; /* of a file's content in the stream */
};

/* Calls `add` for each entry; what it gets is borrowed. Takes ustar, pax and GNU long names;
 * anything but files, directories and symlinks is refused. ERR_INVALID, ERR_UNSUPPORTED,
 * ERR_TOO_LARGE, and the source's and add's errors. */
int dfs_tar_scan(const struct dfs_source *src, uint64_t max_entries,
                 int (*add)(void *arg, const struct dfs_tar_entry *entry, struct err *e), void *arg,
                 struct err *e);

/* --- decryptfs_index.c: the tree --- */

enum dfs_kind { DFS_FILE, DFS_DIR, DFS_LINK };

#define DFS_NONE UINT32_MAX

struct dfs_node {
    uint64_t offset, bytes; /* DFS_FILE: content in the stream. DFS_LINK: bytes of the target */
    uint32_t name, target;  /* into the names */
    uint32_t parent, child, last, next;
    uint32_t subdirs;
    uint16_t mode; /* permission bits */
    uint8_t kind;
};

struct dfs_index;
/* Node 0 is the root: a file of so many bytes. */
struct dfs_index *dfs_index_file(uint64_t bytes);
/* Node 0 is the root directory. Refuses what seal_untar refuses (ERR_DENIED, ERR_INVALID,
 * ERR_UNSUPPORTED, ERR_TOO_LARGE, naming the entry), and sparse files. */
int dfs_index_tar(const struct dfs_source *src, uint64_t max_entries, struct dfs_index **ret,
                  struct err *e);
void dfs_index_free(struct dfs_index *ix);
DEFINE_CLEANUP(struct dfs_index *, dfs_index_free);
uint32_t dfs_index_n(const struct dfs_index *ix);
const struct dfs_node *dfs_index_node(const struct dfs_index *ix, uint32_t i); /* i < n */
const char *dfs_index_name(const struct dfs_index *ix, uint32_t i);
const char *dfs_index_target(const struct dfs_index *ix, uint32_t i);
/* DFS_NONE when there is none. */
uint32_t dfs_index_lookup(const struct dfs_index *ix, uint32_t parent, const char *name);

/* --- decryptfs_cache.c: chunks --- */

struct dfs_cache;

/* What one thread needs to read. */
struct dfs_reader {
    struct dfs_cache *cache; /* borrowed */
    struct sealer **sealers; /* borrowed; one for each dataset */
};

/* Sealers are made before the fork, since keys do not pass it. */
int dfs_sealers_new(const struct dfs_dataset *v, size_t n, struct sealer ***ret, struct err *e);
void dfs_sealers_free(struct sealer **s, size_t n);

/* v is borrowed. `readers` is how many threads will read at once. ERR_BUSY (memory). */
int dfs_cache_new(const struct dfs_dataset *v, size_t n, unsigned readers, struct dfs_cache **ret,
                  struct err *e);
void dfs_cache_free(struct dfs_cache *c);
DEFINE_CLEANUP(struct dfs_cache *, dfs_cache_free);

/* Exactly n bytes of a dataset's plaintext at offset; the range is in it. Whole chunks are opened
 * right into `out`; parts of chunks come from the cache. *ret_part (may be NULL): the number of a
 * chunk of which only a part was asked for, or UINT64_MAX. Errors: seal_reader_open_chunks. */
int dfs_read(struct dfs_reader *r, size_t dataset, void *out, size_t n, uint64_t offset,
             uint64_t *ret_part, struct err *e);
/* The chunk, pinned in the cache until dfs_release of the slot. Each thread pins one at a time. */
int dfs_pin(struct dfs_reader *r, size_t dataset, uint64_t chunk, const uint8_t **ret,
            size_t *ret_n, unsigned *ret_slot, struct err *e);
void dfs_release(struct dfs_cache *c, unsigned slot);

/* --- decryptfs_lock.c --- */

/* Leaves the process, all its threads, no system calls but those it serves with. -1: not possible.
 */
int dfs_lock_down(void);

/* --- decryptfs_fuse.c: in the process --- */

/* Besides options.threads: one for long reads, and the filler. */
#define DFS_MORE_THREADS 2u

struct dfs_server {
    const struct dfs_dataset *v;
    struct dfs_index **indexes;
    size_t n;
    struct sealer ***sealers; /* of each of the threads, and of DFS_MORE_THREADS */
    struct dfs_options options;
    int fuse_fd, report_fd;
};

/* What is written to report_fd, once, whole (it is smaller than PIPE_BUF). */
struct dfs_report {
    size_t dataset;
    struct err why;
};

/* The size of the kernel's requests that mount(2) and the session must agree on. */
#define DFS_READ_MAX_DEFAULT (256u << 10)
#define DFS_READ_MAX_LIMIT (1u << 20)

/* Serves until the mount is gone. Returns what the process ends with. */
int dfs_serve(struct dfs_server *s);

#endif

/* DecryptFS: sealed datasets as a read-only file system, decrypted chunk by chunk as they are read.
 *
 * A process of its own, forked by the runner, answers the kernel (libfuse3's low-level interface).
 * The mount has one name for each dataset, "0", "1", ...: a file, or for a tar stream the directory
 * tree in it. Plaintext lives in that process's bounded cache and in the kernel's page cache, never
 * on a disk; a dataset may be larger than memory. The ciphertext is only ever read.
 *
 * A chunk that does not open is EIO to whoever reads it, and the process says so to the runner,
 * which ends the container: dfs_failure().
 */
#ifndef COFFER_SVC_WORKER_DECRYPTFS_H
#define COFFER_SVC_WORKER_DECRYPTFS_H

#include "common/seal.h"

#define DFS_MAX_ENTRIES 400000u        /* of one dataset */
#define DFS_MAX_NAME_BYTES (64u << 20) /* all names and symlinks of one dataset */
#define DFS_MAX_DATASETS 64u
#define DFS_MAX_THREADS 8u

struct dfs_dataset {
    struct seal_reader *reader; /* borrowed; forked, so it stays the caller's */
    const struct secret *key;   /* borrowed */
};

struct dfs_options {
    unsigned threads;        /* 0: as many as processors, 2 to DFS_MAX_THREADS; one more helps
                                with long reads */
    uint32_t read_max_bytes; /* of one request of the kernel; 0: the default */
    uint32_t read_ahead_kib; /* 0: 1024 */
    int no_fill;             /* do not put the rest of a chunk into the page cache */
};

/* What is wrong with which dataset. */
struct dfs_fault {
    size_t dataset; /* SIZE_MAX: with none of them */
    int chunk;      /* its chunks cannot be opened; else its tar stream cannot be shown */
};

struct dfs;

/* Whether this machine has a FUSE device that can be opened. */
int dfs_available(void);
/* Mounts at `dir`, an existing directory, in the caller's mount namespace, with MS_NOSUID, MS_NODEV
 * and MS_NOEXEC, and starts the process. The caller has one thread and may mount. `o` may be NULL.
 * After an error *ret_fault says whose it is. ERR_UNSUPPORTED with dataset SIZE_MAX: FUSE cannot be
 * used here. Else as seal_untar and seal_reader_pread say, and ERR_IO. */
int dfs_start(const struct dfs_dataset *v, size_t n, const char *dir, const struct dfs_options *o,
              struct dfs **ret, struct dfs_fault *ret_fault, struct err *e);
/* Becomes readable (or hangs up) when a chunk did not open or the process ended: then the run is
 * over. */
int dfs_fd(const struct dfs *d);
/* 0: all is well. 1: *ret_fault and *why; a fault with dataset SIZE_MAX: the process is gone. */
int dfs_failure(struct dfs *d, struct dfs_fault *ret_fault, struct err *why);
/* Unmounts (also while it is in use elsewhere), ends and reaps the process. NULL is fine. */
void dfs_stop(struct dfs *d);
DEFINE_CLEANUP(struct dfs *, dfs_stop);

#endif

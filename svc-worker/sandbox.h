/* Runs one prepared root file system under crun, sealed off from the world (docs/isolation.md).
 *
 * Who calls what. The worker forks a child of its own, the runner, single-threaded and as root:
 *
 *     sandbox_prepare_private()   its own mount namespace with one bounded tmpfs for all plaintext
 *     ... image, datasets are unpacked below that tmpfs ...
 *     sandbox_run()               starts, watches and ends the container
 *     sandbox_collect_open()      reads the declared outputs, once the container is gone
 *     _exit()                     the namespace, and with it every plaintext byte, vanishes
 *
 * Between the runner and crun stands the keeper: first process of a pid, mount, network, ipc and
 * uts namespace of its own. It sees a root of its own with nothing of the host but its programs,
 * read-only, and it is killed by the kernel when the runner dies, and with it everything in its pid
 * namespace. So no process and no mount survives the runner, however that ends; cgroup directories
 * may, and sandbox_cleanup_stale() removes those.
 *
 * Isolation is all or nothing: what cannot be established is ERR_UNSUPPORTED, and nothing has run.
 * The one exception is resource limits by cgroup, which some hosts do not offer; then rlimits stand
 * in, and the result says so.
 */
#ifndef COFFER_SVC_WORKER_SANDBOX_H
#define COFFER_SVC_WORKER_SANDBOX_H

#include <stdint.h>

#include "common/err.h"

/* The container's ids 0..65535 are these on the host: nobody's, and never root's. */
#define SANDBOX_ID_BASE 1900000000u
#define SANDBOX_ID_COUNT 65536u
/* What the workload runs as inside, unless the configuration says otherwise. */
#define SANDBOX_UID 65532u
#define SANDBOX_ID_MAX 64 /* length of sandbox_config.id */
#define SANDBOX_MAX_MOUNTS 64
#define SANDBOX_MAX_ARGS 512
#define SANDBOX_MAX_ENV 512
#define SANDBOX_STDIO_BYTES (4u << 20) /* stdout and stderr together */
#define SANDBOX_SHM_BYTES (16u << 20)
/* Names of the captured streams, below sandbox_config.work_dir. */
#define SANDBOX_STDIO_DIR "stdio"
#define SANDBOX_STDOUT SANDBOX_STDIO_DIR "/stdout"
#define SANDBOX_STDERR SANDBOX_STDIO_DIR "/stderr"
/* Every cgroup the sandbox makes is named with this and the id. */
#define SANDBOX_CGROUP_PREFIX "coffer-box-"

enum sandbox_cgroup_mode { SANDBOX_CGROUP_NONE, SANDBOX_CGROUP_V1, SANDBOX_CGROUP_V2 };

/* What this host can do. */
struct sandbox_probe {
    char crun_path[64];
    char crun_version[32];
    enum sandbox_cgroup_mode cgroup; /* where the memory limit would come from */
    int cgroup_memory, cgroup_pids, cgroup_cpu;
    int swap_on;      /* some swap device is in use */
    int tmpfs_noswap; /* tmpfs can be kept out of swap (Linux 6.4) */
};

/* Tries out, in a child, the namespaces and mounts a sandbox needs, and a cgroup of each kind.
 * ERR_UNSUPPORTED names what is missing; missing cgroups are not an error. */
int sandbox_probe(struct sandbox_probe *ret, struct err *e);
/* "v2", "v1", "none". */
const char *sandbox_cgroup_mode_name(enum sandbox_cgroup_mode mode);

struct sandbox_private {
    const char *work_dir; /* an existing directory; the tmpfs is mounted over it */
    uint64_t bytes;       /* bound of rootfs and datasets together; > 0 */
    uint64_t inodes;      /* bound of the number of files; 0: 262144 */
    /* Whether plaintext may reach swap, where the kernel cannot keep tmpfs out of it. Only for
     * workers whose evidence promises nothing. */
    int allow_swap;
};

/* To be called once, in the runner: enters a mount namespace that shares nothing with the host's,
 * mounts the tmpfs (mode 0711, nosuid, nodev, noswap where the kernel knows it), and forbids core
 * dumps and tracing of the runner. Changes nothing outside of the calling process.
 * ERR_UNSUPPORTED (no namespaces; swap on, no noswap and not allow_swap), ERR_INVALID, ERR_IO. */
int sandbox_prepare_private(const struct sandbox_private *p, struct err *e);

/* A dataset, or scratch: bound nosuid, nodev, noexec. */
struct sandbox_mount {
    const char *source; /* file or directory below work_dir; others must be allowed to read it */
    const char *target; /* absolute path in the container, made if missing */
    uint64_t writable_bytes; /* files in it may become so large; 0: it is bound read-only */
};

struct sandbox_config {
    const char *work_dir; /* as prepared */
    const char *rootfs;   /* directory below work_dir; mount points are made in it */
    const char *id;       /* 1..64 of [a-z0-9-]: names the cgroup; unique on the host */
    char *const *args;    /* NULL-terminated; args[0] is looked up in the container's PATH */
    char *const *env;     /* NULL-terminated "NAME=value"; NULL: only PATH */
    const char *workdir;  /* absolute path in the container; NULL: "/" */
    const struct sandbox_mount *mounts;
    size_t n_mounts;
    const char *output_target; /* absolute path in the container; NULL: no output directory */
    const char *output_source; /* empty directory below work_dir; a tmpfs is mounted over it, and
                                * stays mounted for the collector */
    uint32_t uid, gid;         /* inside; 0: SANDBOX_UID, so never root */
    uint64_t memory_bytes;     /* of the processes; > 0. Files in /tmp and the output have their own
                                * bounds, which are added to the cgroup's */
    uint64_t tmp_bytes;        /* bound of /tmp */
    uint64_t output_bytes;     /* bound of the output directory */
    uint32_t pids;             /* processes and threads; > 0 */
    uint32_t cpu_millis;       /* thousandths of a CPU; >= 10 */
    int64_t timeout_ms;        /* wall clock; > 0 */
    int stop_fd;               /* borrowed; when it is readable or hangs up, all of it is killed. 0:
                                * none */
};

struct sandbox_result {
    int exit_code; /* 0..255; 128 + signal when a signal ended it */
    int signal;    /* the signal, or 0 */
    int timed_out;
    int oom_killed;
    int stopped;           /* by stop_fd */
    int limits_enforced;   /* memory, pids and cpu limits were all held by cgroups */
    char limits_note[256]; /* why not, or "" */
    uint64_t wall_ms;
};

/* Runs the container to its end. 0 also when the workload failed: see `ret`. On return no process,
 * mount (but the output's) or cgroup of it is left.
 * ERR_INVALID: a member of `c` that cannot be, named. ERR_WRONG_STATE: no sandbox_prepare_private()
 * in this process. ERR_UNSUPPORTED: the isolation cannot be established here. ERR_WORKLOAD: args[0]
 * cannot be executed, or the image has a symbolic link where a mount point must be. ERR_IO. */
int sandbox_run(const struct sandbox_config *c, struct sandbox_result *ret, struct err *e);

/* Opens a regular file that the workload left below `dir_fd`, for reading. Never follows a symbolic
 * link, never leaves the directory or its file system, never blocks on a FIFO.
 * ERR_NOT_FOUND; ERR_DENIED (link, other file system, not a regular file, path leaving the
 * directory); ERR_TOO_LARGE (more than max_bytes); ERR_IO. To be used when the container has ended.
 */
int sandbox_collect_open(int dir_fd, const char *relpath, uint64_t max_bytes, int *ret_fd,
                         uint64_t *ret_bytes, struct err *e);

/* Removes the empty cgroups named SANDBOX_CGROUP_PREFIX + id_prefix + ..., left by runners that
 * were killed; those with live processes are left alone. *ret_n (may be NULL): how many. ERR_IO. */
int sandbox_cleanup_stale(const char *id_prefix, size_t *ret_n, struct err *e);

#endif

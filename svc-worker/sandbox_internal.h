/* What the parts of the sandbox share with each other and their tests; nobody else's. */
#ifndef COFFER_SVC_WORKER_SANDBOX_INTERNAL_H
#define COFFER_SVC_WORKER_SANDBOX_INTERNAL_H

#include <jansson.h>

#include "svc-worker/sandbox.h"

/* --- sandbox_cgroup.c --- */

#define BOX_CGROUP_MAX 4 /* memory, pids, cpu, devices: each may be a hierarchy of its own */

struct box_cgroup {
    struct {
        char *path;   /* owned: the directory */
        int procs_fd; /* its cgroup.procs, for joining from inside another root */
    } dirs[BOX_CGROUP_MAX];
    size_t n;
    enum sandbox_cgroup_mode mode;
    int memory, pids, cpu; /* that limit is in force */
    char note[256];        /* why one is not */
};

/* Makes cgroups apart from the caller's and sets the limits of `c`. Never fails for what the host
 * does not offer: then the flags are 0 and the note says why. Release with box_cgroup_done(). */
void box_cgroup_make(const struct sandbox_config *c, struct box_cgroup *ret);
/* Puts the calling process into them. -1 (errno) when one refuses. */
int box_cgroup_join(const struct box_cgroup *g);
/* How many processes the kernel killed for want of memory; 0 when unknown. */
unsigned long box_cgroup_oom_kills(const struct box_cgroup *g);
/* Removes the directories; waits up to a second for the last process to be gone. */
void box_cgroup_done(struct box_cgroup *g);

/* --- sandbox_stage.c: the keeper's root --- */

#define STAGE_ROOTFS "/w/rootfs"
#define STAGE_OUTPUT "/w/out"
#define STAGE_BUNDLE "/w/bundle"
#define STAGE_STATE "/w/state"
#define STAGE_LOG "/w/log"

/* In the runner: makes the container's mount points in the rootfs, the output's tmpfs and the files
 * for stdout and stderr. */
int stage_prepare(const struct sandbox_config *c, struct err *e);
/* In the keeper: builds its root below work_dir and enters it; the host's tree is gone after. */
int stage_enter(const struct sandbox_config *c, struct err *e);
/* "<STAGE inputs>/<i>". */
void stage_input_path(size_t i, char ret[32]);
int stage_loopback_up(struct err *e);
/* mount(2) of a fresh tmpfs; a bound of 0 is made one page, since 0 means unbounded to the kernel.
 */
int stage_mount_tmpfs(const char *target, unsigned long flags, uint64_t bytes, uint64_t inodes,
                      const char *more_options, struct err *e);

/* --- bundle.c --- */

/* ERR_INVALID names the member that cannot be. */
int bundle_check(const struct sandbox_config *c, struct err *e);
/* The OCI runtime configuration; address_limit: whether RLIMIT_AS stands in for a memory cgroup. */
json_t *bundle_config(const struct sandbox_config *c, int address_limit);

/* --- seccomp_table.c --- */

/* The "seccomp" member of the configuration. */
json_t *seccomp_profile(void);

/* --- sandbox_probe.c --- */

/* Where crun is, or NULL. Static. */
const char *box_crun_path(void);
/* fork(2) with namespace flags; the child gets pid 0. *ret_pidfd in the parent. */
int box_clone(unsigned long namespaces, int *ret_pidfd);
#define BOX_KEEPER_NAMESPACES                                                                      \
    (CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)

#endif
